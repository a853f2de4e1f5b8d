"""Every metric line of every run, one number a row."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normhpc.results.fields import field_names
from normhpc.results.measured import measured_parts
from normhpc.results.records import RunRecord, read_records, torn_note
from normhpc.results.runs import field_columns, in_order
from normhpc.results.store.garbage import without_garbage_collection
from normhpc.results.store.lines import LINE, Extent, Shapes

_BLOCK_LINES = 65_536


@without_garbage_collection()
def load_metrics(*dirs: str | os.PathLike[str], rebuild: bool = False) -> pd.DataFrame:
    """Every number in the ``metrics.jsonl`` of the runs in ``dirs``, finished or not, as one long table.

    Columns: ``run_id sweep``, the fields of :func:`~normhpc.results.load_runs`, ``seed epoch step split attempt
    metric value``. Of lines with the same epoch, step and split, written again after a resume, the last holds.
    A value that was not finite is NaN. Rows: runs as in ``load_runs``, then by epoch and step, the metrics of a
    line by name.
    Text is in categories, whole numbers in 32 bits where they fit: a study has tens of millions of rows.

    What is read is kept (docs/records.md), so that the next call reads only what changed; ``rebuild`` reads all anew.
    ``attrs["notes"]`` counts the lines that could not be read (torn by a crash), file by file.
    Raises :class:`~normhpc.errors.InputError` when a directory does not exist or has no runs.
    """
    found = read_records(dirs, rebuild=rebuild)
    names = field_names(found.runs)
    records = in_order(found.runs, names)
    lines, values, extents, shapes = _measured(records)
    rows = np.array([extent.values for extent in extents], np.int64)
    columns: dict[str, Any] = {}
    for name, series in _constants(records, names).items():
        columns[name] = _repeated(series, rows)
    # forms that none of these lines has, known from other runs, must leave no trace
    used = np.flatnonzero(np.bincount(lines["shape"], minlength=len(shapes)))
    shapes = [shapes[number] for number in used]
    shape = np.searchsorted(used, lines["shape"])
    splits, split_of_shape = _numbered([split for split, _ in shapes])
    metrics, metric_of_name = _numbered([name for _, metrics in shapes for name in metrics])
    width = np.array([len(names) for _, names in shapes], np.int64)
    counts = width[shape]
    place = {name: np.repeat(_narrow(lines[name]), counts) for name in ("epoch", "step", "attempt")}
    # at ten thousand runs every column counts
    del lines
    columns |= {"epoch": place["epoch"], "step": place["step"]}
    columns["split"] = _categories(np.repeat(split_of_shape[shape], counts), splits)
    columns["attempt"] = place["attempt"]
    columns["metric"] = _categories(_codes_by_line(metric_of_name, width, shape), metrics)
    columns["value"] = values
    frame = pd.DataFrame(columns, copy=False)
    torn = dict(found.torn)
    for record, extent in zip(records, extents, strict=True):
        if extent.torn + extent.keyless:
            torn[str(record.folder.metrics)] = extent.torn + extent.keyless
    frame.attrs["notes"] = [*found.notes, *torn_note(torn)]
    return frame


def _measured(
    records: Sequence[RunRecord],
) -> tuple[NDArray[np.void], NDArray[np.float64], list[Extent], list[tuple[str, tuple[str, ...]]]]:
    """Lines and values of ``records`` in their order, how many each has, and the shapes of the lines."""
    found = list(measured_parts(records))
    if len(found) == 1:
        ((_, part),) = found
        return part.lines, part.values, part.extents, part.shapes
    shapes = Shapes()
    pieces: dict[int, tuple[NDArray[np.void], NDArray[np.float64], Extent]] = {}
    for numbers, part in found:
        part.lines["shape"] = np.array([shapes.number(*shape) for shape in part.shapes], "<i4")[part.lines["shape"]]
        line = value = 0
        for number, extent in zip(numbers, part.extents, strict=True):
            lines = part.lines[line : line + extent.lines]
            pieces[number] = lines, part.values[value : value + extent.values], extent
            line += extent.lines
            value += extent.values
    in_order = [pieces[number] for number in range(len(records))]
    return (
        np.concatenate([np.empty(0, LINE), *(lines for lines, _, _ in in_order)]),
        np.concatenate([np.empty(0), *(values for _, values, _ in in_order)]),
        [extent for _, _, extent in in_order],
        shapes.known,
    )


def _constants(records: Sequence[RunRecord], names: Sequence[str]) -> dict[str, pd.Series]:
    """What is the same in all rows of a run."""
    return {
        "run_id": pd.Series([record.run_id for record in records], dtype="str"),
        "sweep": pd.Series([record.sweep for record in records], dtype="str"),
        **field_columns(records, names),
        "seed": pd.Series(_narrow(np.array([record.seed for record in records], np.int64))),
    }


def _repeated(column: pd.Series, rows: NDArray[np.int64]) -> Any:
    """Each value of ``column`` as often as ``rows`` says."""
    if not pd.api.types.is_string_dtype(column.dtype):
        return column.array[np.repeat(np.arange(len(column)), rows)]
    codes, values = pd.factorize(column)
    return _categories(np.repeat(codes.astype(_code_type(len(values))), rows), values)


def _numbered(names: Sequence[str]) -> tuple[list[str], NDArray[Any]]:
    """The different ``names`` in alphabetical order, and the number of each one among them."""
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return list(numbers), np.array([numbers[name] for name in names], _code_type(len(numbers)))


def _categories(codes: NDArray[Any], values: Any) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, pd.Index(values, dtype="str"))


def _code_type(count: int) -> Any:
    return np.min_scalar_type(-max(1, count))


def _narrow(column: NDArray[np.int64]) -> NDArray[Any]:
    limits = np.iinfo(np.int32)
    fits = not len(column) or (column.min() >= limits.min and column.max() <= limits.max)
    return column.astype(np.int32) if fits else column.astype(np.int64)


def _codes_by_line(code_of_name: NDArray[Any], width: NDArray[np.int64], shape: NDArray[np.int64]) -> NDArray[Any]:
    """The codes of the names of each line's shape, one line after the other."""
    first_name = width.cumsum() - width
    found = []
    for start in range(0, len(shape), _BLOCK_LINES):
        block = shape[start : start + _BLOCK_LINES]
        counts = width[block]
        before = counts.cumsum() - counts
        found.append(code_of_name[np.arange(counts.sum()) + np.repeat(first_name[block] - before, counts)])
    return np.concatenate([np.empty(0, code_of_name.dtype), *found])
