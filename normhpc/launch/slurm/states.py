"""What the queue adds to the records: which runs Slurm still has."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from normhpc.launch.slurm.cluster import Cluster, QueuedJob
from normhpc.launch.slurm.journal import Launch, SubmissionJournal
from normhpc.record import SEALED, RunFolder, State, read_status

_RUNNING = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED"})


def has_submissions(sweep_folder: Path) -> bool:
    """Whether the sweep in ``sweep_folder`` was ever submitted to Slurm."""
    return SubmissionJournal(sweep_folder).path.exists()


def runs_in_queue(sweep_folder: Path, cluster: Cluster) -> dict[str, State]:
    """``submitted`` or ``running`` for every run of the sweep that Slurm has, or that a living wave will submit.

    One squeue, at any number of runs. A run that its task has finished with counts by its record.
    """
    launches = SubmissionJournal(sweep_folder).launches()
    queue = _by_name(cluster.my_jobs("nh-")) if launches else {}
    found: dict[str, State] = {}
    for launch in launches:
        alive = False
        for wave in launch.waves:
            jobs = {job.task: job for job in queue.get(wave.name, ())}
            alive |= bool(jobs)
            for task, job in jobs.items():
                for run_id in launch.chunks[wave.start + task]:
                    found[run_id] = "running" if job.state in _RUNNING else "submitted"
        if alive and not launch.closed:
            found |= dict.fromkeys(
                (run_id for chunk in launch.chunks[launch.submitted :] for run_id in chunk), "submitted"
            )
    return {run_id: state for run_id, state in found.items() if not _is_over(sweep_folder / run_id)}


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


def _is_over(path: Path) -> bool:
    return path.exists() and read_status(RunFolder(path)).state in (*SEALED, "failed")


def _by_name(jobs: Iterable[QueuedJob]) -> Mapping[str, list[QueuedJob]]:
    grouped: dict[str, list[QueuedJob]] = {}
    for job in jobs:
        grouped.setdefault(job.name, []).append(job)
    return grouped
