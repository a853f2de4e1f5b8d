"""One row a run."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from normhpc.results.fields import field_names, field_values
from normhpc.results.measured import torn_lines
from normhpc.results.names import BEFORE_ANY_RESULT, COST, final_order
from normhpc.results.records import RunRecord, read_records, torn_note
from normhpc.results.store.garbage import without_garbage_collection


@without_garbage_collection()
def load_runs(*dirs: str | os.PathLike[str], rebuild: bool = False) -> pd.DataFrame:
    """Every run in ``dirs`` (folders of sweeps, sweeps or runs) as a row: what it was and what came of it.

    Columns, always in this order:

    - ``run_id sweep state seed``
    - the fields that tell runs apart, under their dotted paths: ``data.name model.name norm.name``, then every
      field swept in any of the sweeps, by first appearance; missing where the configuration has no such field;
      a list is its JSON
    - final metrics (``test_top1`` ...), ``best_epoch``, ``best_val_top1`` ..., ``seconds``, ``seconds_per_epoch``,
      ``images_per_second``, ``peak_memory_mb``, ``parameters``: floats, NaN while the run is not sealed
    - ``images_per_statistic`` (images behind each batch statistic, missing for norms without), ``trained_together``
      (runs that shared its process, itself counted; missing while it is not sealed), ``data_digest`` and ``code``: what
      must agree for runs to be compared

    Rows: by sweep name, then by each field's values in the order in which the sweep's runs were created, then
    by seed. ``attrs["notes"]`` tells what is damaged or found twice; a run whose ``run.json`` is damaged has no
    row, one whose ``summary.json`` is damaged is ``lost``.

    What is read is kept (docs/records.md), so that the next call reads only what changed; ``rebuild`` reads all anew.
    Raises :class:`~normhpc.errors.InputError` when a directory does not exist or has no runs.
    """
    found = read_records(dirs, rebuild=rebuild)
    names = field_names(found.runs)
    records = in_order(found.runs, names)
    frame = pd.DataFrame(
        {
            "run_id": pd.Series([record.run_id for record in records], dtype="str"),
            "sweep": pd.Series([record.sweep for record in records], dtype="str"),
            "state": pd.Series([record.status.state for record in records], dtype="str"),
            "seed": pd.Series([record.seed for record in records], dtype="int64"),
            **field_columns(records, names),
            **_measured_columns(records),
            **_provenance_columns(records),
        }
    )
    # sealed runs are not looked through: their result stands in the summary
    frame.attrs["notes"] = [*found.notes, *torn_note(found.torn | torn_lines(records, sealed=False))]
    return frame


def in_order(records: Sequence[RunRecord], names: Sequence[str]) -> list[RunRecord]:
    """``records``, given as created: by sweep, by each field's values as they first appear in it, by seed."""
    ranks: dict[tuple[str, int, Any], int] = {}
    values = {record.run_id: field_values(record, names) for record in records}
    for record in records:
        for column, value in enumerate(values[record.run_id]):
            ranks.setdefault((record.sweep, column, value), len(ranks))

    def place(record: RunRecord) -> tuple[Any, ...]:
        by_field = [ranks[record.sweep, column, value] for column, value in enumerate(values[record.run_id])]
        return (record.sweep, by_field, record.seed)

    return sorted(records, key=place)


def field_columns(records: Sequence[RunRecord], names: Sequence[str]) -> dict[str, pd.Series]:
    """A column for each of the configuration's fields ``names``."""
    rows = [field_values(record, names) for record in records]
    return {name: _column([row[index] for row in rows]) for index, name in enumerate(names)}


def _column(values: list[Any]) -> pd.Series:
    """One type for all ``values``, whole numbers kept whole where some are missing."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean")
    if kinds == {int}:
        return pd.Series(values, dtype="Int64")
    if kinds and kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series([None if value is None else str(value) for value in values], dtype="str")


def _measured_columns(records: Sequence[RunRecord]) -> dict[str, pd.Series]:
    summaries = [record.summary for record in records]
    finals = [_mapping(summary.get("final")) for summary in summaries]
    bests = [_mapping(summary.get("best")) for summary in summaries]
    final_names = final_order({name for final in finals for name in final}) or list(BEFORE_ANY_RESULT)
    best_names = [name for best in bests for name in best] or ["epoch", "val_top1"]
    columns = {name: _numbers(finals, name) for name in final_names}
    columns |= {f"best_{name}": _numbers(bests, name) for name in dict.fromkeys(best_names)}
    columns |= {name: _numbers(summaries, name) for name in COST}
    return {name: pd.Series(values, dtype="float64") for name, values in columns.items()}


def _provenance_columns(records: Sequence[RunRecord]) -> dict[str, pd.Series]:
    columns: dict[str, list[Any]] = {
        "images_per_statistic": [_shares(record.summary.get("images_per_statistic")) for record in records],
        "trained_together": [record.summary.get("trained_together") for record in records],
        "data_digest": [record.summary.get("data_digest") for record in records],
        "code": [record.code for record in records],
    }
    return {
        name: pd.Series([None if value is None else str(value) for value in values], dtype="str")
        for name, values in columns.items()
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The number under ``name`` in each of ``rows``, NaN where there is none; what JSON calls true is none either."""
    values: list[Any] = [row.get(name) for row in rows]
    return [float(value) if type(value) in (int, float) else math.nan for value in values]


def _shares(value: Any) -> str | None:
    """``33, 32`` for [32, 33]: the order of ranks says nothing."""
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, list):
        return None
    return ", ".join(str(images) for images in sorted(set(value), reverse=True))
