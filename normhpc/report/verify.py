"""The tables of a written page held against the records: every cell, read back out of the file, computed once more."""

import html
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path

from normhpc.errors import InputError, Problem
from normhpc.report.elements import Datum, Table, escaped
from normhpc.report.page import sections_of, tables_of
from normhpc.report.recount import Recount, recounted
from normhpc.report.recount_answers import recounted_answers
from normhpc.report.recount_robustness import recounted_robustness
from normhpc.report.study import load_study

_CLOSE = 1e-9
"""Sums in another order differ by less than this share of a number."""


@dataclass(frozen=True, slots=True)
class WrittenCell:
    """A cell as it stands in a file: its text, and its number as it is spelled there."""

    text: str
    value: str | None


@dataclass(slots=True)
class WrittenTable:
    """A table as it stands in a file."""

    keys: list[str] = field(default_factory=list)
    rows: list[list[WrittenCell]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many cells were computed once more, and each difference in words."""

    cells: int
    differences: tuple[str, ...]


def verify_report(
    file: str | os.PathLike[str], dirs: Sequence[str | os.PathLike[str]], metric: str | None = None
) -> Verdict:
    """Compute every cell of the tables in ``file`` again from the runs in ``dirs`` and compare.

    Cells are made again by the code that made the page; means, deviations, intervals, counts and the values of single
    runs also by a second way that reads nothing but the run folders (:mod:`normhpc.report.recount`). The
    metric is by default the one that the page is about. Raises :class:`InputError` when ``file`` is no such page.
    """
    written, about = read_tables(Path(file))
    study = load_study(dirs, metric or about, rebuild=True)
    tables = tables_of(sections_of(study))
    differences = [
        f"{name}: the records give no such table" for name in written if name not in {one.name for one in tables}
    ]
    count = 0
    for table in tables:
        count += sum(map(len, table.rows))
        differences += _compared(table, written.get(table.name))
    for recount in chain(recounted(study), recounted_answers(study), recounted_robustness(study)):
        differences += _recomputed(written, recount)
    return Verdict(count, tuple(dict.fromkeys(differences)))


def read_tables(file: Path) -> tuple[dict[str, WrittenTable], str]:
    """The tables of a page by name, and the metric it is about. Raises :class:`InputError` when it is no such page."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = "there is no such file to verify; write it first, without --verify"
        raise InputError(Problem(message, path="--out", file=str(file))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"cannot be read: {error}", path="--out", file=str(file))) from None
    reader = _Reader()
    reader.feed(text)
    if not reader.metric:
        raise InputError(Problem("expected a page that normhpc report wrote", path="--out", file=str(file)))
    return reader.tables, reader.metric


class _Reader(HTMLParser):
    """Tables, their headings and cells; everything else is passed over."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, WrittenTable] = {}
        self.metric = ""
        self._table: WrittenTable | None = None
        self._text: list[str] | None = None
        self._value: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "meta" and given.get("name") == "normhpc-metric":
            self.metric = given.get("content") or ""
        elif tag == "table":
            self._table = WrittenTable()
            self.tables[(given.get("id") or "").removeprefix("t-")] = self._table
        elif self._table is not None and tag == "tr":
            self._table.rows.append([])
        elif self._table is not None and tag == "th" and given.get("scope") == "col":
            self._table.keys.append(given.get("data-key") or "")
        elif self._table is not None and tag in ("td", "th"):
            self._text, self._value = [], given.get("data-v")

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._table is not None and self._text is not None:
            self._table.rows[-1].append(WrittenCell("".join(self._text), self._value))
            self._text = None
        elif tag == "table" and self._table is not None:
            self._table.rows = [row for row in self._table.rows if row]
            self._table = None


def _compared(table: Table, written: WrittenTable | None) -> Iterator[str]:
    if written is None:
        yield f"{table.name}: the table is missing"
        return
    if written.keys != [_spelled(column.key) for column in table.columns]:
        yield f"{table.name}: other columns than the records give"
        return
    if len(written.rows) != len(table.rows):
        yield f"{table.name}: {len(written.rows)} rows, the records give {len(table.rows)}"
    for number, (row, expected) in enumerate(zip(written.rows, table.rows, strict=False)):
        for column, cell, datum in zip(table.columns, row, expected, strict=False):
            if not _agrees(cell, datum):
                shown = cell.text + (f" ({cell.value})" if cell.value is not None else "")
                wanted = datum.text + (f" ({datum.value!r})" if datum.value is not None else "")
                name = expected[0].text
                yield f"{table.name}, row {number + 1} ({name}), {column.key}: {shown} in the file, {wanted} in the records"


def _agrees(cell: WrittenCell, datum: Datum) -> bool:
    if _spelled(datum.text) != cell.text or (cell.value is None) != (datum.value is None):
        return False
    return datum.value is None or _is_close(cell.value, datum.value)


def _is_close(text: str | None, value: float) -> bool:
    try:
        return math.isclose(float(text or ""), value, rel_tol=_CLOSE, abs_tol=1e-12)
    except ValueError:
        return False


def _spelled(text: str) -> str:
    """``text`` as it comes back out of a page."""
    return html.unescape(escaped(text))


def _recomputed(written: Mapping[str, WrittenTable], recount: Recount) -> Iterator[str]:
    """Nothing when the file has the number of ``recount``."""
    name, row, key, value = recount
    table = written.get(name)
    if table is None or key not in table.keys or row >= len(table.rows):
        return  # told already: the table is not as the records give it
    cell = table.rows[row][table.keys.index(key)]
    if (cell.value is None) != (value is None) or (value is not None and not _is_close(cell.value, value)):
        told = cell.text if cell.value is None else cell.value
        yield f"{name}, row {row + 1}, {key}: {told} in the file, {value!r} by a second count of the run folders"
