"""What the queue adds to the records: which runs Slurm still has."""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from normhpc.launch.slurm.cluster import Cluster, QueuedJob, SlurmError
from normhpc.launch.slurm.journal import ANALYSES, Launch, SubmissionJournal
from normhpc.record import SEALED, RunFolder, State, read_status

_RUNNING = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED"})


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

    def _launches(self, journal: SubmissionJournal) -> list[tuple[Launch, dict[str, State]]] | None:
        """Every launch of ``journal`` with its runs that are in the queue; None as :meth:`runs_of` says."""
        if not journal.path.exists() or shutil.which("squeue") is None:
            return None
        if self._jobs is None:
            self._jobs = _by_name(Cluster().my_jobs("nh-"))
        return [(launch, _in_queue(launch, self._jobs)) for launch in journal.launches()]


def queue_lookup() -> Callable[[Path], dict[str, State] | None]:
    """A :class:`Queue` as ``normhpc status`` asks it: a Slurm that does not answer leaves the records to speak."""
    queue, silent = Queue(), False

    def runs_of(sweep_folder: Path) -> dict[str, State] | None:
        nonlocal silent
        if silent:
            return None
        try:
            return queue.runs_of(sweep_folder)
        except SlurmError as error:
            silent = True
            print(f"note: {error}; the states shown are those of the records alone", file=sys.stderr)
            return None

    return runs_of


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


def array_tasks_of(launches: Iterable[Launch], run_id: str) -> list[str]:
    """``ARRAY_TASK`` of every accepted array task that was given ``run_id``."""
    return [
        f"{wave.job_id}_{index - wave.start}"
        for launch in launches
        for wave in launch.waves
        if wave.job_id is not None
        for index in range(wave.start, wave.stop)
        if run_id in launch.chunks[index]
    ]


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
