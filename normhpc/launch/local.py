"""A queue of runs over the slots of this machine."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from normhpc.config import Resources
from normhpc.errors import InputError
from normhpc.files import exclusive_lock
from normhpc.launch.slots import Slot
from normhpc.launch.worker import INTERRUPTED, LAUNCHER_PIPE_VARIABLE
from normhpc.record import SEALED, RunFolder, State, append_event, read_status
from normhpc.record.folder import host_name

_POLL_SECONDS = 0.05
_PEERS_PATIENCE_SECONDS = 10
"""How long the other ranks of a run may take to notice that one is gone."""
_STOP_PATIENCE_SECONDS = 45
"""How long a run that is asked to stop may take to save itself."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run to launch: its folder, what it needs, and ``create`` which writes its ``run.json``."""

    folder: RunFolder
    label: str
    resources: Resources
    create: Callable[[], None]


@dataclass(slots=True)
class ActiveRun:
    """A run under way: its ranks and the slots they hold."""

    job: Job
    slots: list[Slot]
    log: IO[bytes]
    rendezvous: Path
    ranks: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pumps: list[threading.Thread] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    first_exit: float | None = None
    stop_asked: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.monotonic() - self.started


class Watcher:
    """What a launch tells as it goes; the default tells nothing."""

    def started(self, run: ActiveRun) -> None:
        """The ranks of ``run`` have been started."""

    def ended(self, run: ActiveRun, state: State) -> None:
        """All ranks of ``run`` are gone and its record says ``state``."""

    def tick(self, active: Sequence[ActiveRun], waiting: int) -> None:
        """Called several times a second."""


