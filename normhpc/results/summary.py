"""One row a cell: what its seeds say together, and how many of them there are."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.core.groupby import SeriesGroupBy

from normhpc.errors import InputError, Problem, did_you_mean
from normhpc.results.comparability import comparability_notes
from normhpc.results.fields import image_sets, is_field
from normhpc.results.names import COST, IDENTITY, PROVENANCE, default_metrics, is_known
from normhpc.results.records import listed
from normhpc.results.statistics.intervals import half_width
from normhpc.results.ties import tied_with_best

STATISTICS = ("mean", "std", "low", "high")


def summarize(
    runs: pd.DataFrame, by: Sequence[str] | None = None, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """The runs of :func:`~normhpc.results.load_runs` by cell: all fields but the seed, or the columns ``by``.

    Columns: the fields; ``n``, the runs that have a value; ``ok total failed diverged other``, the runs that
    finished, that there are, that failed, that diverged, that have not ended; and for every metric ``m``
    ``m_mean m_std m_low m_high``: mean, standard deviation with n - 1, and 95 % Student t interval, mean +/-
    t(0.975; n - 1) std / sqrt(n), over the n runs. With n = 1 there is a mean alone.

    A run counts in ``n`` when it has any of the metrics that are not cost (any at all when all are cost), and
    only such runs enter a cost: a run that diverged at once does not make its norm look fast.
    Rows: by first appearance in ``runs``. ``attrs["notes"]``: everything one must know before comparing rows;
    ``attrs["tied"]``: for each metric the rows that cannot be told from the best (:mod:`normhpc.results.ties`).

    Raises :class:`InputError` for a metric or field that ``runs`` does not have.
    """
    chosen = checked_metrics(runs, metrics)
    keys = _checked_fields(runs, by)
    cell = runs.groupby(keys, sort=False, dropna=False).ngroup()
    valued = runs[[name for name in chosen if name not in COST] or chosen].notna().any(axis="columns")
    table = runs[keys].drop_duplicates().reset_index(drop=True)
    table.attrs = {}
    for name, chosen_runs in _counts(runs["state"], valued).items():
        table[name] = chosen_runs.groupby(cell).sum().astype("int64")
    for name in chosen:
        table = table.assign(**_statistics(name, runs[name].where(valued).groupby(cell)))
    rivals = image_sets(table[keys])
    table.attrs["tied"] = {
        name: tied_with_best(runs[name].where(valued), runs["seed"], cell, rivals, name) for name in chosen
    }
    others = [name for name in field_columns(runs) if name not in keys]
    mixed = [name for name in others if (runs.groupby(cell)[name].nunique(dropna=False) > 1).any()]
    table.attrs["over"] = "the runs of a row" if mixed else "seeds"
    table.attrs["notes"] = [
        *runs.attrs.get("notes", []),
        *comparability_notes(runs),
        *_mixture_notes(keys, mixed),
        *_absence_notes(runs.loc[valued, chosen]),
    ]
    return table


def field_columns(runs: pd.DataFrame) -> list[str]:
    """The columns of ``runs`` that are fields of the configuration."""
    return [str(name) for name in runs.columns if is_field(str(name))]


def metric_columns(runs: pd.DataFrame) -> list[str]:
    """The columns of ``runs`` that are measurements."""
    others = {*IDENTITY, *PROVENANCE, *field_columns(runs)}
    return [str(name) for name in runs.columns if name not in others]


def checked_metrics(runs: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    """``metrics`` without repeats, or the default ones. Raises :class:`InputError` naming those there are."""
    there = metric_columns(runs)
    if not metrics:
        return default_metrics(there)
    problems = [_unknown("metric", name, there) for name in metrics if name not in there]
    if problems:
        raise InputError(problems)
    return list(dict.fromkeys(metrics))


def _checked_fields(runs: pd.DataFrame, by: Sequence[str] | None) -> list[str]:
    fields = field_columns(runs)
    if not by:
        return fields
    allowed = [*fields, "sweep", "seed"]
    problems = [_unknown("field", name, allowed) for name in by if name not in allowed]
    if problems:
        raise InputError(problems)
    return list(dict.fromkeys(by))


def _unknown(noun: str, name: str, there: Sequence[str]) -> Problem:
    # a metric that other runs have is no slip of the pen for one of these
    hint = ("" if is_known(name) else did_you_mean(name, there)) or "."
    return Problem(f"no {noun} of these runs is called {name!r}{hint} There are: {', '.join(there)}")


def _statistics(metric: str, cells: "SeriesGroupBy[float, int]") -> dict[str, pd.Series]:
    count, mean, std = cells.count(), cells.mean(), cells.std(ddof=1)
    half = half_width(np.asarray(std, dtype=np.float64), np.asarray(count, dtype=np.float64))
    columns = (mean, std, mean - half, mean + half)
    return {f"{metric}_{name}": column for name, column in zip(STATISTICS, columns, strict=True)}


def _mixture_notes(keys: Sequence[str], mixed: Sequence[str]) -> list[str]:
    if not mixed:
        return []
    return [f"rows by {', '.join(keys)} are over different {', '.join(mixed)}, not over seeds alone"]


def _absence_notes(entering: pd.DataFrame) -> list[str]:
    counts = {str(name): int(entering[name].count()) for name in entering.columns}
    fewer = [f"{name} ({count} of {len(entering)})" for name, count in counts.items() if 0 < count < len(entering)]
    return [f"fewer values than n: {listed(fewer)}"] if fewer else []


def _counts(state: pd.Series, valued: pd.Series) -> dict[str, pd.Series]:
    ended = ("finished", "failed", "diverged")
    return {
        "n": valued,
        "ok": state == "finished",
        "total": pd.Series(np.ones(len(state), dtype=bool), index=state.index),
        "failed": state == "failed",
        "diverged": state == "diverged",
        "other": ~state.isin(ended),
    }
