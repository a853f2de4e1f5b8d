import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from report.pages import LEVELS, Reader, curve_run, edit_json, grid_study, one_seed_study, written
from results.fabricate import diverged_run, failed_run, sealed_run, small_study, started_run

from normhpc.errors import InputError
from normhpc.report.page import write_report
from normhpc.report.verify import verify_report
from normhpc.results import load_metrics, load_runs, summarize
from normhpc.results.human import format_interval


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    grid_study(folder / "runs")
    return folder / "runs", Reader(written(folder / "runs"))


def test_cells_are_those_of_summarize(grid):
    runs, page = grid
    table = summarize(load_runs(runs), metrics=["test_top1", "test_loss", "seconds_per_epoch", "peak_memory_mb"])
    rows = page.tables["t-results"]
    assert len(rows) == len(table) == 6
    for row, (_, expected) in zip(rows, table.iterrows(), strict=True):
        assert row["norm.name"][0] == expected["norm.name"]
        assert row["optim.lr"] == (f"{expected['optim.lr']:g}", expected["optim.lr"], "")
        assert [row[name][1] for name in ("n", "ok", "total")] == [3, 3, 3]
        for name in ("std", "low", "high"):
            assert row[f"test_top1_{name}"][1] == expected[f"test_top1_{name}"]
        text, _ = format_interval("test_top1", expected["test_top1_mean"], 0.01)
        assert row["test_top1"][:2] == (text, expected["test_top1_mean"])
        half = expected["test_loss_high"] - expected["test_loss_mean"]
        shown = format_interval("test_loss", expected["test_loss_mean"], half)
        assert (row["test_loss"][0], row["test_loss_half"][0]) == shown
        assert row["device_hours"][1] == pytest.approx(3 * 5 / 3600)


def test_best_of_each_block_is_bold_and_what_cannot_be_told_from_it_underlined(grid):
    _, page = grid
    marks = [(row["norm.name"][0], row["test_top1"][2]) for row in page.tables["t-results"]]
    # 0.901 and 0.897, standard deviations of 0.003: Welch's interval is 0.004 +- 0.0068
    mark = {"batch": "b", "layer": "", "instance": "u"}
    assert marks == [(norm, mark[norm]) for norm in LEVELS for _ in range(2)]
    assert (
        "On optim.lr=0.1: best test_top1: “batch”, 0.9010 [0.8935, 0.9085] (n = 3). "
        "Not distinguishable from it: “instance”. Distinguishable: “layer”."
    ) in page.text


def test_the_smallest_difference_is_told_with_what_it_is_made_of(tmp_path):
    for norm, level in (("batch", 0.9), ("layer", 0.8)):
        for seed, offset in enumerate((-0.01, 0.0, 0.01)):
            sealed_run(tmp_path, {"norm": norm, "seed": seed}, level + offset, swept={"norm": norm})
    # 3.07 standard deviations of 0.01 for two samples of three at power 0.8 (docs/statistics.md)
    text = Reader(written(tmp_path)).text
    assert "smallest difference this study can see there is 0.0307 with 1 comparison, 0.0307" in text
    assert "(n = 3, pooled standard deviation 0.01 over 2 cells, power 0.8); half of the former needs 8 seeds." in text


def test_runs_have_what_their_records_say(grid):
    runs, page = grid
    frame = load_runs(runs)
    rows = page.tables["t-runs"]
    assert [row["run_id"][0] for row in rows] == frame["run_id"].tolist()
    for name in ("seed", "test_top1", "test_loss", "seconds", "peak_memory_mb"):
        assert [row[name][1] for row in rows] == frame[name].tolist()


def test_every_table_is_a_csv_file_without_javascript(grid):
    _, page = grid
    links = [given for tag, given in page.elements if tag == "a" and "download" in given]
    assert {f"t-{given['download'].removesuffix('.csv')}" for given in links} == set(page.tables)
    for given in links:
        kind, _, content = given["href"].partition(",")
        assert kind == "data:text/csv;charset=utf-8;base64"
        rows = list(csv.DictReader(io.StringIO(base64.b64decode(content).decode())))
        table = page.tables[f"t-{given['download'].removesuffix('.csv')}"]
        for row, expected in zip(rows, table, strict=True):
            for key, (text, value, _) in expected.items():
                assert (float(row[key]) == value) if value is not None else (row[key] in (text, ""))


