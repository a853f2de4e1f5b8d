"""The committed pages of the catalogue are those that generate.py writes, and formula.md tells of every word."""

import re
import runpy
from pathlib import Path

import pytest

from normhpc.config.formula import FUNCTIONS, MOMENTS, NAMES, SCOPES, parse

DOCS = Path(__file__).parents[2] / "docs" / "norms"
GENERATOR = runpy.run_path(str(DOCS / "generate.py"))
PAGES = GENERATOR["pages"]()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_up_to_date(page):
    assert page.read_text() == PAGES[page], "run python docs/norms/generate.py"


def test_every_norm_has_its_section():
    for norm in GENERATOR["NORMS"]:
        name = GENERATOR["name_of"](norm)
        assert f"\n## {name}\n" in PAGES[GENERATOR["page_of"](norm.family)]
        assert f"[`{name}`](" in PAGES[DOCS / "README.md"]


def test_the_language_is_told_of():
    text = (DOCS / "formula.md").read_text()
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    assert told >= {*FUNCTIONS, *MOMENTS, *NAMES, *SCOPES}


def test_examples_are_formulas():
    text = (DOCS / "formula.md").read_text()
    shown = [
        *re.findall(r'^    - "(.+)"$', text, re.MULTILINE),
        *re.findall(r"^\| .* \| `(.*x.*)` \|$", text, re.MULTILINE),
    ]
    assert len(shown) >= 10
    for formula in shown:
        parse(formula)
