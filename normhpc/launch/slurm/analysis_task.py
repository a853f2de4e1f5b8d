"""What one array task of ``normhpc analyze`` does on its node: analyse the runs of its chunk, submit more.

Started as :mod:`normhpc.launch.slurm.task` is, whose arguments it has. Results are whole or absent, so a task that is
started again goes on with what is missing.
"""

import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from normhpc.config import RunConfig
from normhpc.errors import NormhpcError
from normhpc.launch.slurm.cluster import SlurmError
from normhpc.launch.slurm.journal import ANALYSES, SubmissionJournal
from normhpc.launch.slurm.scratch import stage_data
from normhpc.launch.slurm.task import array_index, requeue_job, submit_more, was_given_up
from normhpc.launch.worker import load_trained
from normhpc.posthoc.analyze import Request, analyze, missing
from normhpc.record import RunFolder

_WIDTH = 10_000
"""Letters of a line that are not wrapped."""


class OutOfTime(BaseException):
    """Slurm has warned that the time limit is near. Not an error of whatever is under way."""


def main(sweep_folder: Path, token: str, start: int) -> int:
    """Run the task that Slurm numbered. Returns its exit code: 1 when something could not be computed."""
    journal = SubmissionJournal(sweep_folder, ANALYSES)
    if was_given_up(journal):
        return 0
    launch, index = journal.launch(token), start + array_index()
    folders = [RunFolder(sweep_folder / name) for name in launch.chunks[index]]
    request = Request(**launch.analysis)
    # read when torch is loaded, which is later
    os.environ.setdefault("OMP_NUM_THREADS", str(launch.profile.cpus_per_gpu or launch.resources.cpus_per_gpu))
    before = _count_missing(folders, request)
    try:
        _listen()
        if launch.profile.scratch:
            chunk = journal.read_chunk(token, index)
            stage_data(launch.profile.scratch, [RunConfig.model_validate(run["config"]) for run in chunk])
        code = _analyze(folders, request, launch.version)
    except OutOfTime:
        if _count_missing(folders, request) == before:
            print(
                f"error: the time limit came before one result was whole ({', '.join(request.what)} of "
                f"{folders[0].path} ...); give it more: --set resources.minutes=N",
                flush=True,
            )
        elif _requeue():
            return 0
        code = 1
    submit_more(journal)
    return code


def after_failure(sweep_folder: Path, token: str, start: int) -> int:
    """What the batch script does when the task ended badly: the next wave must go on."""
    submit_more(SubmissionJournal(sweep_folder, ANALYSES))
    return 0


def _analyze(folders: Sequence[RunFolder], request: Request, code: Mapping[str, Any]) -> int:
    console = Console(stderr=True, markup=False, emoji=False, highlight=False, width=_WIDTH)
    worst = 0
    for folder in folders:
        try:
            worst |= analyze([folder], request, load=load_trained, code=code, console=console)
        except NormhpcError as error:
            console.print(f"error: {error}")
            worst = 1
        except Exception:
            # nobody sits here to start the next run after a fault of the program
            traceback.print_exc()
            console.print(f"error: {folder.path}: stopped by the fault above")
            worst = 1
    return worst


def _listen() -> None:
    """From now on the warning before the time limit, and being told to go, end what is under way at once."""

    def warned(number: int, frame: object) -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        raise OutOfTime

    def told(number: int, frame: object) -> None:
        sys.exit(1)  # which clears half-written files away

    signal.signal(signal.SIGUSR2, warned)
    signal.signal(signal.SIGTERM, told)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR2])


def _count_missing(folders: Sequence[RunFolder], request: Request) -> int:
    """Results that are not there; a run that cannot be analysed has none."""
    count = 0
    for folder in folders:
        try:
            count += len(missing(folder, request))
        except NormhpcError:
            count += len(request.what)
    return count


def _requeue() -> bool:
    """Whether Slurm will start this job again."""
    print("the time limit is near; the job goes on with the rest when it is started again", flush=True)
    try:
        requeue_job()
    except SlurmError as error:
        print(f"error: the job could not be requeued: {error}", flush=True)
        return False
    return True


def start() -> None:
    """What ``python -m normhpc.launch.slurm.analysis_task`` does."""
    *after, sweep_folder, token, first = sys.argv[1:]
    act = after_failure if after else main
    sys.exit(act(Path(sweep_folder), token, int(first)))


if __name__ == "__main__":
    start()
