"""A table as people read it: mean +/- half-width, sensible digits, what is constant said once."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normhpc.results.fields import image_sets, is_field
from normhpc.results.names import PROVENANCE, better, is_share
from normhpc.results.ties import METHOD

MISSING = "-"
"""The text of a cell without a value."""

_SUFFIX = "_mean"


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of a cell, what follows its plus-minus sign, and whether it is the best of its column, or tied with it."""

    text: str
    half_width: str = ""
    best: bool = False
    tied: bool = False


@dataclass(frozen=True, slots=True)
class HumanTable:
    """``header`` names the columns, ``numeric`` says which of them align right, ``rows`` hold their cells.

    ``marks`` says how tied cells were found; empty when there are none.
    """

    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    notes: tuple[str, ...]
    marks: str = ""


def human_table(frame: pd.DataFrame) -> HumanTable:
    """What to print of a table of runs, or of cells."""
    columns = _cell_columns(frame) if "run_id" not in frame.columns else _run_columns(frame)
    caption = ""
    if any(name.endswith(_SUFFIX) for name in map(str, frame.columns)):
        over = frame.attrs.get("over", "seeds")
        caption = f"mean ± half-width of the 95 % Student t interval over {over}; n runs have a value"
    rows = tuple(zip(*columns.values(), strict=True))
    return HumanTable(
        header=tuple(columns),
        numeric=tuple(_is_numeric(frame, name) for name in columns),
        rows=rows,
        caption=caption,
        notes=tuple(frame.attrs.get("notes", ())),
        marks=METHOD if any(cell.tied for row in rows for cell in row) else "",
    )


def format_number(metric: str, value: float) -> str:
    """Fractions with four digits after the point, whole numbers whole, others with four significant digits."""
    if not math.isfinite(value):
        return MISSING
    if is_share(metric):
        return f"{value:.4f}"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.{_decimals(value, 4)}f}"


def format_interval(metric: str, mean: float, half: float) -> tuple[str, str]:
    """Mean and half-width to the same digit: the second of the half-width, or the fourth decimal of a fraction."""
    if not (math.isfinite(mean) and math.isfinite(half)):
        return format_number(metric, mean), ""
    digits = 4 if is_share(metric) else _decimals(half or mean, 2 if half else 4)
    return f"{mean:.{digits}f}", f"{half:.{digits}f}"


def _decimals(value: float, significant: int) -> int:
    if value == 0:
        return significant - 1
    return min(8, max(0, significant - 1 - math.floor(math.log10(abs(value)))))


def _run_columns(frame: pd.DataFrame) -> dict[str, list[Cell]]:
    return {
        str(name): [_plain_cell(str(name), value) for value in frame[name]]
        for name in frame.columns
        if name not in PROVENANCE
    }


def _cell_columns(frame: pd.DataFrame) -> dict[str, list[Cell]]:
    columns: dict[str, list[Cell]] = {}
    for name in map(str, frame.columns[: frame.columns.get_loc("n")]):
        columns[name] = [_plain_cell(name, value) for value in frame[name]]
    columns["n"] = [Cell(str(count)) for count in frame["n"]]
    columns["ok/total"] = [Cell(f"{ok}/{total}") for ok, total in zip(frame["ok"], frame["total"], strict=True)]
    for name in map(str, frame.columns):
        if name.endswith(_SUFFIX):
            metric = name.removesuffix(_SUFFIX)
            columns[metric] = _metric_cells(frame, metric)
    return columns


def _metric_cells(frame: pd.DataFrame, metric: str) -> list[Cell]:
    means, highs = frame[f"{metric}_mean"], frame[f"{metric}_high"]
    scores = means * better(metric)
    # images of different sets are not rivals: the best is the best on its set
    best = scores.groupby(image_sets(frame)).transform("max")
    contested = better(metric) != 0 and len(frame) > 1
    tied = set(frame.attrs.get("tied", {}).get(metric, ()))
    return [
        Cell(*format_interval(metric, mean, high - mean), best=bool(contested and score == top), tied=number in tied)
        for number, mean, high, score, top in zip(frame.index, means, highs, scores, best, strict=True)
    ]


def _plain_cell(name: str, value: Any) -> Cell:
    if pd.isna(value):
        return Cell(MISSING)
    if isinstance(value, float) and not is_field(name):
        return Cell(format_number(name, value))
    return Cell(f"{value:g}" if isinstance(value, float) else str(value))


def _is_numeric(frame: pd.DataFrame, name: str) -> bool:
    if name not in frame.columns:
        return True
    return pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name])
