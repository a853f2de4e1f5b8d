"""``normhpc collect``: records in, a table out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from normhpc.errors import InputError, Problem
from normhpc.files import replace_file
from normhpc.results.comparability import comparability_notes
from normhpc.results.formats import checked_format
from normhpc.results.names import IDENTITY
from normhpc.results.runs import load_runs
from normhpc.results.summary import checked_metrics, field_columns, summarize

_FOR_MACHINES = ("csv", "json", "parquet")


@dataclass(frozen=True, slots=True)
class Collected:
    """``content`` is for stdout, None when it went to a file; ``notes`` are for stderr, what stdout does not say."""

    content: str | bytes | None
    notes: tuple[str, ...]


def collect(
    dirs: Sequence[str | os.PathLike[str]],
    *,
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    per_run: bool = False,
    format: str = "table",
    out: str | os.PathLike[str] | None = None,
) -> Collected:
    """The table of the runs in ``dirs``, by cell or ``per_run``, in ``format``; written whole to ``out`` if given.

    ``per_run`` with ``csv``, ``json`` or ``parquet`` has every metric unless ``metrics`` names some.
    Raises :class:`InputError` for bad usage, missing folders and folders without runs; nothing is written then.
    """
    spell = checked_format(format)
    if per_run and by:
        raise InputError("--by groups runs into cells and --per-run shows each run; give one of the two")
    target = _checked_target(out)
    runs = load_runs(*dirs)
    table = _run_table(runs, metrics, whole=format in _FOR_MACHINES) if per_run else summarize(runs, by, metrics)
    content = spell(table)
    notes = tuple(table.attrs["notes"])
    if target is None:
        return Collected(content, () if format == "table" else notes)
    data = content.encode() if isinstance(content, str) else content
    replace_file(target, lambda file: file.write(data))
    return Collected(None, notes)


def _run_table(runs: pd.DataFrame, metrics: Sequence[str] | None, *, whole: bool) -> pd.DataFrame:
    chosen = checked_metrics(runs, metrics)
    notes = [*runs.attrs["notes"], *comparability_notes(runs)]
    table = runs if whole and not metrics else runs[[*IDENTITY, *field_columns(runs), *chosen]]
    table.attrs["notes"] = notes
    return table


def _checked_target(out: str | os.PathLike[str] | None) -> Path | None:
    if out is None:
        return None
    target = Path(out)
    if target.is_dir():
        raise InputError(Problem("expected a file to write, this is a folder", path="--out", file=str(target)))
    if not target.parent.is_dir():
        raise InputError(Problem("there is no such folder to write into", path="--out", file=str(target.parent)))
    return target
