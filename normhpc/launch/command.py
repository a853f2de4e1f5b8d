"""What ``normhpc sweep`` does with a plan: show it, hold it against a budget, launch it on this machine."""

import json
import sys
import time
from collections.abc import Container, Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.launch.code import code_version
from normhpc.launch.live import watcher_for
from normhpc.launch.local import LocalLauncher, counted, held_sweep
from normhpc.launch.ranks import Command, Job, cell_of, together, train_command
from normhpc.launch.slots import make_slots
from normhpc.record import SEALED, STATES, State, read_status
from normhpc.sweep import Run
from normhpc.sweep.catalogue import sites_of_networks
from normhpc.sweep.plan import Plan, distinct_cases

_BAD: tuple[State, ...] = ("failed", "lost", "cancelled")

_ORPHANS_PATIENCE_SECONDS = 45
"""How long to wait for ranks whose launcher is gone to save their runs."""

_SHOWN = 10


def show_plan(plan: Plan, console: Console, *, as_json: bool, smoke: bool) -> int:
    """Print the plan; with ``smoke`` also try every distinct case. Returns the exit code."""
    if not as_json:
        _print_plan(plan, console)
    outcomes = _smoke(plan) if smoke else []
    if as_json:
        print(json.dumps(_plan_json(plan) | ({"smoke": outcomes} if smoke else {}), indent=2))
    elif smoke:
        _print_smoke(outcomes, console)
    return int(any(outcome["why"] for outcome in outcomes))


def check_budget(plan: Plan, max_gpu_hours: float | None) -> None:
    """Raise :class:`InputError` when the launch could take more than ``max_gpu_hours``."""
    if max_gpu_hours is not None and plan.gpu_hours_limit > max_gpu_hours:
        raise InputError(
            f"launching {counted(len(plan.launch), 'run')} could take {plan.gpu_hours_limit:.2f} GPU-hours by the "
            f"time limits, more than --max-gpu-hours {max_gpu_hours:g}; lower resources.minutes, or launch fewer "
            "with --limit or --only"
        )


def make_folders(plan: Plan, console: Console, *, as_json: bool) -> None:
    """Make the folder of every run of the plan and launch nothing, so that runs can be trained by hand."""
    made: list[Run] = []
    with held_sweep(plan.folder):
        for run in plan.sweep.runs():
            _job(plan, run, made).create()
    folders = [plan.run_folder(run).path for run in made]
    if as_json:
        print(json.dumps({"sweep": plan.sweep.name, "folders": [str(folder) for folder in folders]}, indent=2))
        return
    for folder in folders[:_SHOWN]:
        console.print(str(folder), soft_wrap=True)
    if len(folders) > _SHOWN:
        console.print(f"... and {len(folders) - _SHOWN:,} more")
    console.print(
        f"{counted(len(folders), 'folder')} made, nothing launched; train one: normhpc train {folders[0]}",
        soft_wrap=True,
    )


def launch_locally(
    plan: Plan, slots: int | None, console: Console, *, as_json: bool, command: Command = train_command
) -> int:
    """Run everything that is to be launched on this machine, telling ``console``. Returns the exit code.

    0 when no run failed, 1 when one did, 130 when interrupted. ``command`` starts a rank.
    """
    places = make_slots(slots, [run.resources for run in [*plan.launch, *plan.in_flight]])
    for note in plan.notes:
        console.print(f"note: {note}", soft_wrap=True)
    begun: list[Run] = []
    uninterrupted = True
    with held_sweep(plan.folder):
        _bring_up_to_date(plan, console)
        if plan.launch:
            with watcher_for(plan, len(places), console) as watcher:
                launcher = LocalLauncher(places, watcher, command=command)
                uninterrupted = launcher.run(together([_job(plan, run, begun) for run in plan.launch]))
    states = {run.run_id: read_status(plan.run_folder(run)).state for run in begun}
    plan.states |= states
    _print_outcome(plan, begun, console)
    if not uninterrupted:
        console.print("interrupted; the same command goes on from here")
    if as_json:
        print(json.dumps({"sweep": plan.sweep.name, "launched": states, "runs": plan.states}, indent=2))
    if not uninterrupted:
        return 130
    return int("failed" in plan.states.values() or any(state in _BAD for state in states.values()))


def _bring_up_to_date(plan: Plan, console: Console) -> None:
    """What happened since the plan was made: runs that were sealed are left out, orphaned ones are taken over."""
    _await_orphans(plan, console)
    settled = _now_in(plan, plan.launch, SEALED) | _now_in(plan, plan.in_flight, SEALED | {"failed"})
    plan.states |= settled
    orphans = [run for run in plan.in_flight if not plan.run_folder(run).is_held()]
    plan.launch = [run for run in [*plan.launch, *orphans] if run.run_id not in settled][: plan.limit]


def _now_in(plan: Plan, runs: Iterable[Run], states: Container[State]) -> dict[str, State]:
    """The state of those ``runs`` that are now in one of ``states``."""
    now = {run.run_id: read_status(plan.run_folder(run)).state for run in runs}
    return {run_id: state for run_id, state in now.items() if state in states}


