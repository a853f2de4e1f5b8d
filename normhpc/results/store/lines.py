"""``metrics.jsonl`` into columns of numbers, without an object for each of millions of them.

The lines of a run are read as one JSON array, by orjson (four times as fast as the standard library's parser); where that
fails or the count is not that of the lines, line by line. Rows of about a thousand lines go into arrays at a time: small
enough for a processor's cache, large enough that numpy's calls do not count.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from normhpc.results.surrogates import without_surrogates

LINE = np.dtype([("epoch", "<i8"), ("step", "<i8"), ("attempt", "<i4"), ("shape", "<i4")])
"""One line without its numbers. ``shape`` is its place in :class:`Shapes`."""

_KEYS = frozenset({"time", "attempt", "epoch", "step", "split"})
_CHUNK_LINES = 1_000
_LARGEST = 2**63


class Shapes:
    """The forms lines have: split and names of the metrics in their order, numbered as they first appear."""

    def __init__(self, known: Iterable[tuple[str, tuple[str, ...]]] = ()) -> None:
        self.known = list(known)
        self._numbers = {shape: number for number, shape in enumerate(self.known)}

    def number(self, split: str, names: tuple[str, ...]) -> int:
        """The number of a shape, a new one when it was never seen."""
        shape = (split, names)
        if shape not in self._numbers:
            self._numbers[shape] = len(self.known)
            self.known.append(shape)
        return self._numbers[shape]


class Extent(NamedTuple):
    """How much a run has: ``lines`` that hold and their ``values``, lines that are ``torn``, lines without a place."""

    lines: int
    values: int
    torn: int
    keyless: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """Lines and values of several runs, one after the other, as the runs were added; ``extents`` says how many each."""

    lines: NDArray[np.void]
    values: NDArray[np.float64]
    extents: list[Extent]


@dataclass(slots=True)
class LineParser:
    """Takes the content of one ``metrics.jsonl`` after the other."""

    shapes: Shapes
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _waiting: list[tuple[int, int]] = field(default_factory=list)
    """Of each run of the chunk: its rows, and its torn lines."""
    _lines: list[NDArray[np.void]] = field(default_factory=list)
    _values: list[NDArray[np.float64]] = field(default_factory=list)
    _extents: list[Extent] = field(default_factory=list)

    def add(self, content: bytes) -> None:
        """The lines of the next run."""
        rows, torn = _rows_of(content)
        self._rows += rows
        self._waiting.append((len(rows), torn))
        if len(self._rows) >= _CHUNK_LINES:
            self._flush()

    def append(self, parsed: Parsed) -> None:
        """The runs that another parser with the same numbers of shapes took, after those of this one."""
        self._flush()
        self._lines.append(parsed.lines)
        self._values.append(parsed.values)
        self._extents += parsed.extents

    def parsed(self) -> Parsed:
        """All that was added."""
        self._flush()
        return Parsed(
            np.concatenate([np.empty(0, LINE), *self._lines]),
            np.concatenate([np.empty(0, np.float64), *self._values]),
            self._extents,
        )

    def _flush(self) -> None:
        counts = [count for count, _ in self._waiting]
        keyless = [0] * len(counts)
        try:
            lines, values, width = _columns(self._rows, self.shapes)
            if not _is_in_order(lines, counts, self.shapes):
                raise _IrregularError
        except (_IrregularError, KeyError, TypeError, OverflowError):
            rows: list[dict[str, Any]] = []
            start = 0
            for run, count in enumerate(counts):
                held, keyless[run] = _lines_that_hold(self._rows[start : start + count])
                rows += map(_numbers_of, held)
                start += count
                counts[run] = len(held)
            lines, values, width = _columns(rows, self.shapes)
        ends = np.concatenate(([0], width.cumsum()))
        start = 0
        for count, without, (_, torn) in zip(counts, keyless, self._waiting, strict=True):
            size = int(ends[start + count] - ends[start])
            self._extents.append(Extent(count, size, torn, without))
            start += count
        self._lines.append(lines)
        self._values.append(values)
        self._rows, self._waiting = [], []


class _IrregularError(Exception):
    """Lines that must be looked at one by one."""


def _rows_of(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects in ``content``, one a line, and the number of lines that are none."""
    body = content.rstrip()
    if not body:
        return [], 0
    try:
        # no string of JSON goes over an end of line, so a torn line cannot swallow the next one
        rows = orjson.loads(b"[" + body.replace(b"\n", b",\n") + b"]")
    except orjson.JSONDecodeError:
        rows = []
    if len(rows) == body.count(b"\n") + 1 and set(map(type, rows)) == {dict}:
        return rows, 0
    found = []
    torn = 0
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = without_surrogates(json.loads(line))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            found.append(row)
        else:
            torn += 1
    return found, torn


