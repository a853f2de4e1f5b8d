"""What one array task does on its node: train the runs of its chunk, hand back what it cannot finish, submit more.

Started with the arguments SWEEP_FOLDER TOKEN START, once per rank; with ``--after`` before them by the batch script,
once, when the ranks ended badly.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normhpc.config import Resources, RunConfig
from normhpc.errors import NormhpcError, RecordError
from normhpc.launch.local import LocalLauncher, Patience
from normhpc.launch.ranks import Command, Job, cell_of, together, train_command, was_stopped
from normhpc.launch.slots import Slot, visible_gpus
from normhpc.launch.slurm.cluster import SlurmError, ask
from normhpc.launch.slurm.journal import Launch, SubmissionJournal
from normhpc.launch.slurm.ranks import RemoteRank, end_file
from normhpc.launch.slurm.scratch import stage_data
from normhpc.launch.slurm.submit import submit_what_fits, warning_seconds
from normhpc.launch.worker import INTERRUPTED
from normhpc.record import SEALED, RunFolder, append_event, read_status
from normhpc.record.folder import host_name
from normhpc.record.journal import read_journal

_ATTEMPTS = 6
"""How often Slurm is asked for the same thing, each time after twice the wait: a controller restarts in a minute."""

_TOLD_SECONDS = 1.0
_EXPLANATION_SECONDS = 5.0

_STUCK_AFTER = 3
"""Stops by the time limit without a step in between, after which a run is not given another try."""


def main(sweep_folder: Path, token: str, start: int) -> int:
    """Run the task that Slurm numbered; returns its exit code."""
    signals = SignalNotes()
    chunk = Chunk(sweep_folder, token, start)
    if was_given_up(chunk.journal):
        return 0
    if chunk.launch.profile.scratch:
        stage_data(chunk.launch.profile.scratch, chunk.configs)
    train = _train_packed if chunk.launch.resources.ranks == 1 else _train_together
    complete = train(chunk, signals)
    if _leads():
        _clear_meetings(sweep_folder, token)
    if _leads() and signals.told:
        return _hand_back(chunk, signals)
    if _leads() and complete:
        submit_more(chunk.journal)
    return 0 if complete or signals.told else 1


def after_failure(sweep_folder: Path, token: str, start: int) -> int:
    """What the batch script does when the ranks ended badly: the rest of the chunk, or the next wave, must go on."""
    chunk = Chunk(sweep_folder, token, start)
    rest = chunk.open_jobs()
    if rest and any(_ended_here(job) for job in chunk.jobs):
        return _requeue(rest)
    for job in rest:
        if _in_flight(job):
            _tell(job, "lost", message=f"its job ended without a word; see {chunk.output}")
    submit_more(chunk.journal)
    return 0


def was_given_up(journal: SubmissionJournal) -> bool:
    """Whether this array is one that was believed to be refused, which is told: nothing of it is to be done."""
    if not journal.is_refused(os.environ.get("SLURM_JOB_NAME", "")):
        return False
    print("this array was believed to be refused; its runs were submitted again under another name", flush=True)
    return True


class Chunk:
    """The runs that this array task is to train."""

    def __init__(self, sweep_folder: Path, token: str, start: int) -> None:
        journal = SubmissionJournal(sweep_folder)
        self.launch = journal.launch(token)
        runs = journal.read_chunk(token, start + array_index())
        self.configs = [RunConfig.model_validate(run["config"]) for run in runs]
        self.jobs = [
            _job(sweep_folder, config, run["swept"], self.launch)
            for config, run in zip(self.configs, runs, strict=True)
        ]
        self.journal = journal

    @property
    def output(self) -> Path:
        """What the tasks of this array print that belongs to no run."""
        return self.journal.folder / "jobs" / f"{os.environ.get('SLURM_ARRAY_JOB_ID', '0')}.out"

    @property
    def command(self) -> Command:
        """How a rank is started."""
        own = self.launch.command
        return (lambda folder: [*own, str(folder.path)]) if own else train_command

    @property
    def patience_seconds(self) -> float:
        """How long ranks may take to save themselves, so that there is time left to requeue."""
        return 0.75 * warning_seconds(self.launch.profile, self.launch.resources.minutes)

    def open_jobs(self) -> list[Job]:
        """What is still to be trained: neither sealed, nor ended for good under this job before it was requeued."""
        return [job for job in self.jobs if read_status(job.folder).state not in SEALED and not _ended_here(job)]


def array_index() -> int:
    """Which task of its array this is."""
    return int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))


class SignalNotes:
    """What Slurm has signalled: USR2 some time before the limit, TERM when the job is to go now."""

    def __init__(self) -> None:
        self.out_of_time = False
        self.told = False
        self.began = time.monotonic()
        signal.signal(signal.SIGUSR2, self._note)
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR2])

    def wait(self, seconds: float) -> None:
        """Wait for a signal; Slurm signals the ranks too, and this one may have been quicker."""
        deadline = time.monotonic() + seconds
        while not self.told and time.monotonic() < deadline:
            time.sleep(0.02)

    def _note(self, number: int, frame: object) -> None:
        self.told = True
        if number == signal.SIGUSR2:
            self.out_of_time = True
            os.kill(os.getpid(), signal.SIGTERM)  # the launcher of packed runs listens to this one


def _job(sweep_folder: Path, config: RunConfig, swept: Mapping[str, Any], launch: Launch) -> Job:
    folder = RunFolder(sweep_folder / config.run_id)

    def create() -> None:
        folder.create(config, sweep=sweep_folder.name, swept=swept, resources=launch.resources, code=launch.version)

    cell = cell_of(config.to_json(), launch.resources)
    return Job(folder, config.run_id, launch.resources, create, config.epochs, cell)


def _leads() -> bool:
    return int(os.environ.get("SLURM_PROCID", "0")) == 0


# ---- training -------------------------------------------------------------------------------------------------------


def _train_packed(chunk: Chunk, signals: SignalNotes) -> bool:
    """Runs of one rank: a queue over the GPU of this task, ``runs_per_gpu`` at a time. True when all were run."""
    waiting, complete = chunk.open_jobs(), True
    while waiting and not signals.told:
        # a node that Slurm gave up may still be training a run: it is left to it until it ends
        free = [job for job in waiting if not job.folder.is_held() and read_status(job.folder).state not in SEALED]
        tried: list[Job] = []
        launcher = LocalLauncher(
            _slots(chunk.launch.resources),
            command=chunk.command,
            patience=Patience(stop=min(Patience().stop, chunk.patience_seconds)),
            origin=slurm_origin(),
            stopped_by="Slurm stopped the job",
            second_signal_kills=False,
        )
        try:
            signals.told |= not launcher.run(together([_noting(job, tried) for job in free]))
        except RecordError as error:
            complete = False
            _say(chunk, error)
        ids = {job.label for job in tried}
        waiting = [job for job in waiting if job.label not in ids and read_status(job.folder).state not in SEALED]
        if waiting and not free:
            time.sleep(1)
    return complete and not signals.told and not chunk.open_jobs()


def _slots(need: Resources) -> list[Slot]:
    gpus: list[str | None] = [*visible_gpus()[:1]] if need.gpus_per_node else []
    return [Slot(number, gpus[0] if gpus else None) for number in range(need.runs_per_gpu)]


def _noting(job: Job, tried: list[Job]) -> Job:
    """``job``, which goes into ``tried`` when its start is attempted."""

    def create() -> None:
        tried.append(job)
        job.create()

    return replace(job, create=create)


def _train_together(chunk: Chunk, signals: SignalNotes) -> bool:
    """Runs of several ranks, one after another; this task is one rank of each. True when all were run.

    A rank that ends badly takes its peers along: those of the last run by ending this task, after which srun ends the
    others; those of an earlier run by a file beside the meeting point, so that the allocation goes on to the next run.
    """
    rank, complete = int(os.environ["SLURM_PROCID"]), True
    todo = {job.label for job in chunk.open_jobs()}
    for number, job in enumerate(chunk.jobs):
        if job.label not in todo:
            continue
        meeting = rendezvous_file(job, chunk.launch.token, number)
        if rank == 0:
            if not _open_meeting(chunk, job, meeting, signals):
                return False
        elif not _await_meeting(meeting, signals):
            return False
        remote = RemoteRank(chunk.command(job.folder), job, rank, meeting, chunk.patience_seconds)
        code = remote.run(signals)
        if was_stopped(code):
            signals.wait(_TOLD_SECONDS)
        if signals.told or code == INTERRUPTED:
            signals.told = True  # by its peers, whose tasks know why
            return False
        if code != 0:
            complete = False
            _tell_loss(job, rank, code, remote.killed)
            end_file(meeting).touch()
    return complete


def _open_meeting(chunk: Chunk, job: Job, meeting: Path, signals: SignalNotes) -> bool:
    """Make the run's record and let the other ranks come. False when told to stop, or when it cannot be made."""
    while job.folder.is_held() and not signals.told:
        time.sleep(0.5)  # a node that Slurm gave up may still be training it
    if signals.told:
        return False
    try:
        job.create()
        _tell(job, "submitted")
        _go_file(meeting).touch()
    except (OSError, RecordError) as error:
        _say(chunk, f"{job.folder.path}: cannot be started ({error})")
        return False
    return True


