"""How soon a method reaches an accuracy, methods that never do among them."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normhpc.record.state import SEALED
from normhpc.report.elements import Column, Datum, Section, Table, figure, paragraph
from normhpc.report.study import Study
from normhpc.report.svg import Axis, Plot, legend
from normhpc.results.human import format_number
from normhpc.results.names import quality_of
from normhpc.results.statistics.survival import TimeToTarget, kaplan_meier, restricted_mean, time_to_target

SHARES = (0.90, 0.95, 0.99)
DRAWN = 0.99
MOST_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached in a block: a share of what ``control`` had at its end, and by when."""

    block: int
    control: int
    share: float
    value: float
    horizon: float


class _Watched(NamedTuple):
    """A run at the epochs whose seconds and values are known."""

    ends: NDArray[np.float64]
    """(E,) training time at the end of each."""
    values: NDArray[np.float64]
    """(E,)"""
    complete: bool
    """Whether it ended of itself: what it has not reached then, it never does."""


def time_section(study: Study) -> Section:
    """A curve and the table."""
    title = "Time to accuracy"
    found = {target: times for block in range(len(study.blocks)) for target, times in _block(study, block)}
    if not found:
        return Section(
            "time", title, (paragraph("No run has measured epochs with their seconds: no times to compare."),)
        )
    drawn = [target for target in found if target.share == DRAWN][:MOST_BLOCKS]
    drawings = [paragraph(_CAPTION), figure([_plot(study, target, found[target]) for target in drawn])]
    if len(study.blocks) > MOST_BLOCKS:
        drawings.append(
            paragraph(f"Drawn are the first {MOST_BLOCKS} of {len(study.blocks)} blocks; the table has all.")
        )
    return Section("time", title, (legend(study.methods), *drawings, _table(study, found)))


_CAPTION = (
    "The share of runs that have reached the target after so much training time (1 - Kaplan-Meier). A run that finishes or "
    "diverges without it has not reached it by the end of the axis either, one that was cut short is watched until then; "
    "only times of equal machines compare."
)


def training_seconds(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Training time at the end of each epoch, from what each took; the first one counts as the median of the others.

    It holds what starting takes, compiling say, which is no property of a norm.
    """
    took = seconds.copy()
    if len(took) > 1:
        took[0] = min(took[0], np.median(took[1:]))
    return np.asarray(np.cumsum(took), np.float64)


def _block(study: Study, block: int) -> list[tuple[Target, dict[int, list[TimeToTarget]]]]:
    """The targets of a block, with the time of each run by cell."""
    split, quality = study.curve_split, quality_of(study.metric)
    seconds, values = study.curves("train", "seconds"), study.curves(split, quality)
    runs: dict[int, list[_Watched]] = {}
    for cell in study.cells_in(block):
        for run in study.runs_of(cell):
            if run not in seconds or run not in values:
                continue
            (epochs, took), (at, measured) = seconds[run], values[run]
            both = np.intersect1d(epochs, at)
            if len(both) and np.isfinite(took).all():
                ends = training_seconds(took)[np.searchsorted(epochs, both)]
                complete = study.records[run].status.state in SEALED
                runs.setdefault(cell, []).append(_Watched(ends, measured[np.searchsorted(at, both)], complete))
    lasts = {cell: _mean([own.values[-1] for own in found]) for cell, found in runs.items()}
    lasts = {cell: value for cell, value in lasts.items() if math.isfinite(value)}
    if not lasts:
        return []
    control = next((cell for cell in lasts if study.methods[study.cell_method[cell]] == "batch"), None)
    if control is None:
        control = max(lasts, key=lambda cell: study.direction * lasts[cell])
    horizon = max(float(own.ends[-1]) for found in runs.values() for own in found)
    found_targets = []
    for share in SHARES:
        value = lasts[control] * share if study.direction > 0 else lasts[control] / share
        target = Target(block, control, share, value, horizon)
        times = {cell: [_time(own, target, study.direction) for own in found] for cell, found in runs.items()}
        found_targets.append((target, times))
    return found_targets


def _time(run: _Watched, target: Target, direction: int) -> TimeToTarget:
    found = time_to_target(run.ends, run.values, target.value, higher_is_better=direction > 0)
    # censored where it ends, a run that trains fast would leave the curve as if it might still get there
    return found if found.reached or not run.complete else replace(found, duration=target.horizon)


def _mean(values: list[np.float64]) -> float:
    finite = [float(value) for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _plot(study: Study, target: Target, times: dict[int, list[TimeToTarget]]) -> str:
    name = f"{study.curve_split} {quality_of(study.metric)} {format_number(study.metric, target.value)}"
    title = f"{study.blocks[target.block]}: {name}" if len(study.blocks) > 1 else f"Reaching {name}"
    x = Axis("training time (s)", 0.0, target.horizon)
    plot = Plot(title, x, Axis("share of runs that reached it", -0.03, 1.03), says=f"{len(times)} methods.")
    for cell, own in times.items():
        curve = kaplan_meier([one.duration for one in own], [one.reached for one in own])
        xs = np.concatenate([[0.0], curve.times, [target.horizon]])
        ys = np.concatenate([[0.0], 1 - curve.survival, [1 - curve.survival[-1] if len(curve.survival) else 0.0]])
        plot.line(study.cell_method[cell], xs, ys, steps=True)
    return plot.svg()


def _table(study: Study, found: dict[Target, dict[int, list[TimeToTarget]]]) -> Table:
    several = len(study.blocks) > 1
    columns = [Column("method", "method", numeric=False)]
    columns += [Column("block", "block", numeric=False)] if several else []
    columns += [Column("share", "of the control's end"), Column("target", "target"), Column("reached", "reached")]
    columns += [Column("runs", "of"), Column("restricted_mean", "mean time (s)"), Column("low", "low")]
    columns += [Column("high", "high"), Column("horizon", "within (s)")]
    rows = []
    for target, times in found.items():
        for cell, own in times.items():
            curve = kaplan_meier([one.duration for one in own], [one.reached for one in own])
            mean = restricted_mean(curve, target.horizon)
            datums = [Datum(study.methods[study.cell_method[cell]])]
            datums += [Datum(study.blocks[target.block])] if several else []
            datums += [Datum(f"{target.share:.0%}", target.share)]
            datums += [Datum(format_number(study.metric, target.value), target.value)]
            datums += [Datum(str(mean.reached), float(mean.reached)), Datum(str(mean.n), float(mean.n))]
            datums += [Datum(f"{mean.mean:.4g}", mean.mean), _bound(mean.low), _bound(mean.high)]
            datums += [Datum(f"{mean.horizon:.4g}", mean.horizon)]
            rows.append(tuple(datums))
    controls = list(dict.fromkeys(study.methods[study.cell_method[target.control]] for target in found))
    caption = (
        f"Runs that reached a share of what {', '.join(controls)} had on {study.curve_split} at its end, and the mean of "
        "min(time, horizon) over all runs (area under Kaplan-Meier) with its 95 % interval (Greenwood, Student t); who "
        "never reaches it has the horizon"
    )
    return Table("time", caption, tuple(columns), tuple(rows))


def _bound(value: float | None) -> Datum:
    return Datum("-") if value is None else Datum(f"{value:.4g}", value)
