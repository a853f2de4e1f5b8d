"""Seconds to submit, pack and watch runs on a Slurm cluster: ``python benchmarks/slurm.py [--runs N] [--packed N]``.

Needs one, best a minicluster that takes ten thousand jobs and has eight processors:

  slurm/minicluster up --cpus 4 --gpus 0 --set MaxJobCount=20000 && eval "$(slurm/minicluster env)"

The runs train nothing: each rank sleeps for a second and seals its record, so what is measured is normhpc and Slurm.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FAKE_RANK = """
import fcntl, json, sys, time
from pathlib import Path
run = Path(sys.argv[1])
def tell(**row):
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), **row}) + "\\n")
tell(event="started", host="bench", at=time.time())
time.sleep(1)
tell(event="finished", at=time.time())
(run / "summary.json").write_text(json.dumps({"state": "finished", "final": {}, "seconds": 1.0}))
"""

CLI = """
import sys
from normhpc import cli
from normhpc.launch.slurm.journal import SubmissionJournal
declare = SubmissionJournal.declare
rank = [sys.executable, sys.argv.pop(1)]
SubmissionJournal.declare = lambda self, *arguments: declare(self, *arguments, command=rank)
cli.main()
"""

MODEL = {"data": {"name": "synthetic", "images": 256}, "model": {"name": "convnet", "widths": [4]}}


def main() -> None:
    """Measure and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="runs to submit (default 10,000)")
    parser.add_argument("--packed", type=int, default=400, help="one-second runs to pack on 8 slots (default 400)")
    parser.add_argument("--partition", help="where to submit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nh-bench-", dir=Path.cwd()) as folder:
        bench = Bench(Path(folder), options.partition)
        bench.submission(options.runs)
        if options.packed:
            packed = bench.one_second_runs(options.packed, "packed", runs_per_job=options.packed // 8)
            alone = bench.one_second_runs(options.packed, "alone", runs_per_job=1)
            print(f"packed is {alone / packed:.1f} times as fast")


class Bench:
    """Sweeps in a folder that goes away, with an sbatch that is counted."""

    def __init__(self, folder: Path, partition: str | None) -> None:
        self.folder = folder
        (folder / "rank.py").write_text(FAKE_RANK)
        (folder / "cli.py").write_text(CLI)
        self.profile = {"gpus": "none", "mem_gb_per_gpu": 0.2} | ({"partition": partition} if partition else {})
        real = shutil.which("sbatch")
        if real is None:
            sys.exit("no Slurm on this machine: sbatch is not on the PATH; see the top of this file")
        counting = folder / "bin" / "sbatch"
        counting.parent.mkdir()
        counting.write_text(f'#!/bin/bash\necho call >>{folder}/calls\nexec {real} "$@"\n')
        counting.chmod(0o755)
        self.env = os.environ | {"PATH": f"{counting.parent}{os.pathsep}{os.environ['PATH']}"}

    def submission(self, runs: int) -> None:
        """Submit held jobs, submit them again, look at them, cancel them."""
        self.declare("many", runs, {"hold": True}, runs_per_job=1)
        self.timed(f"{runs:,} runs submitted", "sweep", "many.yaml", "--profile", "./many.profile.yaml")
        self.timed("the same command again", "sweep", "many.yaml", "--profile", "./many.profile.yaml")
        self.timed(f"status of {runs:,} queued runs", "status", "many.yaml")
        self.timed("cancelled", "cancel", "runs/many")
        for folder in self.seal("many"):
            (folder / "summary.json").write_text(json.dumps({"state": "finished", "final": {}, "seconds": 1.0}))
        self.timed("finished sweep submitted again", "sweep", "many.yaml", "--profile", "./many.profile.yaml")

    def one_second_runs(self, runs: int, name: str, *, runs_per_job: int) -> float:
        """Seconds from the start of the first run to the end of the last."""
        self.declare(name, runs, {}, runs_per_job=runs_per_job)
        self.call("sweep", f"{name}.yaml", "--profile", f"./{name}.profile.yaml", "--follow")
        times: list[list[float]] = []
        for events in (self.folder / "runs" / name).glob("*/events.jsonl"):
            rows = [json.loads(line) for line in events.read_text().splitlines()]
            times.append([row["at"] for row in rows if "at" in row])
        wall = max(end for _, end in times) - min(start for start, _ in times)
        used = sum(end - start for start, end in times) / (8 * wall)
        print(f"{runs} one-second runs, {runs_per_job} a job: {wall:.1f} s, {used:.0%} of 8 slots used")
        return wall

    def declare(self, name: str, runs: int, sbatch: dict[str, bool], **resources: int) -> None:
        """Write a sweep and its profile."""
        needs = {"gpus_per_node": 0, "minutes": 60, **resources}
        sweep = {"name": name, "base": MODEL, "seeds": runs, "resources": needs}
        (self.folder / f"{name}.yaml").write_text(json.dumps(sweep))
        (self.folder / f"{name}.profile.yaml").write_text(json.dumps(self.profile | {"sbatch": sbatch}))

    def seal(self, name: str) -> list[Path]:
        """The folders of all runs of the sweep, made when they are not there."""
        expanded = self.call("expand", f"{name}.yaml").stdout.splitlines()
        folders = [self.folder / "runs" / name / json.loads(line)["run_id"] for line in expanded]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return folders

    def timed(self, what: str, *arguments: str) -> None:
        """Print how long a command takes and how often it calls sbatch."""
        before, began = self.sbatch_calls(), time.perf_counter()
        told = self.call(*arguments)
        seconds = time.perf_counter() - began
        last = (told.stderr or told.stdout).strip().splitlines()[-1:]
        print(f"{what:<34}{seconds:6.2f} s{self.sbatch_calls() - before:4} sbatch calls   {''.join(last)[:100]}")

    def sbatch_calls(self) -> int:
        """How often sbatch was called so far."""
        calls = self.folder / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``normhpc ARGUMENTS``."""
        command = [sys.executable, "cli.py", "rank.py", *arguments]
        command[2] = str(self.folder / "rank.py")
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"normhpc {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done


if __name__ == "__main__":
    main()
