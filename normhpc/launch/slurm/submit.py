"""Submitting: as many chunks as Slurm will take, each wave written down before and after. submitit renders and calls."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from normhpc.launch.profile import Profile
from normhpc.launch.slurm.cluster import Cluster, SlurmError, ask
from normhpc.launch.slurm.journal import Launch, SubmissionJournal, SubmittableRun, Wave
from normhpc.launch.slurm.states import Queue
from normhpc.record import SEALED, RunFolder, read_status

_LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "PMI_", "PMIX_", "MASTER_", "TORCHELASTIC_")
_LEAKING_NAMES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"),
    *("NORMHPC_RENDEZVOUS", "NORMHPC_LAUNCHER_PIPE"),
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"),
)
_KEPT = ("SLURM_CONF",)

_SETTLE_SECONDS = 2.0

_SIGNAL_SHARE = 15
"""Seconds of warning for each minute of the limit, at most: Slurm may warn a minute early, and a quarter is enough."""


_START = (
    "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2]); "
    "from {module} import start; start()"
)
"""Starts a task. Its imports take half a second, in which signals wait."""

_TRAINS = "normhpc.launch.slurm.task"
_ANALYSES = "normhpc.launch.slurm.analysis_task"


class ArrayExecutor(SlurmExecutor):
    """submitit's batch script and sbatch call, for an array of a plain command instead of pickled functions.

    A task finds its work by its array index, so an array of any size is one small script and no file per task.
    """

    def submit_array_of(self, command: list[str], count: int) -> str:
        """Submit ``count`` tasks of ``command``; returns the id of the array."""
        executor = ArrayExecutor(self.folder)
        executor.update_parameters(**self.parameters)
        executor.parameters["map_count"] = count
        return str(executor._submit_command(shlex.join(command)).job_id)


def submit_what_fits(journal: SubmissionJournal) -> int:
    """Submit the chunks that no wave has yet, as far as the limits of the cluster go. Returns how many.

    Called by ``normhpc sweep`` and ``normhpc analyze``, and by every task that ends: the last one of a wave finds room
    for the next, so that nothing has to stay behind on the login node. Raises :class:`SlurmError` when Slurm refuses for
    another reason than its limits.
    """
    cluster, count = Cluster(), 0
    with journal.held():
        settle_intents(journal, cluster)
        launches = [launch for launch in journal.launches() if not launch.closed]
        waiting = sum(len(launch.chunks) - launch.submitted for launch in launches)
        if not waiting:
            return 0
        room = cluster.free_submissions()
        if room < waiting and not _worth_it(room, launches, cluster):
            return 0
        for launch in launches:
            while launch.submitted < len(launch.chunks) and room > 0:
                size = min(room, cluster.max_array_size, len(launch.chunks) - launch.submitted)
                if _submit_wave(journal, launch, size, cluster):
                    room -= size
                    count += size
                else:
                    # a limit that could not be read beforehand: fewer may still fit
                    room = size // 2
    return count


def _worth_it(room: int, launches: Sequence[Launch], cluster: Cluster) -> bool:
    """Whether to submit a part of what is left: every task that ends asks, and should not each call sbatch for one.

    Yes when nothing of the sweep waits in the queue any more, otherwise when a quarter of what it may hold is free.
    """
    names = {wave.name for launch in launches for wave in launch.waves}
    queued = [job for job in cluster.my_jobs("nh-") if job.name in names]
    pending = sum(job.state == "PENDING" for job in queued)
    return not pending or room * 3 >= len(queued)


def take_over(journal: SubmissionJournal, runs: Sequence[SubmittableRun], cluster: Cluster) -> Sequence[SubmittableRun]:
    """Those of ``runs`` that nobody is at: since they were planned, another call may have submitted some.

    Called with the journal held; see :func:`close_abandoned`.
    """
    close_abandoned(journal, cluster)
    sweep_folder = journal.sweep_folder
    queued = Queue().runs_of(sweep_folder) or {}
    return [run for run in runs if run.run_id not in queued and not _is_sealed(sweep_folder / run.run_id)]


def close_abandoned(journal: SubmissionJournal, cluster: Cluster) -> None:
    """Close the rest of launches that nobody submits any more: who calls this submits what of it is still wanted.

    A launch that has tasks in the queue goes on submitting what is left of it. Called with the journal held.
    """
    settle_intents(journal, cluster)
    names = {job.name for job in cluster.my_jobs("nh-")}
    left = [launch for launch in journal.launches() if not launch.closed]
    journal.close([launch for launch in left if not any(wave.name in names for wave in launch.waves)])


def _is_sealed(path: Path) -> bool:
    return path.exists() and read_status(RunFolder(path)).state in SEALED


def settle_intents(journal: SubmissionJournal, cluster: Cluster) -> None:
    """Ask Slurm about waves that somebody meant to submit and never heard of: killed, or cut off, in between."""
    for launch in journal.launches():
        for wave in launch.waves:
            if wave.job_id is None:
                _settle(journal, cluster, wave.name, "unknown to Slurm")


def _settle(journal: SubmissionJournal, cluster: Cluster, name: str, why: str) -> str | None:
    """Write down whether Slurm has the array called ``name``; its id when it has."""
    queued = [job.array_id for job in cluster.my_jobs(name, ended=True) if job.name == name]
    job_id = queued[0] if queued else _accounted(name)
    if job_id is not None:
        journal.accepted(name, job_id)
    else:
        journal.refused(name, why)
    return job_id


def _accounted(name: str) -> str | None:
    """The id of an array that has left the queue already, where the cluster keeps accounts."""
    try:
        text = ask(
            "sacct", "--noheader", "--parsable2", "-X", f"--name={name}", "--starttime=now-7days", "--format=JobID"
        )
    except SlurmError:
        return None
    return text.split("_")[0].split()[0] if text.strip() else None


def _submit_wave(journal: SubmissionJournal, launch: Launch, size: int, cluster: Cluster) -> bool:
    """Submit the next ``size`` chunks. False when Slurm's limits are reached."""
    start = launch.submitted
    name = journal.intend(launch, start, start + size)
    module = _ANALYSES if launch.analysis else _TRAINS
    command = task_command(journal.sweep_folder, launch.token, start, module)
    jobs = (journal.folder / "jobs").absolute()
    jobs.mkdir(exist_ok=True)
    executor = ArrayExecutor(jobs)
    minutes = job_minutes(launch, cluster)
    executor.update_parameters(
        **sbatch_parameters(launch, name, jobs, minutes),
        teardown=after_lines(journal.sweep_folder, launch.token, start, module),
    )
    try:
        with clean_environment(launch):
            job_id: str | None = executor.submit_array_of(command, size)
    except (FailedSubmissionError, FailedJobError, OSError) as error:
        if _is_limit(str(error)):
            journal.refused(name, _first_line(str(error)))
            return False
        # an answer that never came may still be an acceptance
        time.sleep(_SETTLE_SECONDS)
        job_id = _settle(journal, Cluster(), name, str(error))
        if job_id is None:
            raise SlurmError(f"sbatch refused {size} jobs: {_first_line(str(error))}") from None
    else:
        assert job_id is not None
        journal.accepted(name, job_id)
    launch.waves.append(Wave(name, start, start + size, job_id))
    return True


