"""What a page is made of: escaped text, tables that are also CSV files, figures, sections."""

import base64
import csv
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def escaped(value: object) -> str:
    """``value`` as text of a page, in an element or in a quoted attribute: markup in it stays text."""
    return html.escape(_CONTROL.sub("\ufffd", str(value)), quote=True)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. ``key`` is its name in CSV files, in ``#sort=`` and for :mod:`normhpc.report.verify`."""

    key: str
    title: str
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Datum:
    """A cell: what is shown, the number behind it at full precision, its mark or its colour (0 to 8), where it leads."""

    text: str
    value: float | None = None
    mark: Literal["", "best", "tied"] = ""
    level: int | None = None
    link: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page. ``name`` is its id there."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Datum, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter of a page: its parts are tables and finished HTML."""

    name: str
    title: str
    parts: tuple[str | Table, ...]


def section_html(section: Section) -> str:
    """A section with its heading."""
    parts = [table_html(part) if isinstance(part, Table) else part for part in section.parts]
    heading = f'<h2 id="h-{section.name}">{escaped(section.title)}</h2>'
    body = "\n".join([heading, *parts])
    return f'<section id="{section.name}" aria-labelledby="h-{section.name}">\n{body}\n</section>\n'


def table_html(table: Table) -> str:
    """A table with a caption, headings with a scope, and a link to itself as CSV that needs no JavaScript."""
    heads = "".join(
        f'<th scope="col" data-key="{escaped(column.key)}"{_numeric(column)}>{escaped(column.title)}</th>'
        for column in table.columns
    )
    rows = "\n".join("<tr>" + "".join(_cells(table.columns, row)) + "</tr>" for row in table.rows)
    name = escaped(table.name)
    link = f'<a class="csv" download="{name}.csv" href="{_csv_address(table)}">CSV</a>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table {name}"><table id="t-{name}">\n'
        f"<caption><span>{escaped(table.caption)} {link}</span></caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def table_csv(table: Table) -> str:
    """``table`` as CSV: numbers at full precision, text as it is shown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    for row in table.rows:
        writer.writerow(
            [
                (("" if datum.value is None else number_text(datum.value)) if column.numeric else datum.text)
                for column, datum in zip(table.columns, row, strict=True)
            ]
        )
    return text.getvalue()


def number_text(value: float) -> str:
    """The shortest text that reads back equal; whole numbers without a point."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def paragraph(text: str, kind: str = "") -> str:
    """``text`` as a paragraph."""
    return f"<p{f' class={kind}' if kind else ''}>{escaped(text)}</p>"


def bullets(items: Iterable[str], kind: str = "") -> str:
    """``items`` as a list; nothing for none."""
    lines = [f"<li>{escaped(item)}</li>" for item in items]
    return "\n".join([f"<ul{f' class={kind}' if kind else ''}>", *lines, "</ul>"]) if lines else ""


def figure(drawings: Sequence[str], caption: str = "") -> str:
    """Drawings side by side, as many as there is room for, under one caption."""
    told = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f'<figure>{told}<div class="plots">{"".join(drawings)}</div></figure>'


def _numeric(column: Column) -> str:
    return ' class="n"' if column.numeric else ""


def _cells(columns: Sequence[Column], row: Sequence[Datum]) -> Iterable[str]:
    for number, (column, datum) in enumerate(zip(columns, row, strict=True)):
        tag = "td" if number else "th"
        scope = "" if number else ' scope="row"'
        value = f' data-v="{number_text(datum.value)}"' if datum.value is not None else ""
        kinds = [*(["n"] if column.numeric else []), *([f"h{datum.level}"] if datum.level is not None else [])]
        kind = f' class="{" ".join(kinds)}"' if kinds else ""
        text = escaped(datum.text)
        if datum.link:
            text = f'<a href="#{escaped(datum.link)}">{text}</a>'
        if datum.mark:
            text = f"<b>{text}</b>" if datum.mark == "best" else f"<u>{text}</u>"
        yield f"<{tag}{scope}{kind}{value}>{text}</{tag}>"


def _csv_address(table: Table) -> str:
    # base64: the letters of an address that need no escape are fewer than those of a table
    return (
        "data:text/csv;charset=utf-8;base64," + base64.b64encode(table_csv(table).encode("utf-8", "replace")).decode()
    )
