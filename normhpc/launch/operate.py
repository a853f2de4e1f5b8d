"""Acting on runs that were launched: cancel, retry with more of what they lacked, put aside what is not declared."""

import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from normhpc.config import Resources, RunConfig
from normhpc.errors import InputError
from normhpc.launch.code import code_version
from normhpc.launch.live import LineWatcher
from normhpc.launch.local import LocalLauncher, counted, held_sweep
from normhpc.launch.ranks import Command, Job, train_command
from normhpc.launch.slots import make_slots
from normhpc.launch.slurm.cluster import Cluster, SlurmError, ask
from normhpc.launch.slurm.journal import SubmissionJournal
from normhpc.launch.slurm.states import Queue, array_tasks_of
from normhpc.launch.targets import Target
from normhpc.record import SEALED, RunFolder, append_event, read_status, state_with_queue
from normhpc.record.folder import host_name
from normhpc.record.journal import read_journal
from normhpc.results.failures import FailureGroup, Why, group_failures
from normhpc.sweep.plan import Plan

_MORE = 2
"""What memory or time is multiplied by where more of it is the cure."""


def cancel(target: Target, console: Console) -> int:
    """Stop the runs of ``target`` that are in flight; they save themselves first. Returns how many there were."""
    queued = Queue().runs_of(target.sweep_folder)
    journal = SubmissionJournal(target.sweep_folder)
    launches = journal.launches() if queued is not None else []
    if target.whole and launches:
        with journal.held():
            journal.close([launch for launch in launches if not launch.closed])
    meant = dict.fromkeys([*(run.path.name for run in target.runs), *(queued or {} if target.whole else {})])
    in_queue = [run_id for run_id in meant if run_id in (queued or {})]
    tasks = [task for run_id in in_queue for task in array_tasks_of(launches, run_id)]
    if tasks:
        ask("scancel", *dict.fromkeys(tasks))
    local = [run for run in target.runs if run.path.name not in in_queue and run.is_held()]
    for run in local:
        _stop_local(run)
    for run in [RunFolder(target.sweep_folder / run_id) for run_id in in_queue]:
        if run.run_json.exists():
            append_event(run, "cancelled", reason="normhpc cancel")
    count = len(in_queue) + len(local)
    console.print(f"{target.sweep_folder.name}: {counted(count, 'run')} cancelled", soft_wrap=True)
    return count