def task_command(sweep_folder: Path, token: str, start: int, module: str = _TRAINS) -> list[str]:
    """What every rank of an array task starts; ``module`` does its work."""
    call = _START.format(module=module)
    task = [sys.executable, "-u", "-c", call, str(sweep_folder.absolute()), token, str(start)]
    # until Python listens, a warning would kill it
    return ["bash", "-c", 'trap "" USR2; exec "$@"', "task", *task]


def after_lines(sweep_folder: Path, token: str, start: int, module: str = _TRAINS) -> list[str]:
    """The end of the batch script: where ranks were lost, somebody must see to the rest."""
    task = ["-u", "-m", module, "--after", str(sweep_folder.absolute()), token, str(start)]
    after = shlex.join([sys.executable, *task])
    return ["code=$?", f"[ $code -eq 0 ] || {after}", "exit $code"]


def sbatch_parameters(launch: Launch, name: str, jobs: Path, minutes: int | None = None) -> dict[str, Any]:
    """What submitit is told: the resources of the launch in the words of its profile; ``jobs`` is for its files.

    ``minutes`` is the limit of a job where that is not the limit of a run.
    """
    need, profile = launch.resources, launch.profile
    minutes = minutes or need.minutes
    tasks = max(1, need.gpus_per_node)
    cpus = profile.cpus_per_gpu or need.cpus_per_gpu
    memory = profile.mem_gb_per_gpu or need.mem_gb_per_gpu
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": minutes,
        "nodes": need.nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": cpus * need.runs_per_gpu,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "mem": f"{int(memory * need.runs_per_gpu * tasks * 1024)}M" if profile.memory else None,
        "signal_delay_s": warning_seconds(profile, minutes),
        "array_parallelism": profile.max_parallel or 1_000_000,
        "stderr_to_stdout": True,
        "wckey": None,
        # the ranks' output goes into the records; what a task itself prints, into one file for the whole array
        "srun_args": ["--kill-on-bad-exit=1", f"--output={jobs}/%A.out"],
        # a warning meant for the ranks must not end the script that waits for them
        "setup": ["trap : USR2", *profile.setup, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
        "additional_parameters": {
            "requeue": True,
            "output": f"{jobs}/%A.out",
            **{name: value for name, value in profile.sbatch.items() if value is not False},
        },
    }
    parameters |= _gpu_parameters(profile, need.gpus_per_node)
    return {key: value for key, value in parameters.items() if value is not None} | {"wckey": None}


