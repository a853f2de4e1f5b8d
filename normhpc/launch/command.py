"""What ``normhpc sweep`` does with a plan: show it, hold it against a budget, launch it on this machine."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.launch.code import code_version
from normhpc.launch.live import watcher_for
from normhpc.launch.local import Job, LocalLauncher, held_sweep
from normhpc.launch.slots import make_slots
from normhpc.record import STATES, State, read_status
from normhpc.sweep import Run
from normhpc.sweep.plan import Plan, distinct_cases

_BAD: tuple[State, ...] = ("failed", "lost", "cancelled")


def show_plan(plan: Plan, *, as_json: bool, smoke: bool) -> int:
    """Print the plan; with ``smoke`` also try every distinct case. Returns the exit code."""
    outcomes = _smoke(plan) if smoke else []
    if as_json:
        print(json.dumps(_plan_json(plan) | ({"smoke": outcomes} if smoke else {}), indent=2))
    else:
        _print_plan(plan)
        if smoke:
            _print_smoke(outcomes)
    return int(any(outcome["why"] for outcome in outcomes))


def check_budget(plan: Plan, max_gpu_hours: float | None) -> None:
    """Raise :class:`InputError` when the launch could take more than ``max_gpu_hours``."""
    if max_gpu_hours is not None and plan.gpu_hours_limit > max_gpu_hours:
        raise InputError(
            f"launching {len(plan.launch)} runs could take {plan.gpu_hours_limit:.1f} GPU-hours by their time limits, "
            f"more than --max-gpu-hours {max_gpu_hours:g}; lower resources.minutes, or launch fewer with --limit or --only"
        )


def launch_locally(plan: Plan, slots: int | None, *, as_json: bool) -> int:
    """Run everything that is to be launched on this machine. Returns the exit code.

    0 when no run of the sweep failed, 1 when one did, 130 when interrupted.
    """
    places = make_slots(slots, [run.resources for run in plan.launch])
    console = Console(stderr=True)
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False)
    uninterrupted = True
    with held_sweep(plan.folder):
        if plan.launch:
            with watcher_for(plan, len(places), console) as watcher:
                uninterrupted = LocalLauncher(places, watcher).run([_job(plan, run) for run in plan.launch])
    states = {run.run_id: read_status(plan.run_folder(run)).state for run in plan.launch}
    _print_outcome(plan, states, console)
    if as_json:
        print(json.dumps({"sweep": plan.sweep.name, "launched": states, "runs": plan.states | states}, indent=2))
    if not uninterrupted:
        return 130
    return int(any(state in _BAD for state in (plan.states | states).values()))


def _job(plan: Plan, run: Run) -> Job:
    folder = plan.run_folder(run)

    def create() -> None:
        config = RunConfig.model_validate(json.loads(run.config_json))
        folder.create(config, sweep=plan.sweep.name, swept=run.swept, resources=run.resources, code=code_version())

    return Job(folder, run_label(run), run.resources, create)


def run_label(run: Run) -> str:
    """A run as a person tells it from its neighbours: ``norm=group groups=8 seed=1``."""
    varying = [(path, value) for path, value in run.swept.items() if value is not None]
    shown = [f"{path.removesuffix('.name').rsplit('.', 1)[-1]}={_short(value)}" for path, value in varying]
    return " ".join([*shown, f"seed={run.seed}"])


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print_outcome(plan: Plan, states: dict[str, State], console: Console) -> None:
    everything = plan.states | states
    counted = ", ".join(
        f"{sum(state == wanted for state in everything.values())} {wanted}"
        for wanted in STATES
        if wanted in everything.values()
    )
    console.print(f"{plan.sweep.name}: launched {len(states)} of {len(everything)} runs; {counted}", highlight=False)
    failed = [run for run in plan.launch if states[run.run_id] == "failed"]
    for run in failed[:10]:
        event = read_status(plan.run_folder(run)).event
        first = str(event.get("message", "")).splitlines()[:1]
        console.print(
            f"  failed {run.run_id} {run_label(run)}: {event.get('class')}: {''.join(first)}", highlight=False
        )
    if failed:
        console.print("  read more: normhpc logs RUN; launch them again: --retry-failed", highlight=False)


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
        "notes": plan.notes,
    }


def _print_plan(plan: Plan) -> None:
    console = Console()
    axes = Table("axis", "values", "", title=plan.sweep.name, title_justify="left", box=None, pad_edge=False)
    for axis in plan.sweep.axes:
        axes.add_row(axis.label, str(axis.size), axis.description)
    console.print(axes)
    counts = ", ".join(f"{plan.counts[state]} {state}" for state in STATES if plan.counts[state])
    console.print(f"runs: {len(plan.states)} ({counts})", highlight=False)
    measured = plan.gpu_hours_measured
    history = f", {measured:.2f} at the pace of the finished ones" if measured is not None else ""
    console.print(
        f"to launch: {len(plan.launch)} runs, at most {plan.gpu_hours_limit:.1f} GPU-hours by their limits{history}",
        highlight=False,
    )
    for run in plan.launch[:5]:
        console.print(f"  {run.run_id}  {run_label(run)}", highlight=False)
    if len(plan.launch) > 5:
        console.print(f"  ... and {len(plan.launch) - 5} more", highlight=False)
    if plan.orphans:
        console.print(f"{len(plan.orphans)} runs in {plan.folder} that the sweep no longer declares", highlight=False)
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False)


def _smoke(plan: Plan) -> list[dict[str, Any]]:
    from normhpc.launch.worker import try_cases

    cases = [
        (run_label(run), RunConfig.model_validate(json.loads(run.config_json))) for run in distinct_cases(plan.launch)
    ]
    return try_cases(cases, tell=lambda line: print(line, file=sys.stderr, flush=True))


def _print_smoke(outcomes: list[dict[str, Any]]) -> None:
    table = Table("case", "seconds", "result", title="smoke: one training step each", title_justify="left", box=None)
    for outcome in outcomes:
        table.add_row(outcome["case"], f"{outcome['seconds']:.1f}", outcome["why"] or "passed")
    Console().print(table)
