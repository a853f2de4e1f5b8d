"""What all figures share: labels, panels, looks, files."""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from results.fabricate import sealed_run
from support.readable import assert_readable

from normhpc.errors import InputError
from normhpc.results import figures, load_runs

NORMS = ("batch", {"name": "batch", "sync": True}, {"name": "group", "groups": 8}, {"name": "group", "groups": 4})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    for norm in NORMS:
        sealed_run(place, {"norm": norm}, swept={"norm": norm})
    return place


def given(*dirs: Path, **settings: object) -> argparse.Namespace:
    return argparse.Namespace(**({"dirs": [str(place) for place in dirs], "metric": None, "only": []} | settings))


def test_norms_are_named_with_what_is_not_usual(runs: Path) -> None:
    labels = figures.compared_runs(given(runs))["norm"].tolist()
    assert labels == ["batch", "batch sync=True", "group groups=8", "group groups=4"]


def test_panels_part_what_varies_at_equal_keys_alone(tmp_path: Path) -> None:
    """The residual scheme goes with the norm; the number of epochs does not."""
    for epochs in (1, 2):
        for norm, residual in (("batch", "plain"), ("none", "skipinit")):
            fields = {"norm": norm, "model.residual": residual, "epochs": epochs}
            config = {"norm": norm, "epochs": epochs, "model": {"name": "resnet8", "residual": residual}}
            sealed_run(tmp_path, config, swept=fields)
    found = figures.panels(figures.compared_runs(given(tmp_path)), "norm")
    assert [(panel.title, len(panel.runs)) for panel in found] == [
        ("digits, resnet8, epochs=1", 2),
        ("digits, resnet8, epochs=2", 2),
    ]


def test_titles_tell_what_changes_together_once() -> None:
    """Two sets of shards, which differ in much, at two learning rates, and another set."""
    sets = {"coco": (224, "val2017", 80, 30), "bigearthnet": (120, "test", 19, 60)}
    rows = [
        {"data.dataset": name, "data.height": side, "data.test": test, "data.num_classes": classes, "epochs": epochs}
        for name, (side, test, classes, epochs) in sets.items()
    ]
    frame = pd.DataFrame([*rows, {"data.name": "cifar10"}]).fillna({"data.name": "shards"})
    frame = pd.concat([frame.assign(**{"optim.lr": rate}) for rate in (0.1, 0.2)], ignore_index=True)
    frame = frame.assign(**{"model.name": "resnet50", "norm": "batch"})
    found = figures.panels(frame, "norm")
    assert sorted(panel.title for panel in found) == sorted(
        f"{place}, optim.lr={rate}"
        for rate in (0.1, 0.2)
        for place in ("shards, resnet50, coco", "shards, resnet50, bigearthnet", "cifar10, resnet50")
    )
    coco = next(panel for panel in found if "coco" in panel.title)
    assert (coco.fields["data.height"], coco.fields["data.test"]) == (224, "val2017")


def test_too_many_panels(tmp_path: Path) -> None:
    table = pd.DataFrame({"data.name": "digits", "model.name": "vgg", "norm": "batch", "epochs": range(13)})
    text = (
        "13 panels of different data.name, model.name, epochs, at most 12 fit on a page; choose with --only FIELD=VALUE"
    )
    with pytest.raises(InputError, match=f"^{text}, for instance --only epochs=0$"):
        figures.panels(table, "norm")


def test_metric_is_the_first_measured(runs: Path) -> None:
    table = load_runs(runs)
    assert figures.metric_of(table, given(runs)) == "test_top1"
    assert figures.metric_of(table.assign(test_top1=float("nan")), given(runs)) == "test_loss"
    with pytest.raises(InputError, match="no metric of these runs is called 'test_topp1', did you mean 'test_top1'"):
        figures.metric_of(table, given(runs, metric="test_topp1"))


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("test_top1", "test top1 (fraction)"),
        ("val_loss", "val loss (nats)"),
        ("seconds_per_epoch", "seconds per epoch (s)"),
        ("peak_memory_mb", "peak memory mb (MB)"),
        ("test_map_macro", "test map macro (fraction)"),
    ],
)
def test_axes_have_units(metric: str, label: str) -> None:
    assert figures.axis_label(metric) == label


def test_no_two_looks_are_alike() -> None:
    found = figures.looks(map(str, range(70)))
    assert len({(look.colour, look.marker) for look in found.values()}) == 70
    assert found["0"] == ("#0072B2", "o", "-")


def test_colours_differ_in_lightness_too() -> None:
    """From white paper, and as grey from each other, but for a pair told apart by its markers."""
    lightness = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in map(to_rgb, figures.COLOURS)]
    assert max(lightness) < 0.75
    assert len(set(figures.COLOURS)) == 7


def drawing() -> figures.Drawing:
    figure, [[axis]] = figures.page(1, 1, 5, 3, "Some words. " * 20)
    figures.dot(axis, 0, 0.5, 0.4, 0.7, reference=True)
    figures.name_rows(axis, ["one"])
    axis.set_xlabel("x (s)")
    return figures.Drawing(figure, pd.DataFrame({"a": [0.1]}))


def test_equal_drawings_give_equal_bytes(tmp_path: Path) -> None:
    with figures.styled():
        first, second = (figures.save(drawing(), tmp_path / name, "x") for name in ("one", "two"))
    assert [path.name for path in first] == ["x.pdf", "x.png", "x.csv"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    for word in (b"CreationDate", b"Producer", b"Software"):
        assert word not in first[0].read_bytes() + first[1].read_bytes()
    assert first[2].read_text() == "a\n0.1\n"


def test_captions_are_wrapped_and_stand_below() -> None:
    with figures.styled():
        assert_readable(drawing().figure)


def test_long_titles_take_no_height_from_the_axes() -> None:
    heights = []
    for title in ("digits, convnet", "digits, convnet" + ", model.name=resnet8" * 12):
        with figures.styled():
            figure, axes = figures.paged([figures.Panel(title, {}, pd.DataFrame())], 4.6, 2.0, "")
            axis = next(axes)
            figure.draw_without_rendering()
        assert axis.get_title(loc="left").replace("\n", " ") == title
        heights.append(axis.get_position().height * figure.get_figheight())
    assert heights[1] > heights[0] - 0.2


def test_whiskers_are_the_interval() -> None:
    with figures.styled():
        _, [[axis]] = figures.page(1, 1, 5, 3, "")
        figures.dot(axis, 2, 0.5, 0.4, 0.7, reference=False)
        figures.dot(axis, 1, 0.5, None, None, reference=False)
    with_bars, without = axis.containers
    assert with_bars.lines[2][0].get_segments()[0].tolist() == [[0.4, 2], [0.7, 2]]
    assert without.lines[2] == ()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with figures.styled(), pytest.raises(InputError) as caught:
        figures.save(drawing(), tmp_path / "file" / "below", "x")
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'below'}: --out: cannot be written: Not a directory; choose another place"
    )


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as caught:
        figures.run("some", "words", lambda given: drawing(), [])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        'some.py: error: figures need matplotlib, which is not installed: pip install "normhpc[figures]"\n'
    )


def test_matplotlib_is_not_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; import normhpc.results.figures, normhpc.results.probe_axes; assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("script", sorted((Path(__file__).parents[2] / "analysis").glob("*.py")), ids=lambda p: p.stem)
def test_every_script_is_short_and_tells_how_it_is_called(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 80
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {script.name}")
    assert "RUNS_DIR" in done.stdout
