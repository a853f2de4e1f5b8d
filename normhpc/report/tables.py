"""The tables of results: a row a cell, a row a run."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from normhpc.report.comparison import Comparison
from normhpc.report.elements import Column, Datum, Section, Table, bullets, paragraph
from normhpc.report.study import Study
from normhpc.results.human import MISSING, format_interval, format_number
from normhpc.results.names import SPLITS, split_of
from normhpc.results.records import RunRecord

TITLES = {
    "seconds_per_epoch": "s per epoch",
    "images_per_second": "images per s",
    "peak_memory_mb": "peak MB",
    "seconds": "s in all",
}


def results_section(study: Study, comparisons: Sequence[Comparison]) -> Section:
    """The table of cells."""
    parts = [paragraph("Once for all rows:"), bullets(study.together)] if study.together else []
    return Section("results", "Results", (*parts, results_table(study, comparisons)))


def results_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """A row a cell: the metric with its spread, other qualities, cost."""
    fields = list(study.shown) or ["data.name", "model.name", "norm.name"]
    best = {comparison.best for comparison in comparisons if len(study.cells_in(comparison.block)) > 1}
    tied = {cell for comparison in comparisons for cell in comparison.tied}
    metric = study.metric
    others = [
        name.removesuffix("_mean")
        for name in map(str, study.cells.columns)
        if name.endswith("_mean") and name != f"{metric}_mean"
    ]
    columns = [
        *(Column(name, name, numeric=_is_number(study.cells[name])) for name in fields),
        *(Column("n", "n"), Column("ok", "ok"), Column("total", "of")),
        Column(metric, f"{metric} mean"),
        *(Column(f"{metric}_{name}", name) for name in ("std", "low", "high")),
    ]
    for name in others:
        columns += [Column(name, title_of(name)), Column(f"{name}_half", "±")]
    columns.append(Column("device_hours", hours_title(study)))
    hours = device_hours(study)
    rows = []
    for cell, row in enumerate(study.rows):
        datums = [_field(row[name]) for name in fields]
        datums += [Datum(str(int(row[name])), float(row[name])) for name in ("n", "ok", "total")]
        mark: Any = "best" if cell in best else "tied" if cell in tied else ""
        datums += _metric(metric, row, mark)
        for name in others:
            datums += _mean_and_half(name, row)
        rows.append((*datums, _hours(hours[cell])))
    return Table("results", _caption(study, fields), tuple(columns), tuple(rows))


def runs_table(study: Study) -> Table:
    """A row a run, sealed or not: what each number above was made of."""
    fields = list(study.shown) or ["norm.name"]
    metrics = [name.removesuffix("_mean") for name in map(str, study.cells.columns) if name.endswith("_mean")]
    columns = [
        Column("run_id", "run id", numeric=False),
        *(Column(name, name, numeric=_is_number(study.runs[name])) for name in fields),
        Column("seed", "seed"),
        Column("state", "state", numeric=False),
        *(Column(name, title_of(name)) for name in [*metrics, "seconds"]),
    ]
    rows = []
    for row in study.runs.to_dict("records"):
        rows.append(
            (
                Datum(row["run_id"]),
                *(_field(row[name]) for name in fields),
                Datum(str(row["seed"]), float(row["seed"])),
                Datum(row["state"]),
                *(number(name, row[name]) for name in [*metrics, "seconds"]),
            )
        )
    return Table("runs", "Every run; its id is the hash of its configuration", tuple(columns), tuple(rows))


def runs_section(study: Study) -> Section:
    """The table of runs."""
    text = "A run's id is the first 16 hex digits of BLAKE2b over its complete configuration, defaults included."
    return Section("runs", "Runs", (paragraph(text), runs_table(study)))


def title_of(metric: str) -> str:
    """The name of a metric, of a cost with its unit."""
    return TITLES.get(metric, metric)


def number(metric: str, value: float) -> Datum:
    """A number of ``metric`` as tables show it."""
    return Datum(format_number(metric, value), float(value)) if math.isfinite(value) else Datum(MISSING)


def mean_and_half(metric: str, mean: float, half: float) -> tuple[Datum, Datum]:
    """A mean, and half of its interval to the same digit; no half without an interval."""
    if not math.isfinite(mean):
        return Datum(MISSING), Datum(MISSING)
    text, width = format_interval(metric, mean, half)
    return Datum(text, mean), Datum(width, half) if math.isfinite(half) else Datum(MISSING)


def device_hours(study: Study) -> list[float]:
    """Of each cell: seconds of its runs that ended with a result, times their ranks, in hours; NaN for none.

    Of a process that trained several runs together, each has its share.
    """
    hours = [math.nan] * len(study.cells)
    for cell, record in zip(study.cell_of, study.records, strict=True):
        seconds = seconds_of_result(record)
        if seconds is not None:
            hours[cell] = (0.0 if math.isnan(hours[cell]) else hours[cell]) + seconds / 3600
    return hours


def seconds_of_result(record: RunRecord) -> float | None:
    """Seconds times ranks of the training that a run's result was made of, its share of them; None without a result."""
    seconds = record.summary.get("share_seconds", record.summary.get("seconds"))
    ranks = record.summary.get("ranks", 1)
    return float(seconds * ranks) if isinstance(seconds, int | float) and isinstance(ranks, int) else None


def hours_title(study: Study) -> str:
    """``GPU-hours`` where all runs were on GPUs."""
    devices = {str(record.summary["device"]) for record in study.records if "device" in record.summary}
    return "GPU-hours" if devices and not any(device.startswith("cpu") for device in devices) else "device-hours"


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _hours(value: float) -> Datum:
    return Datum(f"{value:.3g}", value) if math.isfinite(value) else Datum(MISSING)


def _field(value: Any) -> Datum:
    if pd.isna(value):
        return Datum(MISSING)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Datum(str(value))
    return Datum(f"{value:g}" if isinstance(value, float) else str(value), float(value))


def _metric(metric: str, row: dict[str, Any], mark: Any) -> list[Datum]:
    mean, std, low, high = (row[f"{metric}_{name}"] for name in ("mean", "std", "low", "high"))
    if not math.isfinite(mean):
        return [Datum(MISSING)] * 4
    if not math.isfinite(std):
        return [Datum(format_number(metric, mean), mean, mark), *[Datum(MISSING)] * 3]
    text, _ = format_interval(metric, mean, row[f"{metric}_half"])
    digits = len(text.partition(".")[2])
    return [Datum(text, mean, mark), *(Datum(f"{value:.{digits}f}", value) for value in (std, low, high))]


def _mean_and_half(name: str, row: dict[str, Any]) -> tuple[Datum, Datum]:
    return mean_and_half(name, row[f"{name}_mean"], row[f"{name}_half"])


def _caption(study: Study, fields: Sequence[str]) -> str:
    constant = [name for name in ("data.name", "model.name", "norm.name") if name not in fields]
    told = [f"{name} {study.runs[name].iloc[0]}" for name in constant if pd.notna(study.runs[name].iloc[0])]
    over = study.cells.attrs.get("over", "seeds")
    where = f" on {split_of(study.metric)}" if split_of(study.metric) in SPLITS else ""
    same = f"All runs: {', '.join(told)}. " if told else ""
    return (
        f"{same}n runs have a result, ok of so many finished; mean, standard deviation (n - 1) and 95 % Student t interval "
        f"over {over}{where}, within what the metric can be; ± is half of such an interval. Bold: best of its block. Underlined: "
        "not distinguishable from it (paired by seed, Holm, 5 %)."
    )
