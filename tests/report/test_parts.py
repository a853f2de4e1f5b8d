import itertools
import json
import math

import numpy as np
import pytest
from PIL import Image
from report.pages import Reader, grid_study, written
from results.fabricate import sealed_run
from scipy import stats

from normhpc.report import findings, gallery
from normhpc.report.comparison import compare
from normhpc.report.cost import pareto_front
from normhpc.report.curves import middle_and_band, stacked, thinned
from normhpc.report.elements import Column, Datum, Table, escaped, number_text, table_csv
from normhpc.report.reliability import pooled
from normhpc.report.study import load_study
from normhpc.report.svg import Axis, Plot, axis_over, even_ticks, path, tick_text
from normhpc.report.time_to_target import training_seconds


def test_the_front_is_what_nobody_beats():
    rng = np.random.default_rng(0)
    costs, scores = rng.integers(0, 8, 60).tolist(), rng.integers(0, 8, 60).tolist()

    def beaten(one):
        others = (other for other in range(60) if (costs[other], scores[other]) != (costs[one], scores[one]))
        return any(costs[other] <= costs[one] and scores[other] >= scores[one] for other in others)

    front = pareto_front(costs, scores)
    assert sorted(front) == [one for one in range(60) if not beaten(one)]
    assert [costs[one] for one in front] == sorted(costs[one] for one in front)
    assert pareto_front([math.nan, 1.0], [5.0, math.nan]) == []


def test_bands_are_quartiles_from_five_seeds_on():
    values = np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 7.0], [4.0, 8.0], [9.0, 9.0]])
    median, low, high = middle_and_band(values)
    assert (median[0], low[0], high[0]) == (3, 2, 4)
    assert np.isnan([median[1], low[1], high[1]]).all()
    _, low, high = middle_and_band(values[:4])
    assert (low[0], high[0]) == (1, 4)


def test_curves_of_different_epochs_are_laid_side_by_side():
    epochs, values = stacked([(np.array([1, 2]), np.array([0.1, 0.2])), (np.array([2, 3]), np.array([0.3, 0.4]))])
    assert epochs.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(values, [[0.1, 0.2, np.nan], [np.nan, 0.3, 0.4]])


def test_thinning_keeps_both_ends():
    assert thinned(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert (thinned(1000, 80)[0], thinned(1000, 80)[-1], len(thinned(1000, 80))) == (0, 999, 80)


def test_the_first_epoch_counts_no_more_than_the_others():
    np.testing.assert_array_equal(training_seconds(np.array([60.0, 2.0, 4.0])), [3, 5, 9])
    np.testing.assert_array_equal(training_seconds(np.array([1.0, 2.0, 4.0])), [1, 3, 7])
    np.testing.assert_array_equal(training_seconds(np.array([60.0])), [60])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.123, 0.124), (-5, 17), (1e-7, 3e-7), (0, 12345), (99.2, 99.9)])
def test_ticks_are_round_inside_and_few(low, high):
    ticks = even_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)
    steps = {f"{second - first:.6g}" for first, second in itertools.pairwise(ticks)}
    assert len(steps) == 1
    assert f"{float(steps.pop()):e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_ticks_of_epochs_are_whole():
    assert even_ticks(1, 3, least=1.0) == [1, 2, 3]
    assert Axis("epoch", 1, 15, whole=True).ticks() == [5, 10, 15]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.30000000000000004, "0.3"), (1200, "1200"), (2e6, "2e6"), (5e-5, "5e-5"), (-0.25, "-0.25")],
)
def test_tick_texts(value, text):
    assert tick_text(value) == text


def test_axes_hold_all_values_and_logarithms_are_even_in_ratio():
    axis = axis_over("x", [1.0, 100.0, math.nan], log=True)
    shares = axis.share([1, 10, 100])
    assert 0 < shares[0] < shares[2] < 1
    assert shares[1] - shares[0] == pytest.approx(shares[2] - shares[1])
    assert axis_over("x", []).share([0, 1]).tolist() == [pytest.approx(1 / 27), pytest.approx(26 / 27)]
    level = axis_over("x", [3.0, 3.0])
    assert level.share([3.0]) == pytest.approx(0.5)