def _await_meeting(meeting: Path, signals: SignalNotes) -> bool:
    """Wait for rank 0, which may itself wait; a shared file system may be late to show its file."""
    while not _go_file(meeting).exists():
        if signals.told:
            return False
        time.sleep(0.1)
    return True


def _go_file(meeting: Path) -> Path:
    return meeting.with_name(f"{meeting.name}.go")


def rendezvous_file(job: Job, token: str, number: int) -> Path:
    """A fresh file for the ranks of this attempt to meet: named by launch, job, restart and place in the chunk.

    The launch is in it because a cluster that was set up anew counts its jobs from 1 again.
    """
    place = job.folder.path.parent / ".slurm" / "rendezvous"
    place.mkdir(exist_ok=True)
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return place / f"{token}-{os.environ['SLURM_JOB_ID']}-{restart}-{number}"


def _clear_meetings(sweep_folder: Path, token: str) -> None:
    """Remove the meeting points of this attempt. Those who still look for them are about to be ended."""
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    for path in (sweep_folder / ".slurm" / "rendezvous").glob(
        f"{token}-{os.environ.get('SLURM_JOB_ID', '')}-{restart}-*"
    ):
        path.unlink(missing_ok=True)


# ---- telling --------------------------------------------------------------------------------------------------------


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


