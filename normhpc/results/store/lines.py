"""``metrics.jsonl`` into columns of numbers, with few objects for each of millions of lines.

What a run writes, all runs of its kind write: per split the same names. Once a file of a kind was seen, msgspec reads the
others straight into objects with a slot for each name, and checks the types on the way: half of the time that
dictionaries take. A file that is not just so (torn, resumed, of a new kind) is read as dictionaries; where that fails too,
line by line by the standard library's parser. Rows of about a thousand lines go into arrays at a time: small enough for a
processor's cache, large enough that numpy's calls do not count.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Annotated, Any, NamedTuple, Union

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from normhpc.results.surrogates import without_surrogates

LINE = np.dtype([("epoch", "<i8"), ("step", "<i8"), ("attempt", "<i4"), ("shape", "<i4")])
"""One line without its numbers. ``shape`` is its place in :class:`Shapes`."""

_KEYS = frozenset({"time", "attempt", "epoch", "step", "split"})
_CHUNK_LINES = 1_000
_LARGEST = 2**63
_MOST_KINDS = 16
_Place = Annotated[int, msgspec.Meta(ge=-_LARGEST, le=_LARGEST - 1)]
_Attempt = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class Shapes:
    """The forms lines have: split and names of the metrics by the alphabet, numbered as they first appear."""

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


class _Form(NamedTuple):
    """One shape of lines: its number, and how many metrics it has."""

    shape: int
    width: int


class _Kind:
    """Runs of one kind: the names of the metrics of each split, and a reader of exactly such lines."""

    def __init__(self, names: Mapping[str, tuple[str, ...]], shapes: Shapes) -> None:
        self.names = dict(names)
        self.forms: dict[type, _Form] = {}
        for split, metrics in names.items():
            slots = {f"metric_{number}": name for number, name in enumerate(metrics)}
            row = msgspec.defstruct(
                "Row",
                [
                    ("time", str),
                    ("attempt", _Attempt),
                    ("epoch", _Place),
                    ("step", _Place),
                    *((slot, float | None) for slot in slots),
                ],
                rename=slots,
                tag_field="split",
                tag=split,
                forbid_unknown_fields=True,
                gc=False,
            )
            self.forms[row] = _Form(shapes.number(split, metrics), len(slots))
        # alone, it would also take lines without a split
        self._decoder = msgspec.json.Decoder(Union[*self.forms, _NoRow])

    def rows(self, content: bytes) -> list[Any] | None:
        """The lines as objects; None when one of them is not of this kind."""
        try:
            rows = self._decoder.decode_lines(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        # to msgspec an end of line is a space: each row must have a line, and each line begin with a row
        letters = np.frombuffer(content, np.uint8)
        ends = letters == ord("\n")
        begun = content.startswith(b"{") + np.count_nonzero(ends[:-1] & (letters[1:] == ord("{")))
        return rows if len(rows) == np.count_nonzero(ends) == begun else None


class _NoRow(msgspec.Struct, tag_field="split", tag=""):
    """Never a row: nothing is what it asks for."""

    never: Annotated[int, msgspec.Meta(gt=0, lt=1)]


@dataclass(slots=True)
class LineParser:
    """Takes the content of one ``metrics.jsonl`` after the other."""

    shapes: Shapes
    _kinds: list[_Kind] = field(default_factory=list)
    """Those that were seen, the newest first."""
    _rows: list[Any] = field(default_factory=list)
    """Lines of the first kind that wait to become columns."""
    _waiting: list[tuple[bytes, int]] = field(default_factory=list)
    """Of each run of them its content, and how many lines it has."""
    _lines: list[NDArray[np.void]] = field(default_factory=list)
    _values: list[NDArray[np.float64]] = field(default_factory=list)
    _extents: list[Extent] = field(default_factory=list)

    def add(self, content: bytes) -> None:
        """The lines of the next run."""
        for kind in self._kinds:
            rows = kind.rows(content)
            if rows is not None:
                self._make_first(kind)
                self._rows += rows
                self._waiting.append((content, len(rows)))
                if len(self._rows) >= _CHUNK_LINES:
                    self._flush()
                return
        self._flush()
        self._add_odd(content)

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

    def _make_first(self, kind: _Kind) -> None:
        if self._kinds[0] is not kind:
            self._flush()
            self._kinds.remove(kind)
            self._kinds.insert(0, kind)

    def _flush(self) -> None:
        """Columns of the lines that wait."""
        if not self._waiting:
            return
        waiting, rows, forms = self._waiting, self._rows, self._kinds[0].forms
        self._waiting, self._rows = [], []
        lines, values, width = _columns_of_kind(rows, forms)
        counts = [count for _, count in waiting]
        if not _is_in_order(lines, counts, self.shapes):
            for content, _ in waiting:
                self._add_odd(content)
            return
        ends = np.concatenate(([0], width.cumsum()))[np.cumsum([0, *counts])]
        self._extents += [Extent(*sizes, 0, 0) for sizes in zip(counts, np.diff(ends).tolist(), strict=True)]
        self._lines.append(lines)
        self._values.append(values)

    def _add_odd(self, content: bytes) -> None:
        """A run of no known kind, or one with something to put right."""
        rows, torn = _rows_of(content)
        keyless = 0
        try:
            lines, values, _ = _columns(rows, self.shapes)
            if not _is_in_order(lines, [len(rows)], self.shapes):
                raise _IrregularError
            if not torn:
                self._learn(rows)
        except (_IrregularError, KeyError, TypeError, OverflowError):
            held, keyless = _lines_that_hold(rows)
            lines, values, _ = _columns([_numbers_of(row) for row in held], self.shapes)
        self._extents.append(Extent(len(lines), len(values), torn, keyless))
        self._lines.append(lines)
        self._values.append(values)

    def _learn(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Know the kind of ``rows``, which all have a place, from now on, if each split has the same names throughout."""
        shapes = {(row["split"], names) for row in rows for names in [_metric_names(row)]}
        names = dict(shapes)
        if not names or len(names) < len(shapes) or "" in names:
            return
        # a run that is not over yet has fewer splits
        less = next((kind for kind in self._kinds if _agree(kind.names, names)), None)
        try:
            kind = _Kind((less.names if less else {}) | names, self.shapes)
        except ValueError:
            # msgspec has no slots for names with quotes and the like
            return
        self._kinds = [kind, *(other for other in self._kinds if other is not less)][:_MOST_KINDS]