def test_lines_break_where_there_is_no_number():
    assert path([(1, 2), (math.nan, 3), (4, 5), (6, 7)]) == "M1.0 2.0M4.0 5.0L6.0 7.0"
    assert path([(1, 2), (3, 4)], steps=True) == "M1.0 2.0H3.0V4.0"


def test_words_of_a_drawing_do_not_meet():
    plot = Plot("t", Axis("x", 0, 1), Axis("y", 0, 1))
    for _ in range(9):
        plot.word(0, 0.5, 0.5, "a norm of some length")
    drawn = plot.svg().count('class="word"')
    assert 1 <= drawn <= 4


def test_csv_has_numbers_whole_and_text_as_it_is():
    columns = (Column("name", "Name", numeric=False), Column("x", "X"))
    rows = ((Datum('a,"b"'), Datum("0.33", 1 / 3)), (Datum("c"), Datum("-")))
    assert table_csv(Table("t", "", columns, rows)) == 'name,x\n"a,""b""",0.3333333333333333\nc,\n'
    assert [number_text(value) for value in (3.0, -0.5, 1e300)] == ["3", "-0.5", "1e+300"]


def test_markup_and_control_letters_are_escaped():
    assert escaped('<a href="x">\'&\x00\x1b\n') == "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;\ufffd\ufffd\n"


def test_comparison_is_welch_or_paired_with_holm(tmp_path):
    rng = np.random.default_rng(3)
    scores = {
        norm: 0.8 + shift + rng.normal(0, 0.004, 5)
        for norm, shift in (("batch", 0.01), ("layer", 0.0), ("instance", 0.008))
    }
    for norm, values in scores.items():
        for seed, value in enumerate(values):
            sealed_run(tmp_path, {"norm": norm, "seed": seed}, float(value), swept={"norm": norm})
    study = load_study([tmp_path])
    found = compare(study, 0)
    best = max(scores, key=lambda norm: scores[norm].mean())
    p = {}
    for norm in scores.keys() - {best}:
        paired = np.corrcoef(scores[best], scores[norm])[0, 1] > 0
        test = stats.ttest_rel if paired else stats.ttest_ind
        p[norm] = test(scores[best], scores[norm], **({} if paired else {"equal_var": False})).pvalue
    first, second = sorted(p, key=p.get)
    adjusted = {first: min(1, 2 * p[first]), second: max(min(1, 2 * p[first]), p[second])}

    def name(cells):
        return {study.methods[study.cell_method[cell]] for cell in cells}

    assert name([found.best]) == {best}
    assert name(found.tied) == {norm for norm in adjusted if adjusted[norm] >= 0.05}
    assert name(found.worse) == {norm for norm in adjusted if adjusted[norm] < 0.05}
    pooled = math.sqrt(np.mean([values.var(ddof=1) for values in scores.values()]))
    assert (found.power.std, found.power.seeds, found.power.comparisons) == (pytest.approx(pooled), 5, 2)
    assert found.power.one == pytest.approx(2.02 * pooled, rel=0.005)


def analysed(runs, side=600):
    """What ``normhpc analyze`` leaves behind, for each run."""
    for number, folder in enumerate(sorted(runs.glob("demo/*"))):
        place = folder / "posthoc"
        place.mkdir()
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / "saliency.png")
        document = {
            "what": "saliency",
            "method": "Grad-CAM <b>",
            "n": {"test_images": 64},
            "values": {
                "srg_retention": 0.1 * number,
                "zero_maps": None,
                "layer": "out",
                "checks": {"a": True, "b": False},
            },
            "units": {},
            "files": ["saliency.png", "../../../secret.png"],
        }
        (place / "saliency.json").write_text(json.dumps(document))


