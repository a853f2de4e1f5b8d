"""A queue of runs over the slots of this machine."""

import contextlib
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normhpc.errors import InputError, RecordError
from normhpc.launch.ranks import ActiveRun, Command, Job, train_command, was_stopped
from normhpc.launch.slots import Slot
from normhpc.launch.worker import INTERRUPTED
from normhpc.record import SEALED, State, append_event, read_status
from normhpc.record.folder import host_name
from normhpc.record.lock import exclusive_lock

_POLL_SECONDS = 0.05
_TOLD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that the ranks of a run are given before they are killed."""

    peers: float = 10
    """To notice that one of them has died."""
    stop: float = 45
    """To save the run when it is asked to stop."""


class Watcher:
    """What a launch tells as it goes; the default tells nothing."""

    def started(self, run: ActiveRun) -> None:
        """The ranks of ``run`` have been started."""

    def ended(self, run: ActiveRun, state: State) -> None:
        """All ranks of ``run`` are gone and its record says ``state``."""

    def told(self, line: str) -> None:
        """Something that concerns the whole launch."""

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

    def __init__(
        self,
        slots: Sequence[Slot],
        watcher: Watcher | None = None,
        *,
        command: Command = train_command,
        patience: Patience | None = None,
        origin: Mapping[str, Any] | None = None,
        stopped_by: str = "the launcher was interrupted",
        second_signal_kills: bool = True,
    ) -> None:
        self._free = list(slots)
        self._total = len(slots)
        self._watcher = watcher or Watcher()
        self._command = command
        self._patience = patience or Patience()
        self._origin = origin or {"launcher": "local", "host": host_name(), "pid": os.getpid()}
        self._stopped_by = stopped_by
        self._second_signal_kills = second_signal_kills
        self._active: list[ActiveRun] = []
        self._stop_signals = 0
        self._fault: RecordError | None = None

    def run(self, jobs: Sequence[Job]) -> bool:
        """Run every job. False when interrupted by SIGINT or SIGTERM; what was running has saved itself.

        Raises :class:`RecordError` when a run cannot be started; those under way have then ended.
        """
        waiting = deque(jobs)
        with self._signals_noted():
            try:
                while self._active or (waiting and not self._closing):
                    self._start_what_fits(waiting)
                    self._watch()
                    active = [each for run in self._active for each in run.of_each()]
                    self._watcher.tick(active, sum(len(job.runs) for job in waiting))
                    time.sleep(_POLL_SECONDS)
            finally:
                for run in self._active:
                    run.kill()
                for run in list(self._active):
                    self._end(run)
        if self._fault is not None:
            raise self._fault
        return not self._stop_signals

    @property
    def _closing(self) -> bool:
        """Whether nothing more is started."""
        return bool(self._stop_signals) or self._fault is not None

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
        while waiting and not self._closing:
            slots = self._slots_for(waiting[0].resources.ranks)
            if slots is None:
                return
            job = waiting.popleft()
            try:
                self._start(job, slots)
            except OSError as error:
                self._give_up(job, error)

    def _start(self, job: Job, slots: list[Slot]) -> None:
        for member in job.runs:
            member.create()
            append_event(member.folder, "submitted", **self._origin)
        run = ActiveRun(job, slots)
        self._active.append(run)
        self._free = [slot for slot in self._free if slot not in slots]
        run.start(self._command)
        for each in run.of_each():
            self._watcher.started(each)

    def _give_up(self, job: Job, error: OSError) -> None:
        """Start nothing more, because ``job`` cannot be started; what is under way goes on."""
        started = [run for run in self._active if run.job is job]
        for run in started:
            run.kill()
        for each in job.runs:
            with contextlib.suppress(OSError):
                each.folder.path.rmdir()  # only if nothing is in it
        self._fault = RecordError(
            f"{job.folder.path}: cannot be started ({error.strerror or error}); nothing more was launched, "
            "the same command goes on from here"
        )
        others = sum(len(run.job.runs) for run in self._active if run not in started)
        if others:
            self._watcher.told(f"{self._fault}; waiting for {counted(others, 'run')} under way")

    def _slots_for(self, ranks: int) -> list[Slot] | None:
        """Slots for ``ranks`` ranks, on distinct GPUs; a run of more ranks than this machine has cores takes all."""
        if self._free and self._free[0].gpu is None:
            wanted = min(ranks, self._total)
            return self._free[:wanted] if len(self._free) >= wanted else None
        distinct: dict[str | None, Slot] = {}
        for slot in self._free:
            distinct.setdefault(slot.gpu, slot)
        return list(distinct.values())[:ranks] if len(distinct) >= ranks else None

    def _watch(self) -> None:
        if self._stop_signals and any(run.stop_asked is None for run in self._active):
            active = sum(len(run.job.runs) for run in self._active)
            self._watcher.told(
                f"stopping: {counted(active, 'run')} under way to save first; Ctrl-C again kills at once"
            )
        for run in list(self._active):
            gone, now = run.poll(), time.monotonic()
            if not gone or (self._stop_signals and run.stop_asked is None):
                self._hurry(run, now)
            if gone and not self._may_be_told(run, now):
                self._end(run)

    def _may_be_told(self, run: ActiveRun, now: float) -> bool:
        """Whether whoever stopped the ranks, Slurm for one, may be about to tell this launcher too."""
        stopped = any(was_stopped(code) for code in run.exits.values())
        return (
            stopped and run.stop_asked is None and run.first_exit is not None and now - run.first_exit < _TOLD_SECONDS
        )

    def _hurry(self, run: ActiveRun, now: float) -> None:
        """End a run that lost a rank, that was asked to stop, or that does neither in time."""
        if self._stop_signals and run.stop_asked is None:
            run.ask_to_stop()
        saving = all(code in (0, INTERRUPTED) for code in run.exits.values())
        patience = self._patience.stop if saving else self._patience.peers
        if run.first_exit is not None and now - run.first_exit > patience:
            run.kill()
        insisted = self._second_signal_kills and self._stop_signals > 1
        if run.stop_asked is not None and (insisted or now - run.stop_asked > self._patience.stop):
            run.kill()

    def _end(self, run: ActiveRun) -> None:
        run.release()
        ended = [(each, _conclude(each, self._stopped_by)) for each in run.of_each()]
        self._active.remove(run)
        self._free = sorted([*self._free, *run.slots], key=lambda slot: slot.number)
        for each, state in ended:
            self._watcher.ended(each, state)


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _conclude(run: ActiveRun, stopped_by: str) -> State:
    """What became of a run whose ranks are all gone; says in its record what its ranks could not say themselves."""
    folder = run.job.folder
    state = read_status(folder).state
    if state in SEALED or state == "failed":
        return state
    with contextlib.suppress(OSError):
        if run.stop_asked is not None:
            append_event(folder, "cancelled", reason=stopped_by)
        else:
            _tell_end(run)
    return read_status(folder).state


def _tell_end(run: ActiveRun) -> None:
    """Say in the record which rank was lost, or that the ranks failed without a word."""
    folder, host = run.job.folder, host_name()
    if not run.exits.keys() - run.killed:
        append_event(folder, "lost", host=host, message=f"the run could not be started on {host}")
        return
    signalled = [rank for rank, code in run.exits.items() if code < 0 and rank not in run.killed]
    stopped = [rank for rank, code in run.exits.items() if code == INTERRUPTED]
    if signalled:
        how = f"was killed by {signal.Signals(-run.exits[signalled[0]]).name}"
        message = f"rank {signalled[0]} on {host} {how}"
        append_event(folder, "lost", rank=signalled[0], host=host, message=message)
    elif stopped:
        message = f"rank {stopped[0]} on {host} was stopped and saved the run"
        append_event(folder, "lost", rank=stopped[0], host=host, message=message)
    else:
        codes = ", ".join(str(code) for _, code in sorted(run.exits.items()))
        message = f"ranks ended with exit codes {codes}; see {folder.log}"
        append_event(folder, "failed", **{"class": "ExitCode"}, message=message, host=host)