def _agree(one: Mapping[str, tuple[str, ...]], other: Mapping[str, tuple[str, ...]]) -> bool:
    return all(one.get(split, metrics) == metrics for split, metrics in other.items())


class _IrregularError(Exception):
    """Lines that must be looked at one by one."""


def _rows_of(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects in ``content``, one a line, and the number of lines that are none."""
    body = content.rstrip()
    if not body:
        return [], 0
    try:
        # no string of JSON goes over an end of line, so a torn line cannot swallow the next one
        rows = msgspec.json.decode(b"[" + body.replace(b"\n", b",\n") + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
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
        names = _metric_names(kind)
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


def _columns_of_kind(
    rows: Sequence[Any], forms: Mapping[type, _Form]
) -> tuple[NDArray[np.void], NDArray[np.float64], NDArray[np.int64]]:
    """As :func:`_columns`, of objects whose types are known."""
    lines = np.empty(len(rows), LINE)
    numbers = {row: number for number, row in enumerate(forms)}
    form_of_row = np.array([*map(numbers.__getitem__, map(type, rows))], np.intp)
    width = np.array([form.width for form in forms.values()], np.int64)[form_of_row]
    ends = width.cumsum()
    flat = np.empty(int(width.sum()))
    for number, form in enumerate(forms.values()):
        of_form = form_of_row == number
        chosen = np.flatnonzero(of_form)
        part = list(compress(rows, of_form.tolist()))
        # time, attempt, epoch, step, metrics: one flat list cut into columns
        slots = 4 + form.width
        flat_rows = list(chain.from_iterable(map(astuple, part)))
        for place, name in enumerate(("attempt", "epoch", "step"), 1):
            lines[name][chosen] = np.array(flat_rows[place::slots], np.int64)
        lines["shape"][chosen] = form.shape
        starts = ends[chosen] - form.width
        for metric in range(form.width):
            # None becomes NaN
            flat[starts + metric] = np.array(flat_rows[4 + metric :: slots], np.float64)
    return lines, flat, width


def _metric_names(keys: Iterable[str]) -> tuple[str, ...]:
    """By the alphabet: the order must not depend on which run was read first."""
    return tuple(sorted(name for name in keys if name not in _KEYS))


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
