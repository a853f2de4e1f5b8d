"""``normhpc sweep`` on a Slurm cluster: check, snapshot, submit, and follow when asked."""

import json
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console

from normhpc.config import Resources
from normhpc.errors import InputError
from normhpc.launch.code import code_version
from normhpc.launch.local import counted, held_sweep
from normhpc.launch.profile import Profile, load_profile
from normhpc.launch.slurm.cluster import Cluster, Partition
from normhpc.launch.slurm.journal import Launch, SubmissionJournal, Submittable
from normhpc.launch.slurm.snapshot import snapshot_code
from normhpc.launch.slurm.states import Queue
from normhpc.launch.slurm.submit import ArrayExecutor, sbatch_parameters, submit_what_fits, take_over
from normhpc.record import STATES, RunFolder, State, read_status
from normhpc.sweep.plan import Plan

_FOLLOW_SECONDS = 3.0


def submit(
    plan: Plan, partition: str | None, profile: str | None, console: Console, *, stay: bool, as_json: bool
) -> int:
    """``normhpc sweep`` without ``--local``. Returns the exit code; with ``stay`` only when all runs have ended."""
    chosen = load_profile(profile, partition)
    cluster = Cluster()
    for note in plan.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if plan.launch:
        submitted = submit_runs(plan.folder, plan.launch, chosen, cluster, console)
    else:
        submitted = 0
        console.print(f"{plan.sweep.name}: nothing to submit, {counted(len(plan.states), 'run')} known", soft_wrap=True)
    code = follow(plan, console) if stay else 0
    if as_json:
        launched = [run.run_id for run in plan.launch]
        print(json.dumps({"sweep": plan.sweep.name, "launched": launched, "jobs_submitted": submitted}, indent=2))
    return code


