"""``normhpc collect``: records in, a table out."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from normhpc.errors import InputError, Problem
from normhpc.files import replace_file
from normhpc.results.comparability import comparability_notes
from normhpc.results.formats import checked_format
from normhpc.results.measured import torn_lines
from normhpc.results.names import IDENTITY
from normhpc.results.records import read_records, torn_note
from normhpc.results.runs import load_runs
from normhpc.results.summary import checked_metrics, field_columns, summarize

_FOR_MACHINES = ("csv", "json", "parquet")


@dataclass(frozen=True, slots=True)
class Collected:
    """``content`` is for stdout, None when it went to a file; ``notes`` are for stderr, what stdout does not say.

    ``odd`` is what is wrong with the records, for those who asked for it.
    """

    content: str | bytes | None
    notes: tuple[str, ...]
    odd: tuple[str, ...] = ()


def collect(
    dirs: Sequence[str | os.PathLike[str]],
    *,
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    per_run: bool = False,
    format: str = "table",
    out: str | os.PathLike[str] | None = None,
    strict: bool = False,
    rebuild: bool = False,
) -> Collected:
    """The table of the runs in ``dirs``, by cell or ``per_run``, in ``format``; written whole to ``out`` if given.

    ``per_run`` with ``csv``, ``json`` or ``parquet`` has every metric unless ``metrics`` names some.
    ``strict`` lists under ``odd`` all that keeps the table from being whole: damaged records, torn lines (of sealed runs
    too), runs found twice, failed and unfinished runs, missing seeds, and runs that differ in data, code, schema or
    images behind a batch statistic. A run that diverged is a result. ``rebuild`` reads all records anew.
    Raises :class:`InputError` for bad usage, missing folders and folders without runs; nothing is written then.
    """
    spell = checked_format(format)
    if per_run and by:
        raise InputError("--by groups runs into cells and --per-run shows each run; give one of the two")
    target = _checked_target(out)
    runs = load_runs(*dirs, rebuild=rebuild)
    odd = tuple(odd_notes(runs, dirs)) if strict else ()
    table = _run_table(runs, metrics, whole=format in _FOR_MACHINES) if per_run else summarize(runs, by, metrics)
    content = spell(table)
    notes = tuple(table.attrs["notes"])
    if target is None:
        return Collected(content, () if format == "table" else notes, odd)
    data = content.encode() if isinstance(content, str) else content
    replace_file(target, lambda file: file.write(data))
    return Collected(None, notes, odd)


def tell(collected: Collected) -> int:
    """Write the table to standard output and the notes to standard error. Returns the exit code: 1 when something is odd."""
    if isinstance(collected.content, bytes):
        sys.stdout.buffer.write(collected.content)
    elif collected.content is not None:
        sys.stdout.write(collected.content)
    for note in collected.notes:
        print(f"note: {note}", file=sys.stderr)
    for note in collected.odd:
        print(f"error: {note}", file=sys.stderr)
    return int(bool(collected.odd))


def odd_notes(runs: pd.DataFrame, dirs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """What keeps a table of ``runs``, loaded from ``dirs``, from being whole."""
    sealed = torn_note(torn_lines(read_records(dirs).runs, sealed=True))
    return [*runs.attrs["notes"], *sealed, *comparability_notes(runs, diverged=False)]


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
