"""``normhpc status`` on a screen."""

import io
import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from normhpc.record import RunFolder, append_event
from normhpc.results import screen
from normhpc.results.screen import show_status, watch_status


class Screen:
    def __init__(self, *, terminal: bool = False) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, width=500, force_terminal=terminal, markup=False, emoji=False, highlight=False
        )

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.file.getvalue().splitlines()]


def put(sweep: Path, name: str, *kinds: str, state: str | None = None, **failure: str) -> RunFolder:
    folder = RunFolder(sweep / name)
    folder.path.mkdir(parents=True)
    swept = {"data.name": "digits", "norm.name": "group", "norm.groups": 8, "optim.lr": None}
    folder.run_json.write_text(json.dumps({"run_id": name, "swept": swept, "config": {"epochs": 5}}))
    for kind in kinds:
        append_event(folder, kind, host=platform.node(), **(failure if kind == "failed" else {}))
    if state is not None:
        folder.summary.write_text(json.dumps({"state": state, "metrics": {"rows": 0, "bytes": 0, "sha256": ""}}))
        folder.metrics.touch()
    return folder


def test_failures_of_one_fault_are_one_line(tmp_path: Path) -> None:
    for number, name in enumerate(("aaaa", "bbbb", "cccc")):
        put(tmp_path / "x", name, "failed", **{"class": "ValueError"}, message=f"{number} groups do not divide 16")
    put(tmp_path / "x", "dddd", "failed", **{"class": "KeyError"}, message="'x'")
    shown = Screen()
    show_status([tmp_path], shown.console, as_json=False)
    label = "data=digits norm=group norm.groups=8"
    assert shown.lines[-2:] == [
        f"aaaa and 2 alike  {label}  ValueError: 0 groups do not divide 16",
        f"dddd              {label}  KeyError: 'x'",
    ]


def test_counts_running_and_failed(tmp_path: Path) -> None:
    put(tmp_path / "x", "aaaa", state="finished")
    put(tmp_path / "x", "bbbb", "failed", **{"class": "ValueError"}, message="odd [red]shape[/] at x.yaml:100:9\nmore")
    put(tmp_path / "y", "cccc")
    running = put(tmp_path / "y", "dddd", "started")
    running.metrics.write_text('{"epoch": 3, "step": 9, "split": "val", "loss": 0.25, "top1": 0.5}\n')
    fresh = put(tmp_path / "y", "eeee", "started")
    shown = Screen()
    with running.held_for_training(), fresh.held_for_training():
        show_status([tmp_path], shown.console, as_json=False)
    label = "data=digits norm=group norm.groups=8"
    assert shown.lines == [
        "sweep  runs  new  running  finished  failed",
        "x      2     0    0        1         1",
        "y      3     1    2        0         0",
        "running                                        epoch  newest",
        f"dddd     {label}  3/5    val_loss 0.2500 val_top1 0.5000",
        f"eeee     {label}  0/5",
        "failed                                        why",
        f"bbbb    {label}  ValueError: odd [red]shape[/] at x.yaml:100:9",
    ]


def test_the_newest_measurement_of_images_with_several_labels(tmp_path: Path) -> None:
    folder = put(tmp_path / "x", "aaaa", "started")
    folder.metrics.write_text('{"epoch": 3, "step": 9, "split": "val", "loss": 0.25, "map_macro": 0.5, "cf1": 0.3}\n')
    shown = Screen()
    with folder.held_for_training():
        show_status([tmp_path], shown.console, as_json=False)
    assert shown.lines[-1].endswith("3/5    val_loss 0.2500 val_map_macro 0.5000")


def test_more_than_ten_are_counted(tmp_path: Path) -> None:
    for number in range(13):
        put(tmp_path / "x", f"{number:016x}", "failed", **{"class": "E"}, message=chr(97 + number))
    shown = Screen()
    show_status([tmp_path], shown.console, as_json=False)
    assert shown.lines[-2].split()[0] == f"{9:016x}"
    assert shown.lines[-1] == "... and 3 more"


def test_json_is_the_whole_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "x", "aaaa", state="finished")
    show_status([tmp_path], Screen().console, as_json=True)
    (document,) = json.loads(capsys.readouterr().out)
    assert (document["sweep"], document["total"], document["counts"]["finished"]) == ("x", 1, 1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens between one look of ``--watch`` and the next, instead of waiting."""
    happenings: list[Callable[[], object]] = []
    monkeypatch.setattr(screen.time, "sleep", lambda _: happenings.pop(0)())
    return happenings


def test_watching_ends_when_nothing_is_under_way_twice(tmp_path: Path, looks: list[Callable[[], object]]) -> None:
    run = put(tmp_path / "x", "aaaa", "started")
    lock = run.held_for_training()
    lock.__enter__()

    def end() -> None:
        lock.__exit__(None, None, None)
        run.summary.write_text('{"state": "finished", "metrics": {"rows": 0, "bytes": 0, "sha256": ""}}')

    looks += [lambda: None, end, lambda: None]
    shown = Screen()
    watch_status([tmp_path], shown.console)
    assert looks == []
    assert shown.lines[:2] == ["sweep  runs  finished", "x      1     1"]


def test_a_pause_between_two_runs_is_not_the_end(tmp_path: Path, looks: list[Callable[[], object]]) -> None:
    first = put(tmp_path / "x", "aaaa", state="finished")
    lock = first.held_for_training()

    def begin() -> None:
        first.summary.unlink()
        append_event(first, "started", host=platform.node())
        lock.__enter__()

    looks += [begin, lambda: lock.__exit__(None, None, None), lambda: None]
    watch_status([tmp_path], Screen().console)
    assert looks == []


def test_watching_redraws_on_a_terminal(tmp_path: Path, looks: list[Callable[[], object]]) -> None:
    put(tmp_path / "x", "aaaa", state="finished")
    looks += [lambda: None]
    shown = Screen(terminal=True)
    watch_status([tmp_path], shown.console)
    assert shown.file.getvalue().count("finished") == 3  # two looks, and what is left on the screen
