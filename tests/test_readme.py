"""What the documentation shows is there: commands parse, files exist, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from normhpc.cli import app
from normhpc.sweep import load

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def shown_commands(page: Path) -> list[str]:
    """Lines of a page's code blocks that begin with normhpc."""
    blocks = page.read_text().split("```")[1::2]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("normhpc ")]


SHOWN = [(page, line) for page in PAGES for line in shown_commands(page)]
NAMED = sorted({name for page in PAGES for name in re.findall(r"`normhpc (\w+)[^`\n]*`", page.read_text())})


def test_commands_are_found():
    assert len(SHOWN) >= 10
    assert len(NAMED) >= 5


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=lambda value: getattr(value, "name", value))
def test_every_shown_command_parses(page, line):
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = get_command(app).commands[name]
    assert command.make_context(name, arguments, resilient_parsing=False).params is not None


def test_shown_run_ids_are_those_of_the_quickstart():
    words = {word.rpartition("/")[2] for _, line in SHOWN for word in line.split()}
    shown = {word for word in words if re.fullmatch("[0-9a-f]{6}|[0-9a-f]{16}", word)}
    ids = [config.run_id for config in load(ROOT / "sweeps" / "quickstart.yaml").expand()]
    assert shown
    assert [word for word in shown if not any(run_id.startswith(word) for run_id in ids)] == []


def test_every_named_command_is_there():
    assert set(NAMED) <= get_command(app).commands.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_file_map_names_what_is_there():
    text = (ROOT / "README.md").read_text()
    block = text.partition("## Where things are")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([^`]+)`", block, flags=re.MULTILINE)
    assert len(named) >= 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_changelog_has_a_place_for_what_is_next():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
