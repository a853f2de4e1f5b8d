"""The metric over two swept fields, as a table in colours: each number stays readable, and goes into the CSV file."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from normhpc.report.elements import Column, Datum, Section, Table, paragraph
from normhpc.report.study import Study
from normhpc.results.human import MISSING, format_number

LEVELS = 9
"""Colours from the worst to the best."""

_MOST_VALUES = 40
_LEAST_FILLED = 0.6


def heatmap_section(study: Study) -> Section:
    """A table for the method and each of up to three other fields, and one for two numeric fields."""
    tables = list(_tables(study))
    if not tables:
        text = "A heat map needs two swept fields; these runs vary in fewer, in too many values to be read, or in few combinations."
        return Section("heatmap", "Heat maps", (paragraph(text),))
    better = "highest" if study.direction > 0 else "lowest"
    text = (
        f"Mean of {study.metric} over all runs with these two values, whatever else differs. The darkest is the best "
        f"({better}) of its table, steps are even from the worst to the best."
    )
    return Section("heatmap", "Heat maps", (paragraph(text), *tables))


def _tables(study: Study) -> Iterator[Table]:
    runs = study.runs.assign(method=[study.methods[number] for number in study.run_method])
    others = [name for name in study.shown if name not in study.method_fields]
    numeric = [name for name in others if pd.api.types.is_numeric_dtype(runs[name])]
    pairs = [("method", name) for name in others[:3]]
    pairs += [(numeric[0], numeric[1])] if len(numeric) > 1 else []
    if not others and len(study.method_fields) > 1:
        pairs = [(study.method_fields[0], study.method_fields[1])]
    for number, (down, across) in enumerate(pairs):
        if max(runs[down].nunique(dropna=False), runs[across].nunique(dropna=False)) <= _MOST_VALUES:
            filled = len(runs.groupby([down, across], dropna=False)) / (
                runs[down].nunique(dropna=False) * runs[across].nunique(dropna=False)
            )
            if filled >= _LEAST_FILLED:
                yield _table(study, runs, f"heat{number + 1}", down, across)


def _table(study: Study, runs: pd.DataFrame, name: str, down: str, across: str) -> Table:
    means = runs.groupby([down, across], sort=False, dropna=False)[study.metric].mean().unstack(across, sort=False)
    values = means.to_numpy(np.float64)
    scores = values * study.direction
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    columns = [Column(down, down, numeric=False), *(Column(_text(value), _text(value)) for value in means.columns)]
    rows = []
    for label, row in zip(means.index, values, strict=True):
        datums = [Datum(_text(label))]
        for value in row:
            if not math.isfinite(value):
                datums.append(Datum(MISSING))
                continue
            share = (value * study.direction - low) / (high - low) if high > low else 1.0
            level = min(LEVELS - 1, int(share * LEVELS))
            datums.append(Datum(format_number(study.metric, value), float(value), level=level))
        rows.append(tuple(datums))
    return Table(name, f"{study.metric} by {down} (rows) and {across} (columns)", tuple(columns), tuple(rows))


def _text(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)