def test_explanations_have_pictures_of_one_seed_and_numbers_of_all(tmp_path):
    grid_study(tmp_path / "runs", seeds=2)
    analysed(tmp_path / "runs")
    page = Reader(written(tmp_path / "runs"))
    images = [given for tag, given in page.elements if tag == "img"]
    assert len(images) == 6
    assert all(given["src"].startswith("data:image/jpeg;base64,") and given["alt"] for given in images)
    rows = page.tables["t-posthoc-saliency"]
    assert [row["n"][1] for row in rows] == [2] * 6
    study = load_study([tmp_path / "runs"])
    order = sorted(study.runs["run_id"])
    expected = [
        np.mean([0.1 * order.index(study.runs["run_id"][run]) for run in study.runs_of(cell)]) for cell in range(6)
    ]
    assert [row["srg_retention"][1] for row in rows] == pytest.approx(expected)
    assert "zero_maps" not in rows[0]
    assert "Grad-CAM <b>" in page.text
    assert page.text.count("then its map for the predicted and for the true class") == len(study.blocks)


def test_explanations_are_compared_over_what_all_runs_of_a_block_are_right_about(tmp_path):
    grid_study(tmp_path / "runs", seeds=2)
    analysed(tmp_path / "runs")
    study = load_study([tmp_path / "runs"])
    blocks = [study.cell_block[cell] for cell in study.cell_of]
    expected = np.zeros(len(study.cells))
    for number, record in enumerate(study.records):
        # images 2 to 5 are right in all, one more in each; image 2 is not seen by the first run of a block
        rows = np.delete(np.arange(8), 2) if number == blocks.index(blocks[number]) else np.arange(8)
        right = (rows > 1) & (rows < 6) | (rows == number % 2)
        srg = np.random.default_rng(number).random(len(rows))
        arrays = {"rows": rows, "labels": rows * 0, "right": right, "counted": right | True, "srg_retention": srg}
        np.savez(record.folder.path / "posthoc" / "saliency.npz", **arrays)
        expected[study.cell_of[number]] += srg[(rows > 2) & (rows < 6)].mean() / 2
    page = Reader(written(tmp_path / "runs"))
    told = [row["srg_retention_common"][1] for row in page.tables["t-posthoc-saliency"]]
    np.testing.assert_allclose(told, expected)
    assert "common: over the images that all runs of a block are right about, n = 3" in page.text
    # what cannot be read in one block leaves its rows without
    (study.records[0].folder.path / "posthoc" / "saliency.npz").write_bytes(b"PK damaged")
    rows = Reader(written(tmp_path / "runs")).tables["t-posthoc-saliency"]
    told = [row["srg_retention_common"][1] is not None for row in rows]
    assert told == [block != blocks[0] for block in study.cell_block]
    assert len(set(told)) == 2
    block = study.blocks[blocks[0]]
    page = Reader(written(tmp_path / "runs"))
    again = f"normhpc analyze {tmp_path / 'runs'} --what saliency --again makes them anew"
    assert (
        f"saliency of {block}: no mean over common answers, since 1 of 6 saliency.npz are damaged or of an older"
        in page.text
    )
    assert again in page.text


def test_a_check_that_fails_is_named_with_its_runs(tmp_path):
    for norm in ("batch", "layer"):
        for seed in range(2):
            sealed_run(tmp_path / "runs", {"norm": norm, "seed": seed}, 0.9, swept={"norm": norm})
    analysed(tmp_path / "runs")
    study = load_study([tmp_path / "runs"])
    for record in study.records:
        holds = {"traces": record.seed == 0, "settled": True}
        values = {"eval": {"checks": holds, "checks_failed": [name for name in holds if not holds[name]]}}
        document = {"what": "hessian", "method": "H", "values": values}
        (record.folder.path / "posthoc" / "hessian.json").write_text(json.dumps(document))
    told = "fails in 2 of 4 runs; what it compares is not to be believed there"
    page = Reader(written(tmp_path / "runs"))
    assert f"hessian: the check eval traces {told}: batch, seed 1; layer, seed 1" in page.text
    assert "eval settled" not in page.text
    rows = page.tables["t-posthoc-hessian"]
    assert [row["eval.checks_failed"][1] for row in rows] == [0.5, 0.5]


