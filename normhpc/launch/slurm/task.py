"""What one array task does on its node: train the runs of its chunk, hand back what it cannot finish, submit more.

Started as ``python -m normhpc.launch.slurm.task SWEEP_FOLDER TOKEN START``, once per rank.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from normhpc.config import Resources, RunConfig
from normhpc.launch.local import LocalLauncher
from normhpc.launch.ranks import Job
from normhpc.launch.slots import Slot, visible_gpus
from normhpc.launch.slurm.cluster import SlurmError
from normhpc.launch.slurm.journal import Launch, SubmissionJournal
from normhpc.launch.slurm.ranks import RemoteRank
from normhpc.launch.slurm.submit import submit_what_fits
from normhpc.record import SEALED, RunFolder, append_event, read_status
from normhpc.record.folder import host_name

_SUBMIT_ATTEMPTS = 5
_FILE_PATIENCE_SECONDS = 60


def main(sweep_folder: Path, token: str, start: int) -> int:
    """Run the task that Slurm numbered; returns its exit code."""
    index = start + int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    journal = SubmissionJournal(sweep_folder)
    launch = next(launch for launch in journal.launches() if launch.token == token)
    jobs = [_job(sweep_folder, run, launch) for run in journal.read_chunk(token, index)]
    open_jobs = [job for job in jobs if read_status(job.folder).state not in SEALED]
    signals = SignalNotes()
    if launch.resources.ranks == 1:
        complete = _train_packed(open_jobs, launch.resources, signals)
    else:
        complete = _train_together(open_jobs, signals)
    leads = int(os.environ.get("SLURM_PROCID", "0")) == 0
    if not complete and signals.out_of_time and leads:
        _requeue(open_jobs)
    if leads and not signals.told:
        _submit_more(sweep_folder)
    return 0 if complete or signals.told else 1


class SignalNotes:
    """What Slurm has signalled: USR2 some time before the limit, TERM when the job is to go now."""

    def __init__(self) -> None:
        self.out_of_time = False
        self.told = False
        signal.signal(signal.SIGUSR2, self._note)
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)

    def _note(self, number: int, frame: object) -> None:
        self.told = True
        if number == signal.SIGUSR2:
            self.out_of_time = True
            os.kill(os.getpid(), signal.SIGTERM)  # the launcher of packed runs listens to this one


def _job(sweep_folder: Path, run: dict[str, Any], launch: Launch) -> Job:
    config = RunConfig.model_validate(run["config"])
    folder = RunFolder(sweep_folder / config.run_id)

    def create() -> None:
        folder.create(
            config, sweep=sweep_folder.name, swept=run["swept"], resources=launch.resources, code=launch.version
        )

    return Job(folder, config.run_id, launch.resources, create, config.epochs)


def _train_packed(jobs: list[Job], resources: Resources, signals: SignalNotes) -> bool:
    """Runs of one rank: a queue over the GPUs of this task, ``runs_per_gpu`` on each. True when all were run."""
    gpus: list[str | None] = [*visible_gpus()] or [None]
    slots = [Slot(number, gpus[number % len(gpus)]) for number in range(len(gpus) * resources.runs_per_gpu)]
    launcher = LocalLauncher(slots, origin=slurm_origin())
    uninterrupted = launcher.run(jobs)
    signals.told |= not uninterrupted
    return uninterrupted and all(read_status(job.folder).state in (*SEALED, "failed") for job in jobs)


def _train_together(jobs: list[Job], signals: SignalNotes) -> bool:
    """Runs of several ranks, one after another; this task is one rank of each. True when all were run."""
    rank = int(os.environ["SLURM_PROCID"])
    for number, job in enumerate(jobs):
        if rank == 0:
            job.create()
            append_event(job.folder, "submitted", **slurm_origin())
        else:
            _await_file(job.folder.run_json)
        remote = RemoteRank(job, rank, rendezvous_file(job, number))
        code = remote.run(signals)
        if signals.told:
            return False
        if code != 0 and read_status(job.folder).state not in (*SEALED, "failed"):
            if code < 0:
                name = signal.Signals(-code).name
                message = f"rank {rank} on {host_name()} was killed by {name}"
                append_event(job.folder, "lost", rank=rank, host=host_name(), message=message)
            return False
    return True


def rendezvous_file(job: Job, number: int) -> Path:
    """A fresh file for the ranks of this attempt to meet: named by job, restart and place in the chunk."""
    place = job.folder.path.parent / ".slurm" / "rendezvous"
    place.mkdir(exist_ok=True)
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return place / f"{os.environ['SLURM_JOB_ID']}-{restart}-{number}"


def _await_file(path: Path) -> None:
    """Wait until rank 0 has made ``path``; a shared file system may be late to show it."""
    deadline = time.monotonic() + _FILE_PATIENCE_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def slurm_origin() -> dict[str, Any]:
    """What a ``submitted`` event says of this job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
    return {
        "launcher": "slurm",
        "job": job,
        "host": host_name(),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def _requeue(jobs: list[Job]) -> None:
    """Give the rest of the chunk back to the queue under the same job."""
    for job in jobs:
        if read_status(job.folder).state not in (*SEALED, "new", "failed"):
            append_event(job.folder, "requeued", **slurm_origin())
    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False, timeout=60)


def _submit_more(sweep_folder: Path) -> None:
    """The next wave, if there is room now. A controller that does not answer is asked again a few times."""
    for attempt in range(_SUBMIT_ATTEMPTS):
        try:
            submit_what_fits(sweep_folder)
        except SlurmError as error:
            print(f"could not submit more: {error}", file=sys.stderr, flush=True)
            time.sleep(2**attempt)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
