"""What the queue adds to the records: which runs Slurm still has, and which of them jobs analyse."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from normhpc.launch.slurm.cluster import Cluster, QueuedJob, SlurmError
from normhpc.launch.slurm.journal import ANALYSES, Launch, SubmissionJournal
from normhpc.record import SEALED, RunFolder, State, read_status
from normhpc.results.status import AnalysisStatus

_RUNNING = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED"})

_AnalysisState = Literal["submitted", "running", "finished", "failed"]

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """An array task in the queue and what it was given."""

    name: str
    """``ARRAY_TASK``, as scancel takes it."""
    launch: Launch
    index: int
    """Its chunk of the launch."""


class Queue:
    """The user's jobs, asked of Slurm once and only when a sweep was ever submitted."""

    def __init__(self) -> None:
        self._jobs: Mapping[str, list[QueuedJob]] | None = None

    def runs_of(self, sweep_folder: Path) -> dict[str, State] | None:
        """``submitted`` or ``running`` for every run of the sweep that Slurm has, or that a living wave will submit.

        A run that its task is done with counts by its record. None when the sweep was never submitted, or when this
        machine has no Slurm to ask.
        """
        launches = self._launches(SubmissionJournal(sweep_folder))
        if launches is None:
            return None
        found: dict[str, State] = {}
        for launch, queued in launches:
            found |= {run: state for run, state in queued.items() if not _is_over(sweep_folder / run, launch)}
        return found

    def analyses_of(self, sweep_folder: Path) -> dict[tuple[str, str], State]:
        """As :meth:`runs_of` for (name of a run's folder, analysis); a task counts as being at all of its chunk."""
        launches = self._launches(SubmissionJournal(sweep_folder, ANALYSES)) or []
        return {
            (run, what): state
            for launch, queued in launches
            for run, state in queued.items()
            for what in launch.analysis["what"]
        }

    def analyses_in(self, sweep_folder: Path) -> list[AnalysisStatus]:
        """The analyses that jobs are at, or that failed in one, in the order in which they were first asked for.

        A run counts by the newest job that it was given to. Empty when no analysis was ever submitted, and when this
        machine has no Slurm to ask.
        """
        journal = SubmissionJournal(sweep_folder, ANALYSES)
        states: dict[str, dict[str, tuple[_AnalysisState, Path | None]]] = {}
        for launch, queued in self._launches(journal) or []:
            jobs = {index: wave.job_id for wave in launch.waves for index in range(wave.start, wave.stop)}
            since = datetime.fromisoformat(launch.declared)
            for index, chunk in enumerate(launch.chunks):
                output = journal.folder / "jobs" / f"{jobs[index]}.out" if jobs.get(index) else None
                for what in launch.analysis["what"]:
                    for run in chunk:
                        state = _state_of_analysis(RunFolder(sweep_folder / run), what, since, queued.get(run), output)
                        if index in launch.cancelled:
                            states.get(what, {}).pop(run, None)
                        elif state is not None:
                            states.setdefault(what, {})[run] = (state, output)
        found = (_analysis_status(what, list(runs.values())) for what, runs in states.items())
        return [status for status in found if status.submitted + status.running + status.failed]

    def array_tasks(self, journal: SubmissionJournal, run_ids: Container[str]) -> list[QueuedTask]:
        """The array tasks in the queue that were given any of ``run_ids``."""
        return [
            QueuedTask(f"{job.array_id}_{job.task}", launch, wave.start + job.task)
            for launch, _ in self._launches(journal) or []
            for wave in launch.waves
            for job in (self._jobs or {}).get(wave.name, ())
            if any(run_id in run_ids for run_id in launch.chunks[wave.start + job.task])
        ]

    def _launches(self, journal: SubmissionJournal) -> list[tuple[Launch, dict[str, State]]] | None:
        """Every launch of ``journal`` with its runs that are in the queue; None as :meth:`runs_of` says."""
        if not journal.path.exists() or shutil.which("squeue") is None:
            return None
        if self._jobs is None:
            self._jobs = _by_name(Cluster().my_jobs("nh-"))
        return [(launch, _in_queue(launch, self._jobs)) for launch in journal.launches()]


class PatientQueue:
    """A :class:`Queue` as ``normhpc status`` asks it: a Slurm that does not answer leaves the records to speak.

    A :class:`~normhpc.results.status.QueueLookup`.
    """

    def __init__(self) -> None:
        self._queue, self._silent = Queue(), False

    def runs_of(self, sweep_folder: Path) -> dict[str, State] | None:
        """As :meth:`Queue.runs_of`; None also without an answer, which is told once."""
        return self._answer(lambda: self._queue.runs_of(sweep_folder))

    def analyses_in(self, sweep_folder: Path) -> list[AnalysisStatus]:
        """As :meth:`Queue.analyses_in`; none without an answer, which is told once."""
        return self._answer(lambda: self._queue.analyses_in(sweep_folder)) or []

    def _answer(self, ask: Callable[[], Answer]) -> Answer | None:
        if self._silent:
            return None
        try:
            return ask()
        except SlurmError as error:
            self._silent = True
            print(f"note: {error}; the states shown are those of the records alone", file=sys.stderr)
            return None


def _state_of_analysis(
    folder: RunFolder, what: str, since: datetime, queued: State | None, output: Path | None
) -> _AnalysisState | None:
    """How far jobs are with one run; None when no job is to do it, or the run is gone."""
    from normhpc.posthoc.kept import is_written_since  # NumPy and Pillow are of use only where something was analysed

    if is_written_since(folder, what, since):
        return "finished"
    if queued is not None:
        return "running" if queued == "running" else "submitted"
    return "failed" if output is not None and folder.run_json.exists() else None


def _analysis_status(what: str, states: Sequence[tuple[_AnalysisState, Path | None]]) -> AnalysisStatus:
    counts = Counter(state for state, _ in states)
    outputs = [str(output) for state, output in states if state == "failed" and output is not None]
    return AnalysisStatus(
        what,
        counts["submitted"],
        counts["running"],
        counts["finished"],
        counts["failed"],
        outputs[-1] if outputs else None,
    )


def _in_queue(launch: Launch, queue: Mapping[str, list[QueuedJob]]) -> dict[str, State]:
    found: dict[str, State] = {}
    for wave in launch.waves:
        for job in queue.get(wave.name, ()):
            state: State = "running" if job.state in _RUNNING else "submitted"
            found |= dict.fromkeys(launch.chunks[wave.start + job.task], state)
    if found and not launch.closed:
        waiting = (run_id for chunk in launch.chunks[launch.submitted :] for run_id in chunk)
        found |= dict.fromkeys(waiting, "submitted")
    return found


def _is_over(path: Path, launch: Launch) -> bool:
    """Whether the run needs nothing more of ``launch``; a failure from before it is what it is to mend."""
    if not path.exists():
        return False
    status = read_status(RunFolder(path))
    return status.state in SEALED or (status.state == "failed" and str(status.event.get("time", "")) >= launch.declared)


def _by_name(jobs: Iterable[QueuedJob]) -> Mapping[str, list[QueuedJob]]:
    grouped: dict[str, list[QueuedJob]] = {}
    for job in jobs:
        grouped.setdefault(job.name, []).append(job)
    return grouped
