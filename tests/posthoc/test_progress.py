"""A bar appears on a terminal after a second, nowhere else, and never touches what passes."""

import io

import pytest
from rich.console import Console

from normhpc.posthoc import progress
from normhpc.posthoc.progress import with_bar


@pytest.mark.parametrize(
    ("terminal", "patience", "shown"), [(True, 0.0, True), (True, 60.0, False), (False, 0.0, False)]
)
def test_bar(terminal: bool, patience: float, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", patience)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=80)
    assert list(with_bar(["a", "bcd"], "reading", 4, console, size=len)) == ["a", "bcd"]
    assert ("reading" in screen.getvalue()) is shown
    assert ("100%" in screen.getvalue()) is shown
