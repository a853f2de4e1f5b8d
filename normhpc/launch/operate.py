"""Acting on runs that were launched: cancel, retry with more of what they lacked, put aside what is not declared."""

import contextlib
import json
import os
import shutil
import signal
from collections import Counter
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
from normhpc.launch.slurm.journal import ANALYSES, SubmissionJournal
from normhpc.launch.slurm.states import Queue
from normhpc.launch.targets import Target
from normhpc.record import SEALED, STATES, RunFolder, append_event, read_status, state_with_queue
from normhpc.record.folder import host_name
from normhpc.record.journal import read_journal
from normhpc.record.lock import is_locked
from normhpc.results.failures import FailureGroup, Why, group_failures
from normhpc.results.screen import swept_label
from normhpc.sweep.plan import Plan

_MORE = 2
"""What memory or time is multiplied by where more of it is the cure."""


def cancel(target: Target, console: Console) -> int:
    """Stop the runs of ``target`` that are in flight, and jobs that analyse them. Returns how many such runs there were.

    What trains saves itself first; of an analysis what is not whole is lost.
    """
    queue = Queue()
    queued = queue.runs_of(target.sweep_folder)
    journal = SubmissionJournal(target.sweep_folder)
    launches = journal.launches() if queued is not None else []
    if target.whole and launches:
        with journal.held():
            journal.close([launch for launch in launches if not launch.closed])
        queue = Queue()  # asked anew: until they were closed a task that ended may have submitted more
    meant = dict.fromkeys([*(run.path.name for run in target.runs), *(queued or {} if target.whole else {})])
    in_queue = [run_id for run_id in meant if run_id in (queued or {})]
    tasks = queue.array_tasks(journal, in_queue)
    if tasks:
        ask("scancel", *(task.name for task in tasks))
    local = [run for run in target.runs if run.path.name not in in_queue and run.is_held()]
    launchers = {pid for run in local if (pid := _launcher_of(run)) is not None} if target.whole else set()
    for pid in launchers:
        _ask_to_stop(pid)  # first, so that it starts nothing in the place of what ends
    for run in local:
        _stop_local(run)
    for run in [RunFolder(target.sweep_folder / run_id) for run_id in in_queue]:
        if run.run_json.exists():
            append_event(run, "cancelled", reason="normhpc cancel")
    count = len(in_queue) + len(local)
    console.print(f"{target.sweep_folder.name}: {counted(count, 'run')} cancelled", soft_wrap=True)
    if launchers:
        console.print("the launch on this machine ends with them and starts no more", soft_wrap=True)
    _cancel_analyses(target, console)
    return count


def _cancel_analyses(target: Target, console: Console) -> None:
    """Stop the jobs that are to analyse the runs of ``target``. Of a whole sweep, what failed is forgotten, too."""
    journal = SubmissionJournal(target.sweep_folder, ANALYSES)
    if target.whole and journal.path.exists():
        with journal.held():
            journal.close([launch for launch in journal.launches() if not launch.closed])
    # asked only now: until it was closed a task that ended may have submitted more
    tasks = Queue().array_tasks(journal, {run.path.name for run in target.runs})
    if tasks:
        ask("scancel", *(task.name for task in tasks))
    if target.whole:
        for launch in journal.launches():
            if left := set(range(len(launch.chunks))) - launch.cancelled:
                journal.cancelled(launch.token, sorted(left))
    else:
        for task in tasks:
            journal.cancelled(task.launch.token, [task.index])
    if not tasks:
        return
    runs = {run_id for task in tasks for run_id in task.launch.chunks[task.index]}
    told = f"{counted(len(tasks), 'job')} of normhpc analyze cancelled, at {counted(len(runs), 'run')}"
    console.print(f"{target.sweep_folder.name}: {told}", soft_wrap=True)


def _stop_local(run: RunFolder) -> None:
    """Ask the processes that train ``run`` on this machine to save it and end."""
    started = [row for row in read_journal(run.events).rows if row.get("event") in ("started", "resumed")]
    pids = started[-1].get("pids", []) if started and started[-1].get("host") == host_name() else []
    if not pids:
        raise InputError(f"{run.path}: is being trained on another machine; stop it there")
    append_event(run, "cancelled", reason="normhpc cancel")
    for pid in pids:
        _ask_to_stop(pid)


def _launcher_of(run: RunFolder) -> int | None:
    """Process of the ``normhpc sweep`` or ``retry`` on this machine that started what trains ``run``; None without one."""
    rows = [row for row in read_journal(run.events).rows if row.get("event") in ("submitted", "started", "resumed")]
    # whoever trains a run by hand declares nothing to be submitted
    if len(rows) < 2 or rows[-2].get("launcher") != "local" or rows[-2].get("host") != host_name():
        return None
    pid = rows[-2].get("pid")
    return pid if isinstance(pid, int) and is_locked(run.path.absolute().parent) else None


def _ask_to_stop(pid: int) -> None:
    # what has ended in between needs no asking
    with contextlib.suppress(ProcessLookupError):
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
    states = Counter(read_status(RunFolder(sweep_folder / run.run_id)).state for run in runs)
    told = ", ".join(f"{states[state]:,} {state}" for state in STATES if states[state])
    console.print(f"{sweep_folder.name}: retried {counted(len(runs), 'run')}; {told}", soft_wrap=True)
    if not uninterrupted:
        return 130
    return int(any(state not in SEALED for state in states))


def _job(sweep_folder: Path, run: AgainRun) -> Job:
    folder = RunFolder(sweep_folder / run.run_id)

    def create() -> None:
        config = RunConfig.model_validate(json.loads(run.config_json))
        folder.create(config, sweep=sweep_folder.name, swept=run.swept, resources=run.resources, code=code_version())

    return Job(folder, f"{swept_label(run.swept)} seed={run.seed}", run.resources, create)


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
