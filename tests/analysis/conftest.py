"""Ways to call a script of ``analysis/`` and look at what it wrote, or at what it says."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.readable import assert_readable

from normhpc.results import figures

ANALYSIS = Path(__file__).parents[2] / "analysis"

Draw = Callable[..., pd.DataFrame]


def call(name: str, *arguments: object) -> None:
    """The command line of a script, within this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(ANALYSIS / f"{name}.py"), run_name="__main__")


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Draw a figure of a script; gives its table, when its words can be read, and PDF and PNG are files of their kind."""

    seen: list[Figure] = []
    save = figures.save

    def watched(drawing: figures.Drawing, out: Path, name: str) -> list[Path]:
        seen.append(drawing.figure)
        return save(drawing, out, name)

    monkeypatch.setattr(figures, "save", watched)

    def draw(name: str, *arguments: object) -> pd.DataFrame:
        out = tmp_path / "figures"
        call(name, *arguments, "--out", out)
        [figure] = seen[-1:]
        assert_readable(figure)
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
        png = (out / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG\r\n")
        assert len(png) > 5000
        return pd.read_csv(out / f"{name}.csv")

    return draw


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a script says when it exits with 2; it writes nothing."""

    def told(name: str, *arguments: object) -> str:
        out = tmp_path / "figures"
        with pytest.raises(SystemExit) as caught:
            call(name, *arguments, "--out", out)
        assert caught.value.code == 2
        assert not out.exists()
        return capsys.readouterr().err.removeprefix(f"{name}.py: error: ").strip()

    return told
