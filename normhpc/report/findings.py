"""What ``normhpc analyze`` left in the runs' folders ``posthoc``: its numbers by method, with n."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normhpc.report.elements import Column, Datum, Table
from normhpc.report.study import Study
from normhpc.results.human import MISSING, format_interval
from normhpc.results.statistics.intervals import mean_of

FOLDER = "posthoc"

QUANTITIES = {
    "misclassified": ("mistakes", "error"),
    "calibration": ("ece_equal_width", "ece_equal_width_floor", "nll", "brier", "temperature"),
    "similarity": ("class_similarity", "centred_similarity_std", "nc1"),
    "saliency": ("srg_retention", "srg_retention_random", "srg_retention_fresh", "sensitivity_max", "zero_maps"),
    "hessian": (
        "eval.lambda_max",
        "eval.trace",
        "train.lambda_max",
        "train.trace",
        "eval.checks_failed",
        "train.checks_failed",
    ),
    "loss_line": ("loss", "random_rise_at_0.1"),
    "corruption": ("clean_error", "mean_corruption_error", "relative_mean_corruption_error"),
}
"""Of each analysis the numbers that a report tells; the files of the runs have more."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one analysis of one run."""

    run: int
    what: str
    method: str
    values: Mapping[str, float]
    folder: Path
    files: tuple[str, ...]


def findings(study: Study) -> tuple[list[Found], list[str]]:
    """Every result that can be read, in the order of runs and names, and notes on those that cannot."""
    found: list[Found] = []
    notes: list[str] = []
    for run, record in enumerate(study.records):
        folder = record.folder.path / FOLDER
        for file in sorted(folder.glob("*.json")):
            try:
                content: Any = json.loads(file.read_bytes())
                values = _numbers(content["values"])
                files = tuple(str(name) for name in content.get("files", ()))
                found.append(Found(run, file.stem, str(content["method"]), values, folder, files))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                notes.append(f"{record.run_id}: {FOLDER}/{file.name} cannot be read; normhpc analyze writes it again")
    return found, notes


def finding_tables(study: Study, found: list[Found]) -> Iterator[tuple[str, Table]]:
    """For each analysis the method in words, and a row a cell."""
    for what in dict.fromkeys([*QUANTITIES, *sorted({one.what for one in found})]):
        of_it = [one for one in found if one.what == what]
        names = [name for name in QUANTITIES.get(what, ()) if any(name in one.values for one in of_it)]
        if names:
            yield of_it[0].method, _table(study, what, names, of_it)


def _table(study: Study, what: str, names: list[str], found: list[Found]) -> Table:
    several = len(study.blocks) > 1
    columns = [Column("method", "method", numeric=False)]
    columns += [Column("block", "block", numeric=False)] if several else []
    columns.append(Column("n", "n"))
    for name in names:
        columns += [Column(name, name.replace("_", " ").replace(".", " ")), Column(f"{name}_half", "±")]
    rows = []
    for cell in range(len(study.cells)):
        own = [one.values for one in found if study.cell_of[one.run] == cell]
        if not own:
            continue
        datums = [Datum(study.methods[study.cell_method[cell]])]
        datums += [Datum(study.blocks[study.cell_block[cell]])] if several else []
        datums.append(Datum(str(len(own)), float(len(own))))
        for name in names:
            datums += _mean_and_half([values[name] for values in own if name in values])
        rows.append(tuple(datums))
    caption = f"{what}: mean over seeds and half of its 95 % Student t interval; n runs were analysed"
    return Table(f"posthoc-{what}", caption, tuple(columns), tuple(rows))


def _mean_and_half(values: list[float]) -> tuple[Datum, Datum]:
    if not values:
        return Datum(MISSING), Datum(MISSING)
    found = mean_of(np.array(values))
    half = math.nan if found.high is None else found.high - found.mean
    text, width = format_interval("", found.mean, half)
    return Datum(text, found.mean), Datum(width, half) if width else Datum(MISSING)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Finite numbers by dotted name; of checks how many failed."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if name == "checks" and isinstance(value, dict):
            found[f"{prefix}checks_failed"] = float(sum(not holds for holds in value.values()))
        elif isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found