def _tell(job: Job, kind: str, **details: Any) -> None:
    append_event(job.folder, kind, **slurm_origin(), **details)


def _tell_loss(job: Job, rank: int, code: int, killed: bool) -> None:
    """Say who was lost. A rank that ended by itself has said so, or has lost a peer, whose task gets time to say so."""
    if code < 0 and not killed:
        _tell(
            job, "lost", rank=rank, message=f"rank {rank} on {host_name()} was killed by {signal.Signals(-code).name}"
        )
        return
    deadline = time.monotonic() + _EXPLANATION_SECONDS
    while not _ended_here(job) and time.monotonic() < deadline:
        time.sleep(0.1)


def _say(chunk: Chunk, problem: object) -> None:
    """Tell what stands in no record, because there is none: in the output of the job and in the sweep's journal."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        chunk.journal.trouble(str(problem), **slurm_origin())


def _ended_here(job: Job) -> bool:
    """Whether the run failed, or was lost for a reason that is known, under this job; it is not tried again by it."""
    since_submission: list[Mapping[str, Any]] = []
    mine = False
    for row in read_journal(job.folder.events).rows:
        if row.get("event") == "submitted":
            since_submission, mine = [], row.get("job") == slurm_origin()["job"]
        since_submission.append(row)
    return mine and any(row.get("event") in ("failed", "lost") for row in since_submission)


# ---- handing back ---------------------------------------------------------------------------------------------------


def _hand_back(chunk: Chunk, signals: SignalNotes) -> int:
    """The task was told to go: before its limit the rest is requeued here; otherwise Slurm knows what it is doing."""
    rest = chunk.open_jobs()
    if not signals.out_of_time:
        for job in rest:
            if _in_flight(job):
                _tell(job, "cancelled", reason="Slurm stopped the job")
        return 0
    minutes = chunk.launch.resources.minutes
    if time.monotonic() - signals.began > minutes * 60 / 4:
        for job in rest:
            if _in_flight(job) and _is_stuck(job):
                message = (
                    f"its time limit of {minutes} min stopped it {_STUCK_AFTER} times at the same step; "
                    "give it more: resources.minutes"
                )
                _tell(job, "failed", **{"class": "TimeLimit"}, message=message)
        rest = chunk.open_jobs()
    return _requeue(rest) if rest else 0


def _in_flight(job: Job) -> bool:
    """Whether the newest event says that this job was at the run."""
    rows = [row for row in read_journal(job.folder.events).rows if row.get("event") != "warning"]
    return bool(rows) and rows[-1].get("event") in ("submitted", "started", "resumed", "preempted")


def _is_stuck(job: Job) -> bool:
    """Whether this stop and those before it, each by the time limit, all came at the same step."""
    places: list[Any] = []
    here: Any = None
    for row in read_journal(job.folder.events).rows:
        if row.get("event") in ("started", "resumed", "preempted"):
            here = (row.get("epoch"), row.get("step"))
        elif row.get("event") == "requeued":
            places.append(here)
    newest = [*places, here][-_STUCK_AFTER:]
    return len(newest) == _STUCK_AFTER and all(place == newest[0] for place in newest)


def _requeue(rest: Sequence[Job]) -> int:
    """Give the rest of the chunk back to the queue under the same job."""
    for job in rest:
        if job.folder.run_json.exists() and read_status(job.folder).state != "failed":
            _tell(job, "requeued")
    try:
        requeue_job()
    except SlurmError as error:
        for job in rest:
            if job.folder.run_json.exists():
                _tell(job, "lost", message=f"the job could not be requeued: {error}")
        return 1
    return 0


def requeue_job() -> None:
    """Have Slurm start this job once more. Raises :class:`SlurmError` when it will not."""
    _insist("scontrol", "requeue", os.environ["SLURM_JOB_ID"])


def _insist(*command: str) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            ask(*command)
        except SlurmError as error:
            print(error, file=sys.stderr, flush=True)
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(2**attempt)
        else:
            return


def submit_more(journal: SubmissionJournal) -> None:
    """The next wave, if there is room now. A controller that does not answer is asked again a few times."""
    for attempt in range(_ATTEMPTS):
        try:
            submit_what_fits(journal)
        except (NormhpcError, OSError, subprocess.SubprocessError) as error:
            print(f"could not submit more: {error}", file=sys.stderr, flush=True)
            time.sleep(2**attempt)
        else:
            return


def start() -> None:
    """What ``python -m normhpc.launch.slurm.task`` does."""
    *after, sweep_folder, token, first = sys.argv[1:]
    act = after_failure if after else main
    sys.exit(act(Path(sweep_folder), token, int(first)))


if __name__ == "__main__":
    start()