def test_results_that_were_not_made_alike_are_told(tmp_path):
    grid_study(tmp_path / "runs", seeds=1)
    analysed(tmp_path / "runs")
    assert "makes them alike" not in Reader(written(tmp_path / "runs")).text
    study = load_study([tmp_path / "runs"])
    for number, record in enumerate(study.records):
        file = record.folder.path / "posthoc" / "saliency.json"
        document = json.loads(file.read_text())
        # the first block over as many images everywhere
        cell = study.cell_of[number]
        images = 64 if study.cell_block[cell] == 0 or study.cell_method[cell] > 0 else 128
        file.write_text(json.dumps(document | {"method": f"way {number == 0}", "n": {"test_images": images}}))
    text = Reader(written(tmp_path / "runs")).text
    again = f"normhpc analyze {tmp_path / 'runs'} --what saliency --again"
    assert (
        f"saliency: some results were made by an older version in another way, and means are over both; {again} makes them"
    ) in text
    told = (
        f"over 64 and 128 images, so methods are not compared on the same; {again} with one --images makes them alike"
    )
    assert [f"saliency, {block}: {told}" in text for block in study.blocks] == [False, True]


def test_reliability_is_of_the_images_of_all_seeds_together():
    nan = np.nan
    first = np.array([[10, 0, 0, 30], [0.2, nan, nan, 0.9], [0.1, nan, nan, 0.8]])
    second = np.array([[30, 5, 0, 10], [0.1, 0.4, nan, 1.0], [0.3, 1.0, nan, 1.0]])
    confidence, right, images = pooled([first, second])
    np.testing.assert_allclose(confidence, [(2 + 3) / 40, 0.4, nan, (27 + 10) / 40])
    np.testing.assert_allclose(right, [(1 + 9) / 40, 1.0, nan, (24 + 10) / 40])
    assert images.tolist() == [40, 5, 0, 40]


def test_reliability_is_drawn_for_each_block(tmp_path):
    grid_study(tmp_path / "runs", seeds=1)
    analysed(tmp_path / "runs")
    study = load_study([tmp_path / "runs"])
    for record in study.records:
        place = record.folder.path / "posthoc"
        (place / "saliency.json").rename(place / "calibration.json")
        width = {"images": np.eye(15)[7] * 20, "confidence": np.full(15, 0.5), "accuracy": np.full(15, 0.25)}
        np.savez(place / "calibration.npz", **{f"equal_width_{name}": values for name, values in width.items()})
    text = written(tmp_path / "runs")
    for cell, block in enumerate(study.cell_block):
        tip = escaped(f"{study.cell_name(cell)}: right 0.250 at confidence 0.500, 20 images")
        assert f"<title>{tip}</title>" in text
        assert f"{escaped(study.blocks[block])}: reliability" in text
    np.savez(study.records[0].folder.path / "posthoc" / "calibration.npz", of_several_labels=np.zeros(3))
    assert written(tmp_path / "runs").count("at confidence 0.500, 20 images") == 5


def test_names_of_numbers_keep_their_points():
    names = ("train.lambda_max", "random_rise_at_0.1")
    assert [findings.header_words(name) for name in names] == ["train lambda max", "random rise at 0.1"]


def test_pictures_beyond_the_room_are_left_out_and_counted(tmp_path, monkeypatch):
    grid_study(tmp_path / "runs", seeds=1)
    analysed(tmp_path / "runs")
    monkeypatch.setattr(gallery, "MOST_BYTES", 300_000)
    page = Reader(written(tmp_path / "runs"))
    shown = sum(tag == "img" for tag, _ in page.elements)
    assert 1 <= shown < 6
    assert f"{6 - shown} of 6 pictures are left out: together they may take 0.3 MB" in page.text


def test_damaged_analyses_are_told(tmp_path):
    grid_study(tmp_path / "runs", seeds=1)
    analysed(tmp_path / "runs")
    first = sorted(tmp_path.glob("runs/demo/*"))[0]
    (first / "posthoc" / "saliency.json").write_text("{")
    (sorted(tmp_path.glob("runs/demo/*"))[1] / "posthoc" / "saliency.png").write_bytes(b"no picture")
    page = Reader(written(tmp_path / "runs"))
    assert f"{first.name}: posthoc/saliency.json cannot be read; normhpc analyze writes it again" in page.text
    assert sum(tag == "img" for tag, _ in page.elements) == 4
