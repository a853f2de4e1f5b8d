"""A table for people in the markup of a terminal, of Markdown, of LaTeX and of HTML."""

import html
import io

from normhpc.results.fields import is_field
from normhpc.results.human import MISSING, Cell, HumanTable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
_MARKDOWN = {"\\": r"\\", "|": r"\|", "`": r"\`", "*": r"\*", "&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " "}


def as_terminal(table: HumanTable) -> str:
    """Aligned columns as wide as they need to be; what all rows share stands above, caption and notes below."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    along = _going_along(table)
    hidden = {index for others in along.values() for index in others}
    varied = [index for index in range(len(table.header)) if not _is_shared(table, index) and index not in hidden]
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index in varied:
        grid.add_column(Text(table.header[index]), justify="right" if table.numeric[index] else "left", no_wrap=True)
    for row in table.rows:
        grid.add_row(*(Text(_plus_minus(row[index], " ± ")) for index in varied))
    buffer = io.StringIO()
    console = Console(file=buffer, width=100_000, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(grid)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    shared = [(name, table.rows[0][i].text) for i, name in enumerate(table.header) if _is_shared(table, i)]
    # a field that none of these runs has is nothing they share
    above = [" · ".join(f"{name} {text}" for name, text in shared if text != MISSING), ""] if shared else []
    above += [line for chosen, others in along.items() for line in (*_said_once(table, chosen, others), "")]
    below = [line for line in (table.caption, *(f"note: {note}" for note in table.notes)) if line]
    return "\n".join([*above, *lines, "", *below]).rstrip("\n") + "\n"


def as_markdown(table: HumanTable) -> str:
    """A GitHub table, the caption below it, the notes as a list."""
    rule = ["---:" if numeric else ":---" for numeric in table.numeric]
    rows = [[_escaped(_plus_minus(cell, " ± "), _MARKDOWN) for cell in row] for row in table.rows]
    header = [_escaped(name, _MARKDOWN) for name in table.header]
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    if table.caption:
        lines += ["", _escaped(table.caption, _MARKDOWN)]
    if table.notes:
        lines += ["", *(f"- {_escaped(note, _MARKDOWN)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def as_latex(table: HumanTable) -> str:
    """A ``tabular`` for the booktabs package, the best mean of each metric bold, what is tied with it underlined.

    The notes are comments.
    """
    alignment = "".join("r" if numeric else "l" for numeric in table.numeric)
    rows = [[_latex_cell(cell) for cell in row] for row in table.rows]
    lines = [
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(_escaped(name, _LATEX) for name in table.header) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
    ]
    for caption in filter(None, (table.caption, table.marks)):
        text = _escaped(caption, _LATEX)
        lines.append(rf"\multicolumn{{{len(table.header)}}}{{l}}{{\footnotesize {text}}} \\")
    lines.append(r"\end{tabular}")
    notes = [f"% note: {' '.join(note.splitlines())}" for note in table.notes]
    return "\n".join([*notes, *lines]) + "\n"


def as_html(table: HumanTable) -> str:
    """A ``<table>`` to put into a page, the best mean of each metric bold, what is tied with it underlined.

    The notes are in a list after it.
    """
    lines = ['<table class="normhpc">']
    if table.caption:
        caption = "; ".join(filter(None, (table.caption, table.marks)))
        lines.append(f"<caption>{html.escape(caption)}</caption>")
    heads = "".join(
        f"<th{_right(n)}>{html.escape(name)}</th>" for name, n in zip(table.header, table.numeric, strict=True)
    )
    lines += [f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    for row in table.rows:
        cells = (f"<td{_right(n)}>{_html_cell(cell)}</td>" for cell, n in zip(row, table.numeric, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>"]
    if table.notes:
        lines += ["<ul>", *(f"<li>{html.escape(note)}</li>" for note in table.notes), "</ul>"]
    return "\n".join(lines) + "\n"


def _is_shared(table: HumanTable, index: int) -> bool:
    """Whether a column only repeats what the runs have in common."""
    texts = {row[index].text for row in table.rows}
    return not table.numeric[index] and table.header[index] != "run_id" and len(texts) == 1


def _going_along(table: HumanTable) -> dict[int, list[int]]:
    """For one column of each set of three or more fields that change together, the others.

    So the sides and the splits of an image set, which need not be repeated in each of its rows.
    """
    together: dict[tuple[int, ...], list[int]] = {}
    for index, name in enumerate(table.header):
        if is_field(name) and not _is_shared(table, index):
            texts = [row[index].text for row in table.rows]
            together.setdefault(tuple(map(texts.index, texts)), []).append(index)
    found = {}
    for indices in together.values():
        if len(indices) > 2:
            chosen = next((index for index in indices if not table.numeric[index]), indices[0])
            found[chosen] = [index for index in indices if index != chosen]
    return found


def _said_once(table: HumanTable, chosen: int, others: list[int]) -> list[str]:
    firsts = {row[chosen].text: row for row in reversed(table.rows)}
    return [
        f"{table.header[chosen]} {text}: "
        + " · ".join(f"{table.header[i]} {row[i].text}" for i in others if row[i].text != MISSING)
        for text, row in reversed(firsts.items())
    ]


def _plus_minus(cell: Cell, sign: str) -> str:
    return f"{cell.text}{sign}{cell.half_width}" if cell.half_width else cell.text


def _escaped(text: str, escapes: dict[str, str]) -> str:
    return "".join(escapes.get(letter, letter) for letter in text)


def _latex_cell(cell: Cell) -> str:
    text = _plus_minus(Cell(_escaped(cell.text, _LATEX), cell.half_width), r" $\pm$ ")
    if cell.best:
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if cell.tied else text


def _html_cell(cell: Cell) -> str:
    text = html.escape(_plus_minus(cell, " ± "))
    if cell.best:
        return f"<b>{text}</b>"
    return f"<u>{text}</u>" if cell.tied else text


def _right(numeric: bool) -> str:
    return ' style="text-align:right"' if numeric else ""