@contextlib.contextmanager
def held_sweep(folder: Path) -> Iterator[None]:
    """Be the only launcher of the sweep in ``folder``, which is made if it is not there.

    Raises :class:`InputError` when it cannot be written, :class:`~normhpc.errors.BusyError` when another launcher has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another place with --runs DIR"
        ) from None
    busy = f"{folder}: another normhpc sweep is launching this sweep; watch it with: normhpc status {folder}"
    with exclusive_lock(folder, busy, wait_seconds=0.5):
        yield


class LocalLauncher:
    """Runs jobs on slots, each run in a process group of its own, until none is left or it is told to stop.

    A rank that dies takes its run down within seconds and frees the slots; the launcher's own death closes a pipe
    to every rank, which then saves itself and ends.
    """

    def __init__(self, slots: Sequence[Slot], watcher: Watcher | None = None) -> None:
        self._free = list(slots)
        self._total = len(slots)
        self._watcher = watcher or Watcher()
        self._active: list[ActiveRun] = []
        self._stop_signals = 0

    def run(self, jobs: Sequence[Job]) -> bool:
        """Run every job. False when interrupted by SIGINT or SIGTERM; what was running has saved itself."""
        waiting = deque(jobs)
        with self._signals_noted():
            try:
                while self._active or (waiting and not self._stop_signals):
                    self._start_what_fits(waiting)
                    self._watch()
                    self._watcher.tick(self._active, len(waiting))
                    time.sleep(_POLL_SECONDS)
            finally:
                for run in self._active:
                    _kill(run)
        return not self._stop_signals

    @contextlib.contextmanager
    def _signals_noted(self) -> Iterator[None]:
        def note(number: int, frame: object) -> None:
            self._stop_signals += 1

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start_what_fits(self, waiting: deque[Job]) -> None:
        while waiting and not self._stop_signals:
            slots = self._slots_for(waiting[0].resources.ranks)
            if slots is None:
                return
            job = waiting.popleft()
            self._free = [slot for slot in self._free if slot not in slots]
            job.create()
            append_event(job.folder, "submitted", launcher="local", host=host_name(), pid=os.getpid())
            run = _start(job, slots)
            self._active.append(run)
            self._watcher.started(run)

    def _slots_for(self, ranks: int) -> list[Slot] | None:
        """Slots for ``ranks`` ranks, on distinct GPUs; a run of more ranks than this machine has cores takes all."""
        if self._free and self._free[0].gpu is None:
            wanted = min(ranks, self._total)
            return self._free[:wanted] if len(self._free) >= wanted else None
        distinct = {slot.gpu: slot for slot in reversed(self._free)}
        return list(distinct.values())[:ranks] if len(distinct) >= ranks else None

    def _watch(self) -> None:
        for run in list(self._active):
            codes = [rank.poll() for rank in run.ranks]
            now = time.monotonic()
            if None in codes:
                self._hurry(run, codes, now)
                continue
            _tidy(run)
            state = _conclude(run, [code for code in codes if code is not None])
            self._active.remove(run)
            self._free = sorted([*self._free, *run.slots], key=lambda slot: slot.number)
            self._watcher.ended(run, state)

    def _hurry(self, run: ActiveRun, codes: list[int | None], now: float) -> None:
        """End a run that lost a rank, that was asked to stop, or that does neither in time."""
        if run.first_exit is None and any(code is not None for code in codes):
            run.first_exit = now
        if run.first_exit is not None and now - run.first_exit > _PEERS_PATIENCE_SECONDS:
            _kill(run)
        if self._stop_signals and run.stop_asked is None:
            run.stop_asked = now
            for rank in run.ranks:
                rank.terminate()
        if run.stop_asked is not None and (self._stop_signals > 1 or now - run.stop_asked > _STOP_PATIENCE_SECONDS):
            _kill(run)


def _start(job: Job, slots: list[Slot]) -> ActiveRun:
    rendezvous = Path(tempfile.mkdtemp(prefix="normhpc-"))
    run = ActiveRun(job, slots, job.folder.log.open("ab", buffering=0), rendezvous)
    for rank in range(job.resources.ranks):
        process = subprocess.Popen(
            [sys.executable, "-m", "normhpc", "train", str(job.folder.path)],
            env=_environment(job, slots, rank, rendezvous),
            stdin=subprocess.PIPE,  # its closing tells the rank that the launcher is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=run.ranks[0].pid if run.ranks else 0,
        )
        pump = threading.Thread(target=_pump, args=(process.stdout, run.log, rank), daemon=True)
        pump.start()
        run.ranks.append(process)
        run.pumps.append(pump)
    return run


def _environment(job: Job, slots: list[Slot], rank: int, rendezvous: Path) -> dict[str, str]:
    ranks = job.resources.ranks
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "NORMHPC_RENDEZVOUS": str(rendezvous / "store"),
        LAUNCHER_PIPE_VARIABLE: "1",
        "OMP_NUM_THREADS": str(job.resources.cpus_per_gpu),
        "PYTHONUNBUFFERED": "1",
    }
    gpus = [slot.gpu for slot in slots if slot.gpu is not None]
    if gpus:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    leaked = ("MASTER_ADDR", "MASTER_PORT", "SLURM_", "TORCHELASTIC_")
    return {name: value for name, value in os.environ.items() if not name.startswith(leaked)} | own


def _pump(source: IO[bytes] | None, log: IO[bytes], rank: int) -> None:
    """Copy a rank's output into the run's log, a whole line at a time under the rank's number."""
    assert source is not None
    for line in source:
        with contextlib.suppress(OSError):  # a full disk must not block the rank
            log.write(b"[%d] %s\n" % (rank, line.rstrip(b"\n")))


def _tidy(run: ActiveRun) -> None:
    """Let go of everything an ended run held open."""
    for pump, rank in zip(run.pumps, run.ranks, strict=True):
        pump.join(timeout=5)
        for pipe in (rank.stdin, rank.stdout):
            if pipe is not None:
                pipe.close()
    run.log.close()
    shutil.rmtree(run.rendezvous, ignore_errors=True)


def _kill(run: ActiveRun) -> None:
    for rank in run.ranks:
        rank.kill()


def _conclude(run: ActiveRun, codes: list[int]) -> State:
    """What became of a run whose ranks are all gone; says in its record what its ranks could not say themselves."""
    folder = run.job.folder
    status = read_status(folder)
    if status.state in SEALED:
        return status.state
    killed = [(rank, -code) for rank, code in enumerate(codes) if code < 0]
    with contextlib.suppress(OSError):
        if run.stop_asked is not None:
            append_event(folder, "cancelled", reason="the launcher was interrupted")
        elif killed and status.state != "failed":
            rank, number = killed[0]
            message = f"rank {rank} on {host_name()} was killed by {signal.Signals(number).name}"
            append_event(folder, "lost", rank=rank, host=host_name(), message=message)
        elif status.state != "failed" and INTERRUPTED not in codes:
            message = f"ranks ended with exit codes {', '.join(map(str, codes))}; see {folder.log}"
            append_event(folder, "failed", **{"class": "ExitCode"}, message=message, host=host_name())
    return read_status(folder).state
