"""Watching a launch on this machine: a live table on a terminal, plain lines anywhere else."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from normhpc.launch.local import Watcher, counted
from normhpc.launch.ranks import ActiveRun
from normhpc.record import RunFolder, State, read_summary
from normhpc.results.names import MAIN_QUALITIES
from normhpc.results.status import newest_row
from normhpc.sweep.plan import Plan

_REFRESH_SECONDS = 1.0


@contextlib.contextmanager
def watcher_for(plan: Plan, slots: int, console: Console) -> Iterator[Watcher]:
    """The watcher that fits ``console``."""
    if not console.is_terminal:
        yield LineWatcher(len(plan.launch), slots, console)
        return
    table = TableWatcher(len(plan.launch))
    with Live(table.render(), console=console, refresh_per_second=4, transient=True) as live:
        table.attach(live)
        yield table


class LineWatcher(Watcher):
    """One line when a run starts and one when it ends."""

    def __init__(self, total: int, slots: int, console: Console) -> None:
        self._total = total
        self._done = 0
        self._console = console
        console.print(f"launching {counted(total, 'run')} on {counted(slots, 'slot')}", soft_wrap=True)

    def started(self, run: ActiveRun) -> None:
        """Tell which run started where."""
        where = f"slot{'s' * (len(run.slots) > 1)} {','.join(str(slot.number) for slot in run.slots)}"
        self._console.print(f"started   {run.job.folder.path.name}  {run.job.label} ({where})", soft_wrap=True)

    def ended(self, run: ActiveRun, state: State) -> None:
        """Tell how the run ended and what it measured."""
        self._done += 1
        result = _result(run.job.folder)
        self._console.print(
            f"{state:9} {run.job.folder.path.name}  {run.job.label}{result} "
            f"({run.seconds:.1f} s, {self._done}/{self._total})",
            soft_wrap=True,
        )

    def told(self, line: str) -> None:
        """Pass it on."""
        self._console.print(line, soft_wrap=True)


class TableWatcher(Watcher):
    """A table of the runs under way with their newest metrics, and a bar over all of them."""

    def __init__(self, total: int) -> None:
        self._live: Live | None = None
        self._active: Sequence[ActiveRun] = ()
        self._refreshed = 0.0
        self._bar = Progress(
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self._task: TaskID = self._bar.add_task("runs", total=total, told="")
        self._ended: dict[State, int] = {}

    def attach(self, live: Live) -> None:
        """Where to draw."""
        self._live = live

    def ended(self, run: ActiveRun, state: State) -> None:
        """Count the run; what is not a result stays on the screen."""
        self._ended[state] = self._ended.get(state, 0) + 1
        told = ", ".join(f"{count} {name}" for name, count in self._ended.items())
        self._bar.update(self._task, advance=1, told=told)
        self._refreshed = 0.0
        if state != "finished" and self._live is not None:
            self.told(f"{state} {run.job.folder.path.name}  {run.job.label}")

    def told(self, line: str) -> None:
        """Put it above the table, where it stays."""
        if self._live is not None:
            self._live.console.print(line, soft_wrap=True)

    def tick(self, active: Sequence[ActiveRun], waiting: int) -> None:
        """Draw anew, once a second and when a run has ended."""
        now = time.monotonic()
        if self._live is not None and now - self._refreshed >= _REFRESH_SECONDS:
            self._refreshed, self._active = now, active
            self._live.update(self.render(), refresh=True)

    def render(self) -> Group:
        """What is on the screen now."""
        table = Table("slot", "run", "", "seconds", "epoch", "newest", box=None, pad_edge=False)
        for run in self._active:
            epoch, newest = _newest(run)
            slots = ",".join(str(slot.number) for slot in run.slots)
            table.add_row(slots, run.job.folder.path.name, run.job.label, f"{run.seconds:.0f}", epoch, newest)
        return Group(table, self._bar)


def _newest(run: ActiveRun) -> tuple[str, str]:
    """The newest epoch of a run and what was measured after it."""
    row = newest_row(run.job.folder)
    if not row:
        return f"0/{run.job.epochs}", ""
    names = ("loss", *MAIN_QUALITIES)
    shown = [f"{row['split']}_{name} {row[name]:.4f}" for name in names if row.get(name) is not None]
    return f"{row['epoch']}/{run.job.epochs}", " ".join(shown)


def _result(folder: RunFolder) -> str:
    summary = read_summary(folder)
    final = (summary or {}).get("final", {})
    measured = {name: final.get(name) for name in (f"test_{quality}" for quality in MAIN_QUALITIES)}
    return "".join(f"  {name} {value:.4f}" for name, value in measured.items() if value is not None)
