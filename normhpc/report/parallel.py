"""Parallel coordinates: a line a run, over the fields that vary and what came of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normhpc.report.elements import Section, escaped, paragraph
from normhpc.report.study import COSTS, Study
from normhpc.report.svg import even_ticks, legend, paint, path, tick_text

MOST_RUNS = 2000
_WIDTH, _HEIGHT, _TOP, _BOTTOM, _RIGHT = 1100, 400, 46, 22, 60
_MOST_AXES = 9


@dataclass(frozen=True, slots=True)
class _Coordinate:
    name: str
    places: NDArray[np.float64]
    """Of each run, 0 at the bottom to 1; NaN where it has none."""
    marks: tuple[tuple[float, str], ...]


def parallel_section(study: Study) -> Section:
    """The drawing; runs without a result end where they have no value."""
    title = "Runs as lines"
    fields = ["method", *(name for name in study.shown if name not in study.method_fields)]
    fields = fields[: _MOST_AXES - 4]
    axes = [_coordinate(study, name) for name in [*fields, "seed", *COSTS[::2], study.metric]]
    axes = [axis for axis in axes if np.isfinite(axis.places).any()]
    if len(axes) < 2:
        return Section("parallel", title, (paragraph("No run has a result: no lines."),))
    caption = f"Each line is a run. {len(study.runs)} runs."
    if len(study.runs) > MOST_RUNS:
        caption += f" Drawn are {MOST_RUNS} of them, evenly spread over the table of runs."
    drawing = f"<figure>{_drawing(study, axes)}<figcaption>{escaped(caption)}</figcaption></figure>"
    return Section("parallel", title, (legend(study.methods), drawing))


def _coordinate(study: Study, name: str) -> _Coordinate:
    if name == "method":
        column = pd.Series([study.methods[number] for number in study.run_method])
    else:
        column = study.runs[name].reset_index(drop=True)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(np.float64, na_value=math.nan)
        finite = values[np.isfinite(values)]
        if len(finite):
            low, high = float(finite.min()), float(finite.max())
            if low == high:
                return _Coordinate(name, np.where(np.isfinite(values), 0.5, np.nan), ((0.5, tick_text(low)),))
            least = 1.0 if pd.api.types.is_integer_dtype(column) else 0.0
            marks = [((tick - low) / (high - low), tick_text(tick)) for tick in even_ticks(low, high, least)]
            return _Coordinate(name, (values - low) / (high - low), tuple(marks))
        return _Coordinate(name, values, ())
    codes, labels = pd.factorize(column)
    count = max(1, len(labels) - 1)
    places = np.where(codes < 0, np.nan, 1 - codes / count if len(labels) > 1 else 0.5)
    shown = [(1 - number / count if len(labels) > 1 else 0.5, str(label)) for number, label in enumerate(labels)]
    return _Coordinate(name, np.asarray(places, np.float64), tuple(shown[:: max(1, len(shown) // 16)]))


def _drawing(study: Study, axes: Sequence[_Coordinate]) -> str:
    # the words of the first axis stand left of it
    left = min(260.0, 24 + 6.2 * max((len(text) for _, text in axes[0].marks), default=0))
    xs = [round(left + (_WIDTH - left - _RIGHT) * number / (len(axes) - 1), 1) for number in range(len(axes))]
    span = _HEIGHT - _TOP - _BOTTOM
    lines = []
    count = len(study.runs)
    kept = np.unique(np.round(np.linspace(0, count - 1, min(count, MOST_RUNS))).astype(np.int64))
    run_ids, seeds = study.runs["run_id"].tolist(), study.runs["seed"].tolist()
    for run in kept:
        places = [
            (float(x), _HEIGHT - _BOTTOM - float(axis.places[run]) * span) for x, axis in zip(xs, axes, strict=True)
        ]
        series = int(study.run_method[run])
        tip = escaped(f"{run_ids[run]} {study.cell_name(int(study.cell_of[run]))}, seed {seeds[run]}")
        lines.append(f'<path class="run {paint(series)}" data-s="{series}" data-t="{tip}" d="{path(places)}"/>')
    marks = []
    for number, (x, axis) in enumerate(zip(xs, axes, strict=True)):
        marks.append(f'<path class="axisline" d="M{x} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        # neighbouring names at two heights, long ones would run into each other
        marks.append(
            f'<text class="axis" x="{x}" y="{14 if number % 2 else 30}" text-anchor="middle">{escaped(axis.name)}</text>'
        )
        for share, text in axis.marks:
            down = _HEIGHT - _BOTTOM - share * span
            marks.append(
                f'<text class="tick halo" x="{x - 5}" y="{down + 4:.1f}" text-anchor="end">{escaped(text)}</text>'
            )
    label = escaped(f"Parallel coordinates of {len(kept)} runs over {', '.join(axis.name for axis in axes)}")
    body = "".join([*lines, *marks])
    return f'<svg class="wide lines" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{body}</svg>'