def _await_orphans(plan: Plan, console: Console) -> None:
    """Wait until the ranks that a dead launcher left have saved their runs and ended."""
    deadline = time.monotonic() + _ORPHANS_PATIENCE_SECONDS
    held = [run for run in plan.in_flight if plan.run_folder(run).is_held()]
    if held:
        console.print(f"waiting for {counted(len(held), 'run')} without a launcher to save and end", soft_wrap=True)
    while held and time.monotonic() < deadline:
        time.sleep(0.2)
        held = [run for run in held if plan.run_folder(run).is_held()]
    for run in held:
        console.print(f"note: {plan.run_folder(run).path} is being trained by another process and is left alone")


def _job(plan: Plan, run: Run, begun: list[Run]) -> Job:
    """``run`` for a launcher; in ``begun`` once it has been launched."""
    folder, values = plan.run_folder(run), json.loads(run.config_json)

    def create() -> None:
        begun.append(run)
        config = RunConfig.model_validate(values)
        folder.create(config, sweep=plan.sweep.name, swept=run.swept, resources=run.resources, code=code_version())

    return Job(folder, plan.label(run), run.resources, create, values["epochs"], cell_of(values, run.resources))


def _print_outcome(plan: Plan, begun: list[Run], console: Console) -> None:
    total = counted(len(plan.states), "run")
    console.print(f"{plan.sweep.name}: launched {len(begun)} of {total}; {_counts(plan)}", soft_wrap=True)
    bad = [run for run in begun if plan.states[run.run_id] in ("failed", "lost")]
    for run in bad[:_SHOWN]:
        event = read_status(plan.run_folder(run)).event
        why = [str(event[key]).partition("\n")[0] for key in ("class", "message") if event.get(key)]
        label = f"  {plan.states[run.run_id]} {run.run_id} {plan.label(run)}"
        console.print(": ".join([label, *why]), soft_wrap=True)
    if len(bad) > _SHOWN:
        console.print(f"  ... and {len(bad) - _SHOWN} more")
    if plan.counts["failed"]:
        console.print("  read more: normhpc logs RUN; launch failed runs again: --retry-failed", soft_wrap=True)


def _counts(plan: Plan) -> str:
    return ", ".join(f"{plan.counts[state]:,} {state}" for state in STATES if plan.counts[state])


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "sweep": plan.sweep.name,
        "folder": str(plan.folder),
        "runs": len(plan.states),
        "states": {state: plan.counts[state] for state in STATES},
        "launch": [run.run_id for run in plan.launch],
        "orphans": plan.orphans,
        "gpu_hours_limit": plan.gpu_hours_limit,
        "gpu_hours_measured": plan.gpu_hours_measured,
        "norm_sites": sites_of_networks(plan.launch),
        "notes": plan.notes,
    }


def _print_plan(plan: Plan, console: Console) -> None:
    axes = Table("axis", "values", "", title=plan.sweep.name, title_justify="left", box=None, pad_edge=False)
    for axis in plan.sweep.axes:
        axes.add_row(axis.label, str(axis.size), axis.description)
    console.print(axes)
    console.print(f"runs: {len(plan.states):,} ({_counts(plan)})")
    measured = plan.gpu_hours_measured
    history = f", {measured:.2f} at the pace of the finished ones" if measured is not None else ""
    console.print(
        f"to launch: {counted(len(plan.launch), 'run')}, at most {plan.gpu_hours_limit:.2f} GPU-hours by the time "
        f"limits{history}",
        soft_wrap=True,
    )
    for line in sites_of_networks(plan.launch):
        console.print(f"norms replaced in {line}", soft_wrap=True)
    for run in plan.launch[:5]:
        console.print(f"  {run.run_id}  {plan.label(run)}", soft_wrap=True)
    if len(plan.launch) > 5:
        console.print(f"  ... and {len(plan.launch) - 5:,} more")
    failed = plan.counts["failed"] - sum(plan.states[run.run_id] == "failed" for run in plan.launch)
    if failed:
        console.print(f"not launched: {failed} failed; --retry-failed launches them again")
    if plan.orphans:
        shown = ", ".join(plan.orphans[:5]) + (", ..." if len(plan.orphans) > 5 else "")
        orphans = counted(len(plan.orphans), "run")
        console.print(f"no longer declared: {orphans} in {plan.folder}: {shown}", soft_wrap=True)
    for note in plan.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _smoke(plan: Plan) -> list[dict[str, Any]]:
    from normhpc.launch.worker import try_cases

    cases = [
        (plan.label(run), RunConfig.model_validate(json.loads(run.config_json)), run.resources.ranks)
        for run in distinct_cases(plan.sweep.runs())
    ]
    return try_cases(cases, tell=lambda line: print(line, file=sys.stderr, flush=True))


def _print_smoke(outcomes: list[dict[str, Any]], console: Console) -> None:
    table = Table(
        "case", "seconds", "norm sites", "result", title="smoke: one training step each", box=None, pad_edge=False
    )
    table.title_justify = "left"
    for outcome in outcomes:
        table.add_row(outcome["case"], f"{outcome['seconds']:.1f}", outcome["sites"], outcome["why"] or "passed")
    console.print(table)
    passed = sum(not outcome["why"] for outcome in outcomes)
    console.print(f"{passed} of {counted(len(outcomes), 'case')} passed")
