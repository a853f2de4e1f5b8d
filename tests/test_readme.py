"""What the documentation shows is there: commands parse, files exist, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from normhpc.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def shown_commands(page: Path) -> list[str]:
    """Lines of a page's code blocks, and of its `inline code`, that begin with normhpc."""
    text = page.read_text()
    blocks = re.findall(r"```(?:sh|console)?\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(normhpc [^`\n]+)`", text)
    return [line for line in lines if line.startswith("normhpc ")]


COMMANDS = [(page, command) for page in PAGES for command in shown_commands(page)]


def test_commands_are_found() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: getattr(value, "name", value))
def test_every_shown_command_parses(page: Path, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = get_command(app)
    name, *arguments = words
    subcommand = command.commands[name]  # type: ignore[attr-defined]
    context = subcommand.make_context(name, arguments, resilient_parsing=False)
    assert context.params is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_file_map_names_what_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    block = text.partition("## Where things are")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([^`]+)`", block, flags=re.MULTILINE)
    assert len(named) >= 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_changelog_has_a_place_for_what_is_next() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