def test_time_to_accuracy_keeps_methods_that_never_get_there(grid):
    _, page = grid
    rows = {
        row["method"][0]: row
        for row in page.tables["t-time"]
        if row["share"][1] == 0.99 and row["block"][0] == "optim.lr=0.1"
    }
    # all runs train 4 epochs of 2 s; the target is 99 % of batch's end, 0.892, which layer ends far below
    assert (rows["batch"]["reached"][1], rows["batch"]["restricted_mean"][1]) == (3, 8)
    assert (rows["layer"]["reached"][1], rows["layer"]["runs"][1]) == (0, 3)
    assert rows["layer"]["restricted_mean"][1] == rows["layer"]["horizon"][1] == 8
    assert "0.8920" in rows["layer"]["target"][0]


def test_a_short_run_that_ends_without_the_accuracy_never_reaches_it(tmp_path):
    curve_run(tmp_path / "runs", {"norm": "batch", "seed": 0}, 0.9, 8)
    curve_run(tmp_path / "runs", {"norm": "layer", "seed": 0}, 0.9, 4)
    curve_run(tmp_path / "runs", {"norm": "layer", "seed": 1}, 0.5, 2)
    rows = Reader(written(tmp_path / "runs")).tables["t-time"]
    [layer] = [row for row in rows if row["method"][0] == "layer" and row["share"][1] == 0.90]
    # 2 s an epoch: 0.81 is there after 8 s, and never of the run that finished after 4 s; batch trains for 16 s
    assert [layer[name][1] for name in ("reached", "runs", "horizon")] == [1, 2, 16]
    assert layer["restricted_mean"][1] == (8 + 16) / 2


def test_ranks_over_blocks_and_the_power_floor(grid):
    _, page = grid
    rows = page.tables["t-ranks"]
    assert [(row["method"][0], row["rank"][1]) for row in rows] == [("batch", 1), ("instance", 2), ("layer", 3)]
    assert "needs at least 7 blocks, got 2" in page.text
    # 2.343 sqrt(3 * 4 / (6 * 2)): Demsar's q for three methods
    assert "Nemenyi critical difference 2.34 at 0.05" in page.text


def test_the_heat_map_has_means_of_two_fields(grid):
    _, page = grid
    rows = page.tables["t-heat1"]
    assert [row["method"][0] for row in rows] == list(LEVELS)
    assert rows[0]["0.1"][1] == pytest.approx(0.901)
    assert "h8" in next(
        given["class"] for tag, given in page.elements if tag == "td" and "h8" in (given.get("class") or "")
    )


def test_curves_are_medians_at_their_places(tmp_path):
    for seed, top1 in enumerate((0.2, 0.4, 0.9)):
        curve_run(tmp_path, {"norm": "batch", "seed": seed}, top1, epochs=2)
    text = written(tmp_path)
    (drawing,) = re.findall(r'<svg class="plot"[^>]*aria-label="val top1.*?</svg>', text)
    left, right, bottom, top = map(float, re.search(r'data-frame="([^"]*)"', drawing)[1].split())
    x, y = (re.search(rf'data-{name}="([^"]*)"', drawing)[1].split() for name in "xy")
    assert (x, y[2]) == (["1.0", "2.0", "whole"], "even")
    (line,) = re.findall(r'class="line c0" data-s="0" d="([^"]*)"', drawing)
    places = np.array(re.findall(r"[\d.]+", line), float).reshape(2, 2)
    values = float(y[0]) + (bottom - places[:, 1]) / (bottom - top) * (float(y[1]) - float(y[0]))
    assert places[:, 0].tolist() == [left, right]
    np.testing.assert_allclose(values, [0.2, 0.4], atol=0.0005)
    assert 'class="dot hollow c0"' in drawing


