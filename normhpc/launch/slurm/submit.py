"""Submitting: as many chunks as Slurm will take, each wave written down before and after. submitit renders and calls."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from normhpc.launch.profile import Profile
from normhpc.launch.slurm.cluster import Cluster, SlurmError, ask
from normhpc.launch.slurm.journal import Launch, SubmissionJournal, Wave

_LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "PMI_", "PMIX_", "MASTER_", "TORCHELASTIC_")
_LEAKING_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_KEPT = ("SLURM_CONF",)

_SETTLE_SECONDS = 2.0


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


def submit_what_fits(sweep_folder: Path) -> int:
    """Submit the chunks that no wave has yet, as far as the limits of the cluster go. Returns how many.

    Called by ``normhpc sweep``, and by every task that ends: the last one of a wave finds room for the next, so
    that nothing has to stay behind on the login node. Raises :class:`SlurmError` when Slurm refuses for another
    reason than its limits.
    """
    journal, cluster, count = SubmissionJournal(sweep_folder), Cluster(), 0
    with journal.held():
        settle_intents(journal, cluster)
        launches = [launch for launch in journal.launches() if not launch.closed]
        if all(launch.submitted >= len(launch.chunks) for launch in launches):
            return 0
        room = cluster.free_submissions()
        for launch in launches:
            while launch.submitted < len(launch.chunks) and room > 0:
                size = min(room, cluster.max_array_size, len(launch.chunks) - launch.submitted)
                if not _submit_wave(journal, launch, sweep_folder, size):
                    return count
                room -= size
                count += size
    return count


def settle_intents(journal: SubmissionJournal, cluster: Cluster) -> None:
    """Ask Slurm about waves that somebody meant to submit and never heard of: killed, or cut off, in between."""
    for launch in journal.launches():
        for wave in launch.waves:
            if wave.job_id is None:
                _settle(journal, cluster, wave.name, "unknown to Slurm")


def _settle(journal: SubmissionJournal, cluster: Cluster, name: str, why: str) -> str | None:
    """Write down whether Slurm has the array called ``name``; its id when it has."""
    queued = [job.array_id for job in cluster.my_jobs(name) if job.name == name]
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


def _submit_wave(journal: SubmissionJournal, launch: Launch, sweep_folder: Path, size: int) -> bool:
    """Submit the next ``size`` chunks. False when Slurm's limits are reached."""
    start = launch.submitted
    name = journal.intend(launch, start, start + size)
    command = [
        sys.executable,
        "-u",
        "-m",
        "normhpc.launch.slurm.task",
        str(sweep_folder.absolute()),
        launch.token,
        str(start),
    ]
    jobs = (journal.folder / "jobs").absolute()
    jobs.mkdir(exist_ok=True)
    executor = ArrayExecutor(jobs)
    executor.update_parameters(**sbatch_parameters(launch, name, jobs))
    try:
        with clean_environment(launch):
            job_id: str | None = executor.submit_array_of(command, size)
    except (FailedSubmissionError, FailedJobError, OSError) as error:
        # an answer that never came may still be an acceptance
        time.sleep(_SETTLE_SECONDS)
        job_id = _settle(journal, Cluster(), name, str(error))
        if job_id is None:
            if _is_limit(str(error)):
                return False
            raise SlurmError(f"sbatch refused {size} jobs: {_first_line(str(error))}") from None
    else:
        assert job_id is not None
        journal.accepted(name, job_id)
    launch.waves.append(Wave(name, start, start + size, job_id))
    return True


def sbatch_parameters(launch: Launch, name: str, jobs: Path) -> dict[str, Any]:
    """What submitit is told: the resources of the launch in the words of its profile; ``jobs`` is for its files."""
    need, profile = launch.resources, launch.profile
    tasks = max(1, need.gpus_per_node)
    cpus = profile.cpus_per_gpu or need.cpus_per_gpu
    memory = profile.mem_gb_per_gpu or need.mem_gb_per_gpu
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": need.minutes,
        "nodes": need.nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": cpus * need.runs_per_gpu,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "mem": f"{int(memory * need.runs_per_gpu * tasks * 1024)}M" if profile.memory else None,
        "signal_delay_s": profile.signal_seconds,
        "array_parallelism": profile.max_parallel or 1_000_000,
        "stderr_to_stdout": True,
        "wckey": None,
        # the ranks' output goes into the records; what a task itself prints, into one file for the whole array
        "srun_args": ["--kill-on-bad-exit=1", f"--output={jobs}/%A.out"],
        "setup": [*profile.setup, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
        "additional_parameters": {"requeue": True, "output": f"{jobs}/%A.out", **profile.sbatch},
    }
    parameters |= _gpu_parameters(profile, need.gpus_per_node)
    return {key: value for key, value in parameters.items() if value is not None} | {"wckey": None}


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
    )
    return any(sign in text for sign in signs) or "Job violates accounting/QOS policy" in text


def _first_line(text: str) -> str:
    lines = (
        [line.strip() for line in text.splitlines() if "error" in line.lower()] or text.strip().splitlines() or [text]
    )
    return lines[-1]
