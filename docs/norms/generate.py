"""Writes the catalogue of the norms from their configurations: ``python docs/norms/generate.py``.

The pages of the families are wholly generated, README.md from its mark on.
"""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

from normhpc.config.formula import parse
from normhpc.config.formula_latex import latex
from normhpc.config.norm import NormConfig, NormPart
from normhpc.config.norm.base import Family
from normhpc.sweep.catalogue import as_yaml

HERE = Path(__file__).parent
INDEX = HERE / "README.md"
MARK = "<!-- from here on written by generate.py -->\n"
NORMS: tuple[type[NormPart], ...] = get_args(get_args(NormConfig)[0])
ABOUT: dict[str, str] = {
    "hand-crafted": "Invented and reasoned for, one statistic at a time.",
    "searched": "Found by a search, over formulas or by gradient, or made for one.",
    "activation replaced": "A nonlinearity that belongs to the norm takes the place of the activation.",
    "norm-free": "Nothing is measured: what stands in the slot sees one value at a time, or nothing stands there.",
}


def pages() -> dict[Path, str]:
    """Every page and its text."""
    families = {page_of(family): family_page(family) for family in get_args(Family)}
    return families | {INDEX: INDEX.read_text().partition(MARK)[0] + MARK + index()}


def page_of(family: str) -> Path:
    """Where the norms of a family are."""
    return HERE / f"{family.replace(' ', '-')}.md"


def index() -> str:
    """The table of all norms."""
    rows = [
        f"| [`{name_of(norm)}`]({page_of(norm.family).name}#{name_of(norm)}) | {norm.family} | {norm.scope} "
        f"| ${formula_of(norm)}$ | {linked(norm.reference)} |"
        for norm in NORMS
    ]
    head = ["| name | family | scope | formula | source |", "|---|---|---|---|---|"]
    return "\n".join(["", *head, *rows, ""])


def family_page(family: str) -> str:
    """Everything about the norms of a family."""
    sections = [section(norm) for norm in NORMS if norm.family == family]
    head = f"# Norms: {family}\n\n{MARK}\n{ABOUT[family]} [All norms](README.md), and what the symbols mean.\n"
    return "\n".join([head, *sections])


def section(norm: type[NormPart]) -> str:
    """What a norm is, its formula, fields and source."""
    parts = [
        f"## {name_of(norm)}",
        markdown(norm.__doc__),
        f"$${formula_of(norm)}$$",
        f"`{norm.formula}`; scope {norm.scope}; {linked(norm.reference)}",
    ]
    rows = [
        f"| `{name}` | {default_of(field)} | {choices_of(field)}{markdown(field.description)} |"
        for name, field in norm.model_fields.items()
        if name != "name"
    ]
    if rows:
        parts.append("\n".join(["| field | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def name_of(norm: type[NormPart]) -> str:
    """What a sweep file calls it."""
    return str(norm.model_fields["name"].default)


def formula_of(norm: type[NormPart]) -> str:
    """Its formula in LaTeX."""
    return latex(parse(norm.formula, free_names=True))


def default_of(field: Any) -> str:
    """As a sweep file has it."""
    return "required" if field.is_required() else f"`{as_yaml(field.default)}`"


def choices_of(field: Any) -> str:
    """The values of a field that takes one of a few words."""
    if get_origin(field.annotation) is None or not all(isinstance(word, str) for word in get_args(field.annotation)):
        return ""
    return ", ".join(f"`{word}`" for word in get_args(field.annotation)) + ". "


def markdown(text: str | None) -> str:
    """A docstring as a line of Markdown."""
    line = " ".join((text or "").split()).replace("``", "`")
    return line.replace("docs/norms/formula.md", "[formula.md](formula.md)")


def linked(reference: str) -> str:
    """A reference whose numbers of papers lead to them."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", reference)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