def test_the_same_records_give_the_same_bytes(grid, tmp_path):
    runs, _ = grid
    code = f"from normhpc.report.page import write_report; write_report([{str(runs)!r}], {str(tmp_path / 'b.html')!r})"
    write_report([runs], tmp_path / "a.html")
    # another process has another seed for the order of sets
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    shutil.rmtree(runs / ".normhpc-cache")
    write_report([runs], tmp_path / "c.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "c.html").read_bytes()


def test_nothing_comes_from_elsewhere(grid):
    runs, page = grid
    text = (runs.parent / "report.html").read_text()
    addresses = [given.get(name) for _, given in page.elements for name in ("src", "href") if given.get(name)]
    assert addresses
    assert [address for address in addresses if not address.startswith(("#", "data:"))] == []
    assert re.search(r"https?://|fetch\(|XMLHttpRequest|url\(|@import|import\(", text) is None
    assert "default-src 'none'" in text
    assert "<script src" not in text


def test_tables_can_be_read_by_all(grid):
    runs, page = grid
    text = (runs.parent / "report.html").read_text()
    assert text.count("<table") == text.count("<caption>") == len(page.tables)
    assert all(given.get("scope") in ("col", "row") for tag, given in page.elements if tag == "th")
    drawings = [given for tag, given in page.elements if tag == "svg" and given.get("aria-hidden") != "true"]
    assert drawings
    assert all(given.get("role") == "img" and given.get("aria-label") for given in drawings)
    assert ("html", {"lang": "en"}) in page.elements


HOSTILE = '<script>alert("x")</script>&amp;\'"><img src=x onerror=alert(1)>'


def test_curves_of_twenty_norms_over_200_epochs_in_twelve_drawings_are_small(tmp_path, monkeypatch):
    # 48,000 lines, none of which has to outlive the machine
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("os.fdatasync", lambda _: None)
    for rate in (0.1, 0.2, 0.3):
        for groups in range(1, 21):
            for seed in range(2):
                norm = {"name": "group", "groups": groups}
                curve_run(tmp_path / "runs", {"norm": norm, "seed": seed, "optim": {"lr": rate}}, 0.9 - seed / 9, 200)
    text = written(tmp_path / "runs")
    curves = text[text.index('<section id="curves"') :].split("</section>")[0]
    assert (curves.count('<svg class="plot"'), curves.count('class="band')) == (12, 12 * 20)
    assert len(text) < 1_500_000


def test_what_records_say_stays_text(tmp_path):
    folder = sealed_run(tmp_path, {"norm": "batch", "seed": 0}, 0.9, swept={"norm": "batch"})
    edit_json(folder.run_json, config__norm__name=HOSTILE, sweep=HOSTILE, code__commit=HOSTILE, created=HOSTILE)
    edit_json(folder.summary, data_digest=HOSTILE)
    folder.events.write_text(folder.events.read_text().replace("here", "<img src=x>"))
    sealed_run(tmp_path, {"norm": "layer", "seed": 0}, 0.8, swept={"norm": "layer"})
    broken = started_run(tmp_path, {"norm": "instance", "seed": 0}, swept={"norm": "instance"})
    from normhpc.record import append_event

    append_event(broken, "failed", **{"class": HOSTILE, "message": HOSTILE, "traceback": ""})
    text = written(tmp_path)
    page = Reader(text)
    assert text.count("<script") == 1
    assert [given for tag, given in page.elements if tag == "img" or any(name.startswith("on") for name in given)] == []
    assert page.tables["t-results"][0]["norm.name"][0] == HOSTILE
    assert page.tables["t-failures"][0]["example"][0] == f"{HOSTILE}: {HOSTILE}"
    assert HOSTILE in page.text


def test_control_letters_do_no_harm(tmp_path):
    folder = sealed_run(tmp_path, {"norm": "batch", "seed": 0}, 0.9, swept={"norm": "batch"})
    edit_json(folder.run_json, sweep="a\x00b\x1b")
    assert "a\ufffdb\ufffd" in Reader(written(tmp_path)).text


def test_halves_of_surrogate_pairs_are_replaced(tmp_path):
    half = "a\ud800b"
    folder = curve_run(tmp_path / "runs", {"norm": "batch", "seed": 0}, 0.9)
    edit_json(folder.run_json, sweep=half, code__commit=half, config__norm__name=half, config__data__path=half)
    edit_json(folder.run_json, swept={"norm": "batch", "data.path": half, half: 1})
    edit_json(folder.summary, data_digest=half, device=half, classes=[half])
    edit_json(folder.summary, final={"test_top1": 0.9, f"test_{half}": 0.5})
    folder.metrics.write_text(folder.metrics.read_text().replace('"loss"', '"lo\\ud800"'))
    page = Reader(written(tmp_path / "runs"))
    row = page.tables["t-results"][0]
    assert (row["test_top1"][1], page.tables["t-code"][0]["data"][0]) == (0.9, "a\ufffdb")
    assert (row["norm.name"][0], page.tables["t-runs"][0]["norm.name"][0]) == ("a\ufffdb", "a\ufffdb")
    assert verify_report(tmp_path / "report.html", [tmp_path / "runs"]).differences == ()
    table = load_metrics(tmp_path / "runs")
    assert "lo\ufffd" in set(table["metric"])


def test_failed_and_diverged_runs_count_and_are_named(tmp_path):
    small_study(tmp_path)
    page = Reader(written(tmp_path))
    _, layer = page.tables["t-results"]
    assert [layer[name][1] for name in ("n", "ok", "total")] == [1, 1, 3]
    assert layer["test_top1_std"] == ("-", None, "")
    (failure,) = page.tables["t-failures"]
    assert (failure["why"][0], failure["runs"][1]) == ("oom", 1)
    assert failure["example"][0] == "OutOfMemory: 2 GiB more than there are"
    (diverged,) = page.tables["t-diverged"]
    assert (diverged["seed"][1], diverged["step"][1]) == (2, 3)
    assert "4 of 6 runs finished, 1 failed, 1 diverged." in page.text
    assert "Not judged, for want of two seeds in common: “layer”." in page.text
    assert "failed: 1 of 6 runs (norm.name=layer)" in page.text
    assert "Left out of means: 1 diverged without test_top1; 1 failed without test_top1." in page.text


def test_compute_tells_what_came_to_nothing_beside_what_made_the_results(tmp_path):
    def at(time, kind, **details):
        return json.dumps({"time": f"2026-01-01T{time}:00.000Z", "event": kind, **details})

    once = sealed_run(tmp_path, {"norm": "batch", "seed": 0}, seconds=36000.0, ranks=2)
    once.events.write_text("\n".join([at("00:00", "started", attempt=1, ranks=2), at("23:00", "finished", attempt=1)]))
    twice = sealed_run(tmp_path, {"norm": "batch", "seed": 1}, seconds=3600.0)
    lines = [
        at("00:00", "started", attempt=1, ranks=1),
        at("02:00", "lost"),
        at("03:00", "resumed", attempt=2, ranks=1),
    ]
    twice.events.write_text("\n".join([*lines, at("03:30", "finished", attempt=2)]))
    twice.metrics.write_text("")
    failed = failed_run(tmp_path, {"norm": "batch", "seed": 2})
    failed.metrics.write_text("")
    failed.events.write_text("\n".join([at("00:00", "started", attempt=1, ranks=4), at("01:00", "failed")]))
    told = (
        "Compute: 21 device-hours in the training that runs with a result were made of, 5.5 device-hours besides, in attempts "
        "that failed, were lost or repeated, or have not ended, as far as their lines tell."
    )
    assert told in Reader(written(tmp_path)).text


def test_one_seed_has_no_intervals(tmp_path):
    one_seed_study(tmp_path)
    page = Reader(written(tmp_path))
    assert "seed 7 alone" in page.text
    assert "One seed shows no spread: there are no intervals" in page.text
    row = page.tables["t-results"][0]
    assert row["test_top1"] == ("0.9000", 0.9, "b")
    assert [row[f"test_top1_{name}"][0] for name in ("std", "low", "high")] == ["-", "-", "-"]
    assert "±" not in row["test_top1"][0]
    assert "No critical-difference diagram: a ranking needs at least 2 methods and 2 blocks" in page.text


def test_all_failed_is_a_page_that_says_so(tmp_path):
    for seed in range(2):
        failed_run(tmp_path, {"norm": "batch", "seed": seed})
    page = Reader(written(tmp_path))
    assert "No run has a result: nothing can be said about test_top1." in page.text
    assert "0 of 2 runs finished, 2 failed." in page.text
    assert page.tables["t-failures"][0]["runs"][1] == 2
    assert page.tables["t-results"][0]["test_top1"] == ("-", None, "")


def test_runs_that_have_not_begun_are_a_page_as_well(tmp_path):
    from results.fabricate import new_run

    new_run(tmp_path, {"norm": "batch", "seed": 0})
    assert "0 of 1 runs finished, none failed or diverged; not ended: 1 new." in Reader(written(tmp_path)).text


def test_only_diverged_runs(tmp_path):
    diverged_run(tmp_path, {"norm": "batch", "seed": 0})
    page = Reader(written(tmp_path))
    assert "0 of 1 runs finished, 1 diverged." in page.text


def test_runs_without_a_metric_in_common_are_told(tmp_path):
    for seed in range(2):
        sealed_run(tmp_path, {"norm": "batch", "seed": seed}, 0.9, swept={"norm": "batch"})
    several = {"final": {"test_map_macro": 0.5, "test_loss": 0.3}}
    sealed_run(tmp_path, {"norm": "layer", "seed": 0}, swept={"norm": "layer"}, **several)
    page = Reader(written(tmp_path))
    told = "This report is about test_top1, which 2 runs have; 1 with a result have test_map_macro instead"
    assert told in page.text
    other = Reader(written(tmp_path, "test_map_macro"))
    assert other.tables["t-results"][1]["test_map_macro"][1] == 0.5


def test_less_of_a_loss_is_better(tmp_path):
    one_seed_study(tmp_path)
    page = Reader(written(tmp_path, "test_loss"))
    assert [row["test_loss"][2] for row in page.tables["t-results"]] == ["b", ""]


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("test_top", "no metric of these runs is called 'test_top', did you mean 'test_top5'? There are: "),
        ("parameters", "--metric: neither more nor less parameters is better; a report needs one that has a direction"),
    ],
)
def test_a_metric_that_cannot_be_reported(tmp_path, metric, text):
    one_seed_study(tmp_path / "runs")
    with pytest.raises(InputError) as error:
        write_report([tmp_path / "runs"], tmp_path / "r.html", metric)
    assert text in str(error.value)
    assert not (tmp_path / "r.html").exists()