def warning_seconds(profile: Profile, minutes: int) -> int:
    """How long before its limit a job is told to save itself, which must leave time to get anywhere at all."""
    return min(profile.signal_seconds, _SIGNAL_SHARE * minutes)


def job_minutes(launch: Launch, cluster: Cluster) -> int:
    """Time limit of a job: that of a run, as often as runs of a chunk follow one another, as far as the partition goes.

    A job that is stopped by its limit goes on with what is left, so a shorter limit loses nothing.
    """
    need = launch.resources
    at_once = need.runs_per_gpu if need.ranks == 1 else 1
    in_turn = -(-max(map(len, launch.chunks)) // at_once)
    if in_turn == 1:
        return need.minutes
    most = cluster.partition(launch.profile.partition).minutes
    return min(need.minutes * in_turn, most or need.minutes * in_turn)


def _gpu_parameters(profile: Profile, gpus: int) -> dict[str, Any]:
    if gpus == 0 or profile.gpus == "none":
        return {}
    kind = f"{profile.gpu_type}:" if profile.gpu_type else ""
    match profile.gpus:
        case "gres":
            return {"gres": f"gpu:{kind}{gpus}"}
        case "gpus-per-node":
            return {"gpus_per_node": f"{kind}{gpus}"}
    return {"gpus_per_task": f"{kind}1"}


@contextlib.contextmanager
def clean_environment(launch: Launch) -> Iterator[None]:
    """Submit from an environment that tells the job nothing of the shell's own job; the code snapshot comes first."""
    before = dict(os.environ)
    profile = launch.profile
    # without the second one the folder a job starts in, often the checkout itself, would go before the snapshot
    own = {"PYTHONPATH": launch.code, "PYTHONSAFEPATH": "1"} if launch.code else {}
    if profile.network_interface:
        own |= {"NCCL_SOCKET_IFNAME": profile.network_interface, "GLOO_SOCKET_IFNAME": profile.network_interface}
    kept = {
        name: value
        for name, value in before.items()
        if name in _KEPT or not (name.startswith(_LEAKING) or name in _LEAKING_NAMES)
    }
    os.environ.clear()
    os.environ.update(kept | own | profile.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _is_limit(text: str) -> bool:
    signs = (
        "MaxSubmitJob",
        "QOSMaxSubmitJob",
        "AssocMaxSubmitJob",
        "AssocGrpSubmitJob",
        "MaxJobCount",
        "maximum job count",
        "Resource temporarily unavailable",  # how sbatch puts MaxJobCount
    )
    return any(sign in text for sign in signs) or "Job violates accounting/QOS policy" in text


def _first_line(text: str) -> str:
    lines = (
        [line.strip() for line in text.splitlines() if "error" in line.lower()] or text.strip().splitlines() or [text]
    )
    return lines[-1]
