"""A sweep on a minicluster: submitted, watched, and counted at the end."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from support.launches import Answer, rows, until

SLURM_CLI = Path(__file__).with_name("slurm_cli.py")
REPOSITORY = Path(__file__).parents[2]

PROFILE = {"partition": "gpu", "gpus": "gres", "mem_gb_per_gpu": 0.4, "signal_seconds": 60}

CREDENTIAL_SECONDS = 3
"""A job that starts in the same second in which its former start was ended is taken for that one by its nodes."""

FAST = {
    "data": {"name": "synthetic", "images": 64, "test_images": 16, "channels": 1, "height": 8, "width": 8},
    "model": {"name": "convnet", "widths": [4]},
    "epochs": 1,
    "batch_size": 16,
}


class SlurmSweep:
    """One sweep file with its profile in a folder of its own. Its ranks train nothing unless ``real``.

    ``declared`` is what else the file has, as its ``matrix``.
    """

    def __init__(
        self,
        cluster: Any,
        folder: Path,
        *,
        seeds: int = 1,
        resources: dict[str, Any] | None = None,
        fakes: dict[str, Any] | None = None,
        profile: dict[str, Any] | None = None,
        base: dict[str, Any] | None = None,
        real: bool = False,
        name: str = "s",
        declared: dict[str, Any] | None = None,
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.name = name
        self.real = real
        self._waiting_since: dict[tuple[str, ...], float] = {}
        self.path = folder / f"{name}.yaml"
        self.trace = folder / "trace.jsonl"
        self.env = cluster.env | {
            "FAKE_RANKS": json.dumps({"default": fakes or {}}),
            "FAKE_TRACE": str(self.trace),
            "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests",
        }
        self.declared = declared or {}
        self.declare(seeds, resources, base)
        (folder / "profile.yaml").write_text(yaml.safe_dump(PROFILE | (profile or {})))

    def declare(self, seeds: int, resources: dict[str, Any] | None = None, base: dict[str, Any] | None = None) -> None:
        """Write the sweep file."""
        self.resources = {"minutes": 10, **(resources or {})}
        content = {"name": self.name, "base": base or FAST, "seeds": seeds, "resources": self.resources}
        content |= self.declared
        self.path.write_text(json.dumps(content))  # YAML too

    @property
    def runs(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def journal(self) -> list[dict[str, Any]]:
        return rows(self.runs / ".slurm" / "journal.jsonl")

    def command(self, *arguments: object) -> list[str]:
        program = ["-m", "normhpc"] if self.real else [str(SLURM_CLI)]
        return [sys.executable, *program, *map(str, arguments)]

    def sweep_command(self, *options: object) -> list[str]:
        return self.command("sweep", self.path, "--profile", "./profile.yaml", *options)

    def sweep(self, *options: object, env: dict[str, str] | None = None, code: int = 0) -> Answer:
        """``normhpc sweep``; it must end with ``code``."""
        return self.call(self.sweep_command(*options), env=env, code=code)

    def call(self, command: list[str], *, env: dict[str, str] | None = None, code: int = 0) -> Answer:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env | (env or {}), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
        return Answer(done.returncode, done.stdout, done.stderr)

    def background(self, *options: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.sweep_command(*options),
            cwd=self.folder,
            env=self.env | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    # ---- watching ---------------------------------------------------------------------------------------------------

    def queue(self, fields: str = "%i|%T") -> list[list[str]]:
        """Array tasks of this sweep in the queue."""
        command = ("squeue", "--noheader", "--array", f"--format=%j|{fields}")
        for last in (False, False, True):
            # asked thousands of times, a controller once in a while drops a connection
            if not (asked := self.cluster.run(*command, check=last)).returncode:
                break
            time.sleep(1)
        text = asked.stdout
        names = {row["name"] for row in self.journal if row["event"] == "intent"}
        return [line.split("|")[1:] for line in text.splitlines() if line.split("|")[0] in names]

    def release(self) -> None:
        """Let go of jobs that were submitted held."""
        self.cluster.run("scontrol", "release", *self.jobs())

    def jobs(self, *states: str) -> list[str]:
        return [row[0] for row in self.queue() if not states or row[1] in states]

    def wait(self, seconds: float = 90, *, hurry: bool = True) -> float:
        """Until nothing of the sweep is in the queue; a requeued job need not wait for its time. How long it took."""
        began = time.monotonic()
        while queue := self.queue():
            assert time.monotonic() - began < seconds, f"{queue} after {seconds} s\n{self.outputs()}"
            if hurry:
                self.hurry()
            time.sleep(0.3)
        return time.monotonic() - began

    def hurry(self) -> None:
        """Start requeued jobs before their time, but not so soon that their nodes still refuse the old credentials."""
        waiting = [tuple(row) for row in self.queue("%i|%r") if row[1] == "BeginTime"]
        self._waiting_since = {row: self._waiting_since.get(row, time.monotonic()) for row in waiting}
        for row, since in self._waiting_since.items():
            if time.monotonic() - since > CREDENTIAL_SECONDS:
                self.cluster.run("scontrol", "update", f"JobId={row[0]}", "StartTime=now", check=False)

    def until(self, kind: str, count: int = 1, seconds: float = 60) -> float:
        """Until the records have ``count`` events of ``kind``."""
        began = time.monotonic()
        while self.counts()[kind] < count:
            passed = time.monotonic() - began
            assert passed < seconds, f"{self.counts()}, queue {self.queue()}\n{self.outputs()}"
            time.sleep(0.05)
        return time.monotonic() - began

    def until_saved(self, count: int = 1) -> None:
        """Until so many runs have a checkpoint: stopped before, a run starts again and does not go on."""
        until(lambda: len(list(self.runs.glob("*/checkpoint.pt"))) >= count)

    # ---- what came of it --------------------------------------------------------------------------------------------

    def records(self) -> list[Path]:
        return sorted(path.parent for path in self.runs.glob("*/run.json"))

    def events(self, run: Path) -> list[dict[str, Any]]:
        return rows(run / "events.jsonl")

    def counts(self) -> Counter[str]:
        """Events of all runs by kind."""
        return Counter(event["event"] for run in self.records() for event in self.events(run))

    def finished(self) -> Counter[str]:
        """How often each run was finished."""
        return Counter(run.name for run in self.records() for event in self.events(run) if event["event"] == "finished")

    def assert_finished_once(self, runs: int) -> None:
        """No run lost, none doubled."""
        finished = self.finished()
        told = f"{len(finished)} of {runs} finished: {self.counts()}\n{self.journal}\n{self.outputs()}"
        assert len(finished) == runs, told
        assert set(finished.values()) == {1}, told
        assert all((run / "summary.json").exists() for run in self.records()), told

    def submitted_chunks(self) -> Counter[str]:
        """How often each run is in a wave that Slurm has accepted."""
        chunks, waves, accepted = {}, {}, set()
        for row in self.journal:
            if row["event"] == "launch":
                chunks[row["token"]] = row["chunks"]
            elif row["event"] == "intent":
                waves[row["name"]] = row
            elif row["event"] == "accepted":
                accepted.add(row["name"])
        counted: Counter[str] = Counter()
        for name in accepted:
            row = waves[name]
            for chunk in chunks[row["token"]][row["start"] : row["stop"]]:
                counted.update(chunk)
        return counted

    def outputs(self) -> str:
        """What tasks have printed outside of records."""
        return "".join(path.read_text() for path in sorted((self.runs / ".slurm" / "jobs").glob("*.out")))


def wrapper(folder: Path, name: str, script: str, env: dict[str, str]) -> dict[str, str]:
    """An environment in which ``name`` is a shell script; $REAL is the command it stands before."""
    real = next(
        Path(place) / name for place in env.get("PATH", os.defpath).split(os.pathsep) if (Path(place) / name).exists()
    )
    place = folder / f"bin-{name}"
    place.mkdir(exist_ok=True)
    path = place / name
    path.write_text(f"#!/bin/bash\nREAL={real}\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{place}{os.pathsep}{env['PATH']}"}