def test_places_that_cannot_be_written_or_read(tmp_path):
    one_seed_study(tmp_path / "runs")
    with pytest.raises(InputError, match="expected a file to write, this is a folder"):
        write_report([tmp_path / "runs"], tmp_path)
    with pytest.raises(InputError, match="there is no such folder to write into"):
        write_report([tmp_path / "runs"], tmp_path / "none" / "r.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there are no runs in it; normhpc sweep SWEEP\.yaml makes runs"):
        write_report([tmp_path / "empty"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_methods_of_one_field_keep_their_colours_in_the_diagram(tmp_path):
    for rate in (0.1, 0.2):
        for groups, top1 in ((2, 0.8), (4, 0.9)):
            config = {"norm": {"name": "group", "groups": groups}, "seed": 0, "optim": {"lr": rate}}
            sealed_run(tmp_path, config, top1, swept={"norm": config["norm"], "optim.lr": rate})
    text = written(tmp_path)
    page = Reader(text)
    assert [row["method"][0] for row in page.tables["t-ranks"]] == ["groups=4", "groups=2"]
    assert re.findall(r'class="stem (c\d)"', text) == ["c1", "c0"]


def test_without_different_norms_methods_are_what_varies(tmp_path):
    for rate, top1 in ((0.1, 0.8), (0.2, 0.9)):
        sealed_run(tmp_path, {"norm": "batch", "seed": 0, "optim": {"lr": rate}}, top1, swept={"optim.lr": rate})
    page = Reader(written(tmp_path))
    assert [row["method"][0] for row in page.tables["t-cost"]] == ["optim.lr=0.1", "optim.lr=0.2"]
    assert "2 runs in 2 cells (2 methods, 1 block), seed 0 alone" in page.text


def test_what_changes_together_is_told_once(tmp_path):
    sets = {"coco": (64, "val2017", 80), "ben": (120, "test", 19)}
    for dataset, (side, split, classes) in sets.items():
        for norm in ("batch", "layer"):
            folder = sealed_run(tmp_path, {"norm": norm, "seed": 0, "epochs": side}, 0.9, swept={"norm": norm})
            data = {"name": "shards", "dataset": dataset, "height": side, "test": split, "num_classes": classes}
            if dataset == "coco":
                data["crop"] = 56
            swept = {"norm": norm, **{f"data.{name}": value for name, value in data.items()}, "epochs": side}
            edit_json(folder.run_json, config__data=data, swept=swept)
    page = Reader(written(tmp_path))
    rows = page.tables["t-results"]
    assert list(rows[0])[:4] == ["norm.name", "data.dataset", "n", "ok"]
    assert (
        "data.dataset coco: data.height 64, data.test val2017, data.num_classes 80, data.crop 56, epochs 64"
        in page.text
    )
    assert "On coco: best test_top1: “batch”, 0.9000 (n = 1)." in page.text
    assert page.tables["t-cost"][0]["block"][0] == "coco"


def test_nan_in_curves_breaks_lines_only(tmp_path):
    folder = curve_run(tmp_path, {"norm": "batch", "seed": 0}, 0.9)
    lines = folder.metrics.read_text().replace('"split":"val","loss":1.0', '"split":"val","loss":null')
    folder.metrics.write_text(lines)
    text = written(tmp_path)
    assert "NaN" not in text.partition("<script>")[0]
    assert "nan" not in "".join(re.findall(r' d="[^"]*"', text))
    assert pd.notna(load_runs(tmp_path)["test_top1"]).all()
