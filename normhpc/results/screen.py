"""``normhpc status`` on a screen."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from normhpc.record import STATES
from normhpc.results.status import Failure, NoQueue, Progress, QueueLookup, SweepStatus, sweep_statuses

_REFRESH_SECONDS = 2.0
_SHOWN = 10


def show_status(
    folders: Sequence[Path], console: Console, new_queue: Callable[[], QueueLookup] = NoQueue, *, as_json: bool
) -> None:
    """Print the status of every sweep in ``folders`` once. ``new_queue`` asks the cluster anew."""
    statuses = sweep_statuses(folders, new_queue())
    if as_json:
        print(json.dumps([asdict(status) for status in statuses], indent=2))
    else:
        console.print(_render(statuses))


def watch_status(folders: Sequence[Path], console: Console, new_queue: Callable[[], QueueLookup] = NoQueue) -> None:
    """Print the status again and again until interrupted, or until nothing is in flight any more."""
    idle_looks = 0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            statuses = sweep_statuses(folders, new_queue())
            live.update(_render(statuses), refresh=True)
            # between two runs of a launcher nothing is in flight for a moment
            idle_looks = 0 if any(map(_is_busy, statuses)) else idle_looks + 1
            if idle_looks == 2:
                return
            time.sleep(_REFRESH_SECONDS)


def _is_busy(status: SweepStatus) -> bool:
    return bool(status.in_flight) or any(row.submitted + row.running for row in status.analyses)


def _render(statuses: Sequence[SweepStatus]) -> Group:
    shown = [state for state in STATES if any(status.counts[state] for status in statuses)]
    counts = Table("sweep", "runs", *shown, box=None, pad_edge=False)
    for status in statuses:
        counts.add_row(status.sweep, str(status.total), *(str(status.counts[state]) for state in shown))
    running = Table("running", "", "epoch", "newest", box=None, pad_edge=False)
    failed = Table("failed", "", "why", box=None, pad_edge=False)
    states = ("submitted", "running", "finished", "failed")
    analyses = Table("analysis", "sweep", *states, "output", box=None, pad_edge=False)
    for status in statuses:
        for run in status.in_flight[:_SHOWN]:
            shown_epochs = "?" if run.epochs is None else run.epochs
            running.add_row(run.run_id, swept_label(run.swept), f"{run.epoch or 0}/{shown_epochs}", _newest(run))
        groups = _alike(status.failures)
        for first, *others in groups[:_SHOWN]:
            why = (first.message.splitlines() or [""])[0]
            ids = f"{first.run_id} and {len(others)} alike" if others else first.run_id
            failed.add_row(ids, swept_label(first.swept), f"{first.error}: {why}")
        for row in status.analyses:
            analysed = [str(getattr(row, state)) for state in states]
            analyses.add_row(row.analysis, status.sweep, *analysed, row.output or "")
        _tell_rest(running, len(status.in_flight))
        _tell_rest(failed, len(groups))
    notes = [f"note: {note}" for status in statuses for note in status.notes]
    return Group(*[table for table in (counts, running, failed, analyses) if table.row_count], *notes)


def _alike(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Failures by fault, the most frequent first."""
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(failure.fingerprint, []).append(failure)
    return sorted(groups.values(), key=len, reverse=True)


def _newest(run: Progress) -> str:
    measured = (("loss", run.loss), ("top1", run.top1), ("map_macro", run.map_macro))
    return " ".join(f"{run.split}_{name} {value:.4f}" for name, value in measured if value is not None)


def _tell_rest(table: Table, total: int) -> None:
    if total > _SHOWN:
        table.add_row(f"... and {total - _SHOWN} more")


def swept_label(swept: object) -> str:
    """What sets a run apart, on a line: ``data=digits norm=group norm.groups=8``. Empty for what a record does not say."""
    if not isinstance(swept, dict):
        return ""
    return " ".join(f"{path.removesuffix('.name')}={value}" for path, value in swept.items() if value is not None)
