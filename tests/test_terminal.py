"""What rich writes, as pipes and files get it."""

import io
import sys

import pytest
from rich.table import Table

from normhpc.terminal import new_console


class Pipe(io.StringIO):
    encoding = "ascii"


def test_no_line_ends_with_blanks_and_none_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    monkeypatch.setattr(sys, "stdout", pipe)
    console = new_console()
    table = Table("failed", "why", box=None, pad_edge=False)
    table.add_row("a", "x" * 300)
    table.add_row("bbbb", "short  [red]text[/] ")
    console.print(table)
    console.print("  one ", end="")
    console.print("line " * 100)
    assert pipe.getvalue().splitlines() == [
        "failed  why",
        f"a       {'x' * 300}",
        "bbbb    short  [red]text[/]",
        f"  one {('line ' * 100).rstrip()}",
    ]
    assert console.encoding == "ascii"


def test_each_stream_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    new_console().print("out")
    new_console(stderr=True).print("err")
    assert tuple(capsys.readouterr()) == ("out\n", "err\n")
