"""A second count of the main tables: files of the run folders and plain arithmetic, no code of the first."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from normhpc.report.study import Study
from normhpc.results.names import COST, is_share

Recount = tuple[str, int, str, float | None]
"""Table, number of the row, key of the column, and what belongs there; None for nothing."""


def recounted(study: Study) -> Iterator[Recount]:
    """The measured columns of ``runs`` and ``results``; of ``study`` only which run is in which row is used."""
    metrics = [str(name).removesuffix("_mean") for name in study.cells.columns if str(name).endswith("_mean")]
    qualities = [name for name in metrics if name not in COST]
    summaries = [_summary(record.folder.path) for record in study.records]
    for row, summary in enumerate(summaries):
        for metric in [*metrics, "seconds"]:
            yield "runs", row, metric, _value(summary, metric)
    members: list[list[dict[str, Any]]] = [[] for _ in study.cell_method]
    for cell, summary in zip(study.cell_of, summaries, strict=True):
        members[cell].append(summary)
    for row, own in enumerate(members):
        valued = [one for one in own if any(_value(one, name) is not None for name in qualities)]
        yield "results", row, "n", float(len(valued))
        yield "results", row, "ok", float(sum(one.get("state") == "finished" for one in own))
        yield "results", row, "total", float(len(own))
        for metric in metrics:
            values = [value for one in valued if (value := _value(one, metric)) is not None]
            mean, std, half = statistics(values)
            yield "results", row, metric, mean
            if metric != study.metric:
                yield "results", row, f"{metric}_half", half
                continue
            yield "results", row, f"{metric}_std", std
            ends = (None, None) if mean is None or half is None else _within(metric, mean - half, mean + half)
            yield "results", row, f"{metric}_low", ends[0]
            yield "results", row, f"{metric}_high", ends[1]


def _within(metric: str, low: float, high: float) -> tuple[float, float]:
    """No share is above 1, and only what has no direction, or none that is known, is below 0."""
    share, bounded = is_share(metric), is_share(metric) or metric.endswith("loss") or metric in COST
    return max(low, 0.0) if bounded else low, min(high, 1.0) if share else high


def statistics(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean, standard deviation, half of the 95 % Student t interval."""
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return None, None, None
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None, None
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, std, float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)


def _summary(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _value(summary: dict[str, Any], metric: str) -> float | None:
    """A number of ``summary.json``: a cost stands at its top, others in ``final``, of the best epoch in ``best``."""
    place: Any = summary if metric in COST else summary.get("final")
    name = metric
    if metric.startswith("best_"):
        place, name = summary.get("best"), metric.removeprefix("best_")
    value = place.get(name) if isinstance(place, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None