def _stop_local(run: RunFolder) -> None:
    """Ask the processes that train ``run`` on this machine to save it and end."""
    started = [row for row in read_journal(run.events).rows if row.get("event") in ("started", "resumed")]
    pids = started[-1].get("pids", []) if started and started[-1].get("host") == host_name() else []
    if not pids:
        raise InputError(f"{run.path}: is being trained on another machine; stop it there")
    append_event(run, "cancelled", reason="normhpc cancel")
    for pid in pids:
        os.kill(pid, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class AgainRun:
    """A recorded run to launch once more, with the resources it is to get now."""

    run_id: str
    config_json: str
    swept: Mapping[str, Any]
    resources: Resources
    seed: int


def failures_of(target: Target) -> list[FailureGroup]:
    """The failed and lost runs of ``target`` by fault; Slurm is asked once what it says of their jobs."""
    queued = Queue().runs_of(target.sweep_folder)
    events: dict[str, Mapping[str, Any]] = {}
    for run in target.runs:
        status = read_status(run)
        state = state_with_queue(status.state, run, queued)
        if state in ("failed", "lost"):
            events[run.path.name] = status.event
    return group_failures(events, _slurm_states(target, list(events)))


def _slurm_states(target: Target, run_ids: Sequence[str]) -> dict[str, str]:
    """Slurm's word for the newest job of each run; empty where the cluster keeps no accounts."""
    jobs = {run_id: job for run_id in run_ids if (job := _newest_job(RunFolder(target.sweep_folder / run_id)))}
    if not jobs:
        return {}
    try:
        text = ask(
            "sacct",
            "--noheader",
            "--parsable2",
            "-X",
            f"--jobs={','.join(sorted(set(jobs.values())))}",
            "--format=JobID,State",
        )
    except SlurmError:
        return {}
    states = dict(line.split("|")[:2] for line in text.splitlines() if "|" in line)
    return {run_id: states[job].split()[0] for run_id, job in jobs.items() if job in states}


def _newest_job(run: RunFolder) -> str | None:
    jobs = [row["job"] for row in read_journal(run.events).rows if row.get("launcher") == "slurm" and row.get("job")]
    return jobs[-1] if jobs else None


def runs_to_retry(target: Target, groups: Sequence[FailureGroup], why: Why | None) -> list[AgainRun]:
    """The runs of ``groups`` (of one cause, when ``why`` is given), with more memory or time where that is the cure."""
    found = []
    for group in groups:
        if why is None or group.why == why:
            found += [_again(RunFolder(target.sweep_folder / run_id), group.why) for run_id in group.run_ids]
    return found


def _again(folder: RunFolder, why: Why) -> AgainRun:
    info = folder.read_run()
    need = info.resources
    if why == "oom":
        need = need.model_copy(update={"mem_gb_per_gpu": need.mem_gb_per_gpu * _MORE})
    elif why == "timeout":
        need = need.model_copy(update={"minutes": need.minutes * _MORE})
    config = info.config.to_json()
    return AgainRun(info.run_id, json.dumps(config), info.swept, need, config["seed"])


def retry(target: Target, why: Why | None, console: Console, *, command: Command = train_command) -> int:
    """Launch failed and lost runs again, where they were launched before. Returns the exit code.

    ``command`` starts a rank on this machine.
    """
    groups = failures_of(target)
    for group in groups:
        size = counted(len(group.run_ids), "run")
        console.print(f"{group.fingerprint}  {size}  {group.why}  {group.example}", soft_wrap=True)
    runs = runs_to_retry(target, groups, why)
    if not runs:
        console.print(f"{target.sweep_folder.name}: nothing to retry", soft_wrap=True)
        return 0
    launches = SubmissionJournal(target.sweep_folder).launches()
    if launches:
        from normhpc.launch.slurm.command import submit_runs

        submit_runs(target.sweep_folder, runs, launches[-1].profile, Cluster(), console)
        return 0
    return _retry_locally(target.sweep_folder, runs, console, command)


def _retry_locally(sweep_folder: Path, runs: Sequence[AgainRun], console: Console, command: Command) -> int:
    slots = make_slots(None, [run.resources for run in runs])
    watcher = LineWatcher(len(runs), len(slots), console)
    with held_sweep(sweep_folder):
        uninterrupted = LocalLauncher(slots, watcher, command=command).run([_job(sweep_folder, run) for run in runs])
    if not uninterrupted:
        return 130
    return int(any(read_status(RunFolder(sweep_folder / run.run_id)).state not in SEALED for run in runs))


def _job(sweep_folder: Path, run: AgainRun) -> Job:
    folder = RunFolder(sweep_folder / run.run_id)

    def create() -> None:
        config = RunConfig.model_validate(json.loads(run.config_json))
        folder.create(config, sweep=sweep_folder.name, swept=run.swept, resources=run.resources, code=code_version())

    return Job(folder, run.run_id, run.resources, create)


def prune(plan: Plan, console: Console) -> int:
    """Stop runs that the sweep no longer declares and put their records aside, into ``.pruned``. Returns how many."""
    orphans = [RunFolder(plan.folder / run_id) for run_id in plan.orphans]
    if not orphans:
        return 0
    cancel(Target(plan.folder, orphans, whole=False), console)
    aside = plan.folder / ".pruned"
    aside.mkdir(exist_ok=True)
    for run in orphans:
        shutil.move(run.path, _free_name(aside / run.path.name))
    console.print(
        f"put aside {counted(len(orphans), 'run')} that the sweep no longer declares, in {aside}", soft_wrap=True
    )
    return len(orphans)


def _free_name(wanted: Path) -> Path:
    number, name = 1, wanted
    while name.exists():
        number, name = number + 1, wanted.with_name(f"{wanted.name}-{number}")
    return name
