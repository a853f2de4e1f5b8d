"""A table in seven spellings. The same table gives the same bytes."""

import io
import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from normhpc.errors import InputError, did_you_mean
from normhpc.results.human import HumanTable, human_table
from normhpc.results.markup import as_html, as_latex, as_markdown, as_terminal


def render(table: pd.DataFrame, format: str) -> str | bytes:
    """``table``, of runs or of cells, in one of :data:`FORMATS`; ``parquet`` is bytes, all others end with a newline.

    ``csv``, ``json`` and ``parquet`` have every column at full precision, a missing value empty or null.
    ``table``, ``markdown``, ``latex`` and ``html`` show each metric as mean and half-width of its interval,
    ``ok/total``, the caption that says so and the notes; HTML and LaTeX set the best mean of a metric bold
    and underline what is tied with it.

    Raises :class:`InputError` for another format.
    """
    return checked_format(format)(table)


def checked_format(name: str) -> Callable[[pd.DataFrame], str | bytes]:
    """The function that spells format ``name``. Raises :class:`InputError` when there is none."""
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS) or "."
        raise InputError(f"no format is called {name!r}{hint} There are: {', '.join(FORMATS)}")
    return FORMATS[name]


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def _json(table: pd.DataFrame) -> str:
    columns = [[_json_value(value) for value in table[name]] for name in table.columns]
    names = [str(name) for name in table.columns]
    rows = [json.dumps(dict(zip(names, row, strict=True)), allow_nan=False) for row in zip(*columns, strict=True)]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _json_value(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def _for_people(spell: Callable[[HumanTable], str]) -> Callable[[pd.DataFrame], str]:
    return lambda table: spell(human_table(table))


FORMATS: dict[str, Callable[[pd.DataFrame], str | bytes]] = {
    "table": _for_people(as_terminal),
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
    "markdown": _for_people(as_markdown),
    "latex": _for_people(as_latex),
    "html": _for_people(as_html),
}
