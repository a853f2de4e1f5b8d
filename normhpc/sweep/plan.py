"""What is to be done: the declared runs against the records that exist."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normhpc.errors import InputError
from normhpc.record import IN_FLIGHT, RunFolder, RunStatus, State, read_status, state_with_queue

if TYPE_CHECKING:
    from normhpc.sweep.language import Sweep
    from normhpc.sweep.runs import Run

UNSTARTED: frozenset[State] = frozenset({"new", "lost", "cancelled"})
"""States that a launch starts or goes on with by itself."""

_NEW = RunStatus("new", {}, None)


@dataclass(slots=True)
class Plan:
    """Every run of a sweep with its state, and those to launch, in the order of the sweep."""

    sweep: "Sweep"
    folder: Path
    """Where the records of the sweep are or will be."""
    states: dict[str, State] = field(default_factory=dict)
    """State of each run id, in the order of the sweep."""
    launch: "list[Run]" = field(default_factory=list)
    in_flight: "list[Run]" = field(default_factory=list)
    """Submitted and running ones: somebody is at them."""
    limit: int | None = None
    """The most runs to launch; None for all."""
    orphans: list[str] = field(default_factory=list)
    """Run ids that have a record but that the sweep file no longer declares."""
    notes: list[str] = field(default_factory=list)
    constant: set[str] = field(default_factory=set)
    """Swept paths that have the same value in every run of the sweep."""
    finished_seconds: list[float] = field(default_factory=list)
    """Time of every finished run of the sweep: of one that was trained together with others, its share."""

    @property
    def counts(self) -> Counter[State]:
        """Runs per state."""
        return Counter(self.states.values())

    @property
    def gpu_hours_limit(self) -> float:
        """GPU-hours if every run to launch used its whole time limit."""
        return sum(run.resources.gpu_hours for run in self.launch)

    @property
    def gpu_hours_measured(self) -> float | None:
        """GPU-hours if the runs to launch took the mean time of the finished ones; None while none is finished."""
        if not self.finished_seconds:
            return None
        hours = sum(self.finished_seconds) / len(self.finished_seconds) / 3600
        return sum(run.resources.gpus for run in self.launch) * hours

    def run_folder(self, run: "Run") -> RunFolder:
        """Where ``run`` keeps its record."""
        return RunFolder(self.folder / run.run_id)

    def label(self, run: "Run") -> str:
        """``run`` as a person tells it from its neighbours: ``norm=group groups=8 seed=1``."""
        varying = [
            (path, value) for path, value in run.swept.items() if value is not None and path not in self.constant
        ]
        shown = [f"{path.removesuffix('.name').rsplit('.', 1)[-1]}={_short(value)}" for path, value in varying]
        return " ".join([*shown, f"seed={run.seed}"])


def make_plan(
    sweep: "Sweep",
    runs_dir: Path,
    *,
    retry_failed: bool = False,
    limit: int | None = None,
    queued: Mapping[str, State] | None = None,
) -> Plan:
    """Hold the runs of ``sweep`` against ``runs_dir``; reads, never writes.

    To launch: runs without a record, lost and cancelled ones, with ``retry_failed`` failed ones too; at most
    ``limit`` of them. ``queued`` is what a cluster's queue says of runs, which goes before their records; a run in
    flight that it does not have is lost. Raises :class:`InputError` for a run that its network or images make impossible, and when
    nothing is left to plan.
    """
    plan = Plan(sweep, runs_dir / sweep.name, limit=limit)
    recorded = _recorded(plan.folder)
    wanted = UNSTARTED | {"failed"} if retry_failed else UNSTARTED
    first: dict[str, Any] = {}
    for run in sweep.runs():
        if not plan.states:
            first, plan.constant = run.swept, set(sweep.swept_paths)
        elif plan.constant:
            swept = run.swept
            plan.constant = {path for path in plan.constant if swept[path] == first[path]}
        status = read_status(plan.run_folder(run)) if run.run_id in recorded else _NEW
        state = plan.states[run.run_id] = state_with_queue(status.state, plan.run_folder(run), queued)
        if state in wanted:
            plan.launch.append(run)
        elif state in IN_FLIGHT:
            plan.in_flight.append(run)
        elif status.summary is not None and status.state == "finished":
            taken = status.summary.get("share_seconds", status.summary.get("seconds", 0.0))
            plan.finished_seconds.append(float(taken))
    if not plan.states:
        raise InputError(f"{sweep.file}: no run is left; exclude or --only leaves nothing of it")
    misfits = list(sweep.misfits())
    if misfits:
        raise InputError(misfits)
    if not sweep.filtered:
        plan.orphans = sorted(recorded - plan.states.keys())
    plan.notes = list(sweep.notes)
    plan.launch = plan.launch[:limit]
    sets = [data["name"] for data in map(_data_of, plan.launch) if "path" in data and data["path"] is None]
    if sets:
        names = " and ".join(dict.fromkeys(sets))
        plan.notes.append(f"runs on {names} fail without the folder of their images; give it: --set data.path=DIR")
    return plan


def _data_of(run: "Run") -> dict[str, Any]:
    data: dict[str, Any] = run.at(("data",))
    return data


def _recorded(folder: Path) -> set[str]:
    """Names of the run folders in ``folder``."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if len(entry.name) == 16 and entry.is_dir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); choose another place with --runs DIR") from None


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def distinct_cases(runs: "Iterable[Run]") -> "Iterator[Run]":
    """One run of each kind that could fail on its own: seeds, epochs and rates of learning make no difference."""
    seen = set()
    for run in runs:
        config: dict[str, Any] = json.loads(run.config_json)
        kind = [config[part] for part in ("data", "model", "norm", "act", "augment", "loss", "precision")]
        patterns = [entry["parameters"] for entry in config["optim"]["lr_factors"]]
        together = _fewest_together(config, run.resources.ranks)
        case = json.dumps([*kind, config["optim"]["name"], patterns, together])
        if case not in seen:
            seen.add(case)
            yield run


def _fewest_together(config: dict[str, Any], ranks: int) -> int:
    """The least images that a rank computes on at once and, with a norm over the batch, that share a statistic.

    1, or 2 for more: a norm over a single one may fail.
    """
    shares = {config["batch_size"] // ranks, -(-config["batch_size"] // ranks)}
    pieces = config["optim"]["accumulate"]
    sizes = {size for share in shares for size in (share // pieces, -(-share // pieces))}
    norm = config["norm"]
    if "sync" not in norm or (norm["sync"] and ranks > 1):
        return 2
    ghost = norm.get("ghost_size", max(sizes))
    fewest: int = min(2, *(min(size, ghost) for size in sizes), *({size % ghost for size in sizes} - {0}))
    return fewest
