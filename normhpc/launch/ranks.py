"""The processes of one run on this machine: started, heard, ended."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from normhpc.config import Resources
from normhpc.launch.slots import Slot
from normhpc.launch.worker import INTERRUPTED, LAUNCHER_PIPE_VARIABLE
from normhpc.record import RunFolder

Command = Callable[[RunFolder], list[str]]
"""From the folder of a run to the command that starts one of its ranks."""

_LEAKING = ("MASTER_ADDR", "MASTER_PORT", "SLURM_", "TORCHELASTIC_")
"""Beginnings of variables with which a surrounding job would tell the ranks about other peers than theirs."""

_OUTPUT_PATIENCE_SECONDS = 5


def train_command(folder: RunFolder) -> list[str]:
    """``normhpc train``, under the interpreter that runs now."""
    return [sys.executable, "-m", "normhpc", "train", str(folder.path)]


@dataclass(frozen=True, slots=True)
class Job:
    """A run to launch: its folder, what it needs, and ``create`` which writes its ``run.json``."""

    folder: RunFolder
    label: str
    resources: Resources
    create: Callable[[], None]
    epochs: int | None = None
    """How many it will train, for people who watch."""
    cell: str | None = None
    """What it has in common with the runs that may be trained in its process; None for a run to itself."""
    beside: "tuple[Job, ...]" = ()
    """Other runs of the same cell, which its process trains as well."""

    @property
    def runs(self) -> "tuple[Job, ...]":
        """It and those beside it."""
        return (self, *self.beside)


def cell_of(config: Mapping[str, Any], resources: Resources) -> str | None:
    """The :attr:`Job.cell` of a run with this complete configuration: equal for runs that differ by their seed alone."""
    if not resources.fuse:
        return None
    cell = {name: value for name, value in config.items() if name != "seed"}
    return json.dumps([cell, resources.model_dump(mode="json")], sort_keys=True)


def together(jobs: Iterable[Job]) -> list[Job]:
    """The jobs with those of one cell as one, in the place of its first."""
    cells: dict[object, list[Job]] = {}
    for job in jobs:
        cells.setdefault(job.cell or job.folder, []).append(job)
    return [replace(first, beside=tuple(others)) for first, *others in cells.values()]


@dataclass(slots=True)
class ActiveRun:
    """A run under way: its ranks and the slots they hold."""

    job: Job
    slots: list[Slot]
    ranks: list[subprocess.Popen[bytes]] = field(default_factory=list)
    exits: dict[int, int] = field(default_factory=dict)
    """Exit code of every rank that is gone; a signal's number is negative."""
    killed: frozenset[int] = frozenset()
    """Ranks that were still there when the launcher killed the run."""
    first_exit: float | None = None
    stop_asked: float | None = None
    started: float = field(default_factory=time.monotonic)
    _pumps: list[threading.Thread] = field(default_factory=list)
    _rendezvous: Path | None = None

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.monotonic() - self.started

    def of_each(self) -> "list[ActiveRun]":
        """Itself, once for each run that its processes train."""
        return [replace(self, job=job) for job in self.job.runs] if self.job.beside else [self]

    def start(self, command: Command) -> None:
        """Start every rank, all in one process group. Raises OSError; what has been started then is in ``ranks``."""
        self._rendezvous = Path(tempfile.mkdtemp(prefix="normhpc-"))
        for rank in range(self.job.resources.ranks):
            logs: list[IO[bytes]] = []
            try:
                logs += (job.folder.log.open("ab", buffering=0) for job in self.job.runs)
                process = subprocess.Popen(
                    [*command(self.job.folder), *(str(job.folder.path) for job in self.job.beside)],
                    env=rank_environment(self.job.resources, self.slots, rank, self._rendezvous),
                    stdin=subprocess.PIPE,  # its closing tells the rank that the launcher is gone
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    process_group=self.ranks[0].pid if self.ranks else 0,
                )
            except OSError:
                for log in logs:
                    log.close()
                raise
            self.ranks.append(process)
            self._pumps.append(threading.Thread(target=pump_output, args=(process.stdout, logs, rank), daemon=True))
            self._pumps[-1].start()

    def poll(self) -> bool:
        """Note who is gone. True when nobody is left."""
        for number, rank in enumerate(self.ranks):
            if number not in self.exits and (code := rank.poll()) is not None:
                self.exits[number] = code
        if self.exits and self.first_exit is None:
            self.first_exit = time.monotonic()
        return len(self.exits) == len(self.ranks)

    def ask_to_stop(self) -> None:
        """Let every rank know that the run is to save itself and end."""
        self.stop_asked = time.monotonic()
        for rank in self.ranks:
            rank.terminate()

    def kill(self) -> None:
        """End every rank and whatever it has started, now."""
        if not self.killed and not self.poll():
            self.killed = frozenset(range(len(self.ranks))) - self.exits.keys()
            self._kill_group()

    def release(self) -> None:
        """Wait for the end of every rank and let go of all that the run held open."""
        for number, rank in enumerate(self.ranks):
            self.exits[number] = rank.wait()
        self._kill_group()  # a helper of a rank that outlives it would hold its output open
        for pump, rank in zip(self._pumps, self.ranks, strict=True):
            pump.join(timeout=_OUTPUT_PATIENCE_SECONDS)
            if rank.stdin is not None:
                rank.stdin.close()
        if self._rendezvous is not None:
            shutil.rmtree(self._rendezvous, ignore_errors=True)

    def _kill_group(self) -> None:
        if self.ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.ranks[0].pid, signal.SIGKILL)


def was_stopped(code: int) -> bool:
    """Whether a rank with this exit code was asked to stop, before or while it could save its run."""
    return code in (INTERRUPTED, -signal.SIGTERM, -signal.SIGUSR2)


def rank_environment(resources: Resources, slots: list[Slot], rank: int, rendezvous: Path) -> dict[str, str]:
    """The environment of one rank: this process's own, without what surrounding jobs left, with the rank's place."""
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(resources.ranks),
        "NORMHPC_RENDEZVOUS": str(rendezvous / "store"),
        LAUNCHER_PIPE_VARIABLE: "1",
        "OMP_NUM_THREADS": str(resources.cpus_per_gpu),
        "PYTHONUNBUFFERED": "1",
    }
    gpus = [slot.gpu for slot in slots if slot.gpu is not None]
    if gpus or resources.gpus_per_node == 0:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus) if resources.gpus_per_node else ""
    return {name: value for name, value in os.environ.items() if not name.startswith(_LEAKING)} | own


def pump_output(source: IO[bytes], logs: Sequence[IO[bytes]], rank: int) -> None:
    """Copy a rank's output into the log of each run, a whole line at a time under the rank's number."""
    with contextlib.ExitStack() as opened:
        for file in (source, *logs):
            opened.enter_context(file)
        for line in source:
            for log in logs:
                with contextlib.suppress(OSError):  # a full disk must not block the rank
                    log.write(b"[%d] %s\n" % (rank, line.rstrip(b"\n")))