def _columns(
    rows: Sequence[dict[str, Any]], shapes: Shapes
) -> tuple[NDArray[np.void], NDArray[np.float64], NDArray[np.int64]]:
    """Lines, values and values per line of ``rows`` that all have a place, an attempt and numbers alone.

    Raises :class:`_IrregularError`, KeyError, TypeError or OverflowError when one has not.
    """
    lines = np.empty(len(rows), LINE)
    width = np.empty(len(rows), np.int64)
    kinds: dict[tuple[str, ...], int] = {}
    kind_of_row = np.array([kinds.setdefault(kind, len(kinds)) for kind in map(tuple, rows)], np.int64)
    parts = []
    for kind, number in kinds.items():
        of_kind = kind_of_row == number
        chosen = np.flatnonzero(of_kind)
        # one flat list cut into columns: no tuple is made for each line
        flat_rows = list(chain.from_iterable(map(dict.values, compress(rows, of_kind.tolist()))))
        columns = {name: flat_rows[place :: len(kind)] for place, name in enumerate(kind)}
        lines["epoch"][chosen] = _typed(columns["epoch"], {int}, np.int64)
        lines["step"][chosen] = _typed(columns["step"], {int}, np.int64)
        lines["attempt"][chosen] = _typed(columns["attempt"], {int}, np.int32)
        split = columns["split"]
        if set(map(type, split)) != {str}:
            raise _IrregularError
        names = tuple(name for name in kind if name not in _KEYS)
        shape_of = {name: shapes.number(name, names) for name in dict.fromkeys(split)}
        # mostly a split has metrics of its own, so that there is one
        lines["shape"][chosen] = [*shape_of.values()] if len(shape_of) == 1 else [shape_of[name] for name in split]
        width[chosen] = len(names)
        parts.append((chosen, [_typed(columns[name], {int, float, type(None)}, np.float64) for name in names]))
    ends = width.cumsum()
    flat = np.empty(int(ends[-1]) if len(rows) else 0)
    for chosen, values in parts:
        starts = ends[chosen] - len(values)
        for offset, column in enumerate(values):
            flat[starts + offset] = column
    return lines, flat, width


def _typed(column: Sequence[Any], kinds: set[type], dtype: Any) -> NDArray[Any]:
    if not set(map(type, column)) <= kinds:
        raise _IrregularError
    # None becomes NaN
    return np.array(column, dtype)


def _is_in_order(lines: NDArray[np.void], counts: Sequence[int], shapes: Shapes) -> bool:
    """Whether each run's lines go by epoch and step, and none comes twice: true but after a resume."""
    if not len(lines):
        return True
    epoch, step = lines["epoch"], lines["step"]
    splits = {split: number for number, split in enumerate(dict.fromkeys(split for split, _ in shapes.known))}
    split = np.array([splits[split] for split, _ in shapes.known])[lines["shape"]]
    first = np.zeros(len(lines), bool)
    firsts = np.cumsum([0, *counts[:-1]])
    first[firsts[firsts < len(lines)]] = True
    later = (epoch[1:] > epoch[:-1]) | ((epoch[1:] == epoch[:-1]) & (step[1:] > step[:-1]))
    same = (epoch[1:] == epoch[:-1]) & (step[1:] == step[:-1])
    if not (first[1:] | later | same).all():
        return False
    places = np.cumsum(np.concatenate(([False], first[1:] | later)))
    return bool(np.bincount(places * len(splits) + split).max() == 1)


def _lines_that_hold(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """The last row per (epoch, step, split) by epoch and step, and the number of rows without such a place."""
    last: dict[tuple[Any, Any, str], Mapping[str, Any]] = {}
    keyless = 0
    for row in rows:
        epoch, step, split = row.get("epoch"), row.get("step"), row.get("split")
        if _is_whole(epoch, _LARGEST) and _is_whole(step, _LARGEST) and isinstance(split, str):
            # taken out first, so that the newest line also comes last within its step
            last.pop((epoch, step, split), None)
            last[epoch, step, split] = row
        else:
            keyless += 1
    return [row for _, row in sorted(last.items(), key=lambda item: item[0][:2])], keyless


def _is_whole(value: Any, limit: int) -> bool:
    return type(value) is int and -limit <= value < limit


def _numbers_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its place, an attempt and its numbers, and nothing else."""
    attempt = row.get("attempt")
    place = {key: row[key] for key in ("epoch", "step", "split")}
    numbers = {name: _number(value) for name, value in row.items() if name not in _KEYS and _is_number(value)}
    return {**place, "attempt": attempt if _is_whole(attempt, 2**31) else 1, **numbers}


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)


def _number(value: float | None) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:
        # a whole number beyond the largest float; with a point in it, it would have been read as this
        return math.inf if value is not None and value > 0 else -math.inf