def tell_request(plan: Plan, partition: str | None, profile: str | None, console: Console) -> None:
    """For a dry run: refuse what the partition never has, and say when Slurm would start the first job."""
    chosen = load_profile(profile, partition)
    if not plan.launch:
        return
    cluster = Cluster()
    check_request([run.resources for run in plan.launch], chosen, cluster)
    jobs = sum(-(-len(list(alike)) // shape.runs_per_job) for shape, alike in _by_resources(plan))
    tell_room(jobs, plan.launch[0].resources, chosen, cluster, console)


def tell_room(jobs: int, need: Resources, profile: Profile, cluster: Cluster, console: Console) -> None:
    """Say how many of ``jobs`` the cluster takes now, and when Slurm would start the first, which is for ``need``."""
    console.print(
        f"partition {cluster.partition(profile.partition).name}: {counted(jobs, 'job')}, room for "
        f"{cluster.free_submissions():,} now, at most {cluster.max_array_size:,} in an array; "
        f"{start_estimate(need, profile)}",
        soft_wrap=True,
    )


def start_estimate(need: Resources, profile: Profile) -> str:
    """When Slurm would start a job for ``need``, in a few words, by ``sbatch --test-only``; nothing is submitted."""
    with tempfile.TemporaryDirectory() as place:
        trial = Launch("trial", need, profile, code="", version={}, chunks=[])
        script = Path(place) / "trial.sh"
        script.write_text(batch_script(trial, Path(place)))
        answer = subprocess.run(
            ["sbatch", "--test-only", str(script)], capture_output=True, text=True, timeout=60, check=False
        )
    if start := re.search(r"to start at (\S+)", answer.stderr):
        return f"Slurm would start the first at {start[1]}"
    words = [line for line in answer.stderr.splitlines() if line.strip()] or ["no answer"]
    return f"Slurm gives no start time ({words[-1]})"


def batch_script(launch: Launch, jobs: Path, *, count: int | None = None, minutes: int | None = None) -> str:
    """A script that asks for what a job of ``launch`` gets, and does nothing; for an array of ``count`` jobs."""
    executor = ArrayExecutor(jobs)
    executor.update_parameters(**sbatch_parameters(launch, f"nh-{launch.token}", jobs, minutes))
    if count is not None:
        executor.parameters["map_count"] = count
    return str(executor._make_submission_file_text("true", launch.token))


def _by_resources(plan: Plan) -> Iterator[tuple[Resources, Iterator[Submittable]]]:
    for _, alike in groupby(sorted(plan.launch, key=_shape), key=_shape):
        runs = list(alike)
        yield runs[0].resources, iter(runs)


def submit_runs(
    sweep_folder: Path, runs: Sequence[Submittable], profile: Profile, cluster: Cluster, console: Console
) -> int:
    """Submit ``runs`` of the sweep in ``sweep_folder``. Returns how many array tasks Slurm has taken.

    What another call has submitted since ``runs`` were planned is left out. What Slurm's limits do not let in yet is
    submitted by the tasks that end. Raises :class:`InputError`, before anything is submitted, for a request that the
    partition can never fulfil.
    """
    check_request([run.resources for run in runs], profile, cluster)
    with held_sweep(sweep_folder):
        journal = SubmissionJournal(sweep_folder)
        with journal.held():
            runs = take_over(journal, runs, cluster)
            if not runs:
                console.print(f"{sweep_folder.name}: nothing to submit, another call has just done so", soft_wrap=True)
                return 0
            code = snapshot_code(journal.folder)
            shapes = sorted(runs, key=_shape)
            launches = [
                journal.declare(list(alike), profile, str(code), code_version())
                for _, alike in groupby(shapes, key=_shape)
            ]
        submitted = submit_what_fits(journal)
    console.print(f"{sweep_folder.name}: {told_of(launches, submitted)}", soft_wrap=True)
    return submitted


def told_of(launches: Sequence[Launch], submitted: int) -> str:
    """How many runs and jobs ``launches`` have, of which ``submitted`` have been, in words."""
    chunks = [chunk for launch in launches for chunk in launch.chunks]
    told = f"{counted(sum(map(len, chunks)), 'run')} in {counted(len(chunks), 'job')}, {submitted:,} submitted"
    if submitted < len(chunks):
        told += f"; the other {len(chunks) - submitted:,} wait for room and are submitted by those that end"
    return told


def _shape(run: Submittable) -> str:
    return run.resources.model_dump_json()


def check_request(
    needs: list[Resources], profile: Profile, cluster: Cluster, cure: str = "change it in the sweep, or with --set"
) -> None:
    """Raise :class:`InputError` for what no node of the partition has, with what it has and the ``cure``."""
    partition = cluster.partition(profile.partition)
    problems = {f"{problem}; {cure}" for need in set(needs) for problem in _excesses(need, profile, partition)}
    if problems:
        raise InputError("\n".join(sorted(problems)))


def _excesses(need: Resources, profile: Profile, partition: Partition) -> list[str]:
    tasks = max(1, need.gpus_per_node)
    cpus = (profile.cpus_per_gpu or need.cpus_per_gpu) * need.runs_per_gpu * tasks
    memory_mb = int((profile.mem_gb_per_gpu or need.mem_gb_per_gpu) * need.runs_per_gpu * tasks * 1024)
    gpus = need.gpus_per_node if profile.gpus != "none" else 0
    where = f"partition {partition.name}"
    checks = [
        (need.nodes > partition.nodes, f"resources.nodes: {need.nodes}, but {where} has {partition.nodes}"),
        (
            gpus > partition.gpus_per_node,
            f"resources.gpus_per_node: {gpus}, but a node of {where} has {partition.gpus_per_node}",
        ),
        (
            cpus > partition.cpus_per_node,
            f"resources.cpus_per_gpu: {cpus} cores on a node in all, but a node of {where} has {partition.cpus_per_node}",
        ),
        (
            profile.memory and memory_mb > partition.mem_mb_per_node,
            f"resources.mem_gb_per_gpu: {memory_mb / 1024:.1f} GiB on a node in all, but a node of {where} has "
            f"{partition.mem_mb_per_node / 1024:.1f}",
        ),
        (
            partition.minutes is not None and need.minutes > partition.minutes,
            f"resources.minutes: {need.minutes}, but {where} allows {partition.minutes}",
        ),
    ]
    return [message for exceeds, message in checks if exceeds]


def follow(plan: Plan, console: Console) -> int:
    """Tell what changes until no run of the plan is in flight. Returns 1 when a run failed or was lost, else 0."""
    told: Counter[State] = Counter()
    while True:
        queued = Queue().runs_of(plan.folder) or {}
        states = {run_id: queued.get(run_id) or _recorded(plan.folder / run_id) for run_id in plan.states}
        counts = Counter(states.values())
        if counts != told:
            shown = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
            console.print(f"{time.strftime('%H:%M:%S')}  {shown}", soft_wrap=True)
            told = counts
        if not queued:
            return int(any(states[run_id] not in ("finished", "diverged") for run_id in states))
        time.sleep(_FOLLOW_SECONDS)


def _recorded(path: Path) -> State:
    return read_status(RunFolder(path)).state if path.exists() else "new"
