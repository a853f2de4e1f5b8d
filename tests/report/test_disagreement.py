"""The section on images that norms disagree on: counted, listed, shown, counted once more."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from report.pages import Reader, dom, edit_json, needs_chromium, written
from results.fabricate import keep_pictures, keep_predictions, sealed_run

from normhpc.report import disagreement
from normhpc.report.page import write_report
from normhpc.report.verify import verify_report

CLASSES = ["ant", "<b>bee</b>", "cat", "dog"]
LABELS = np.random.default_rng(0).integers(0, 4, 120)
IMAGES = np.random.default_rng(1).integers(0, 255, (120, 10, 8, 3)).astype(np.uint8)


def logits_of(norm: str, seed: int, labels=LABELS, outputs: int = 4) -> np.ndarray:
    own = np.random.default_rng(ord(norm[0])).normal(0, 1, (len(labels), outputs))
    noise = np.random.default_rng([ord(norm[0]), seed]).normal(0, 0.4, own.shape)
    if labels.ndim == 2:
        return own + noise + 3 * (labels - 0.5)
    return own + noise + 2 * np.eye(outputs)[labels]


def predicted_study(runs, *, labels=LABELS, pictures: bool = True, seeds: int = 2, classes=CLASSES, rates=(0.1,)):
    """Three norms; each run has its images in an order of its own, and pictures of its mistakes."""
    found = {}
    for rate in rates:
        for norm in ("batch", "layer", "instance"):
            for seed in range(seeds):
                config = {"norm": norm, "seed": seed, "optim": {"lr": rate}}
                swept = {"norm": norm, "optim.lr": rate}
                folder = sealed_run(runs, config, 0.9, swept=swept, classes=classes)
                order = np.random.default_rng(seed).permutation(len(labels))
                logits = logits_of(norm, seed, labels, len(classes))
                keep_predictions(folder, logits[order], labels[order], order)
                if pictures:
                    keep_pictures(folder, np.arange(len(labels)), IMAGES[: len(labels)])
                found[rate, norm, seed] = folder
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    runs = tmp_path_factory.mktemp("predicted") / "runs"
    predicted_study(runs)
    return runs, written(runs)


def disputed(first: str, second: str) -> list[int]:
    said = {norm: [logits_of(norm, seed).argmax(1) for seed in range(2)] for norm in (first, second)}
    wrong = np.all([own != LABELS for own in said[first]], axis=0)
    right = np.all([own == LABELS for own in said[second]], axis=0)
    return np.flatnonzero(wrong & right).tolist()


def test_counts_of_every_two_norms(study):
    page = Reader(study[1])
    rows = {row["wrong"][0]: row for row in page.tables["t-disagreement"]}
    assert list(rows) == ["batch", "layer", "instance"]
    for first, row in rows.items():
        said = [logits_of(first, seed).argmax(1) for seed in range(2)]
        assert (row["n"][1], row["consistent"][1]) == (2, pytest.approx(np.mean(said[0] == said[1]), rel=1e-12))
        for second in rows:
            count = len(disputed(first, second))
            expected = (f"{count} ({count / 120:.1%})", count, "") if first != second else ("-", None, "")
            assert row[f"right:{second}"] == expected
    for row in page.tables["t-shared-mistakes"]:
        for second in rows:
            wrong = [logits_of(norm, seed).argmax(1) != LABELS for norm in (row["wrong"][0], second) for seed in (0, 1)]
            assert row[f"wrong:{second}"][1] == np.all(wrong, axis=0).sum()


def test_every_listed_image_is_one_and_the_table_is_a_csv_file(study):
    page = Reader(study[1])
    rows = page.tables["t-disputed-images"]
    norms = ("batch", "layer", "instance")
    for first in norms:
        for second in norms:
            own = [row for row in rows if (row["norm_wrong"][0], row["norm_right"][0]) == (first, second)]
            expected = disputed(first, second) if first != second else []
            assert sorted(row["row"][1] for row in own) == expected
            assert 0 < len(own) < disagreement.MOST_ROWS or first == second
            confidences = [(-row["seeds_agreeing"][1], -row["confidence"][1]) for row in own]
            assert confidences == sorted(confidences)
            assert {row["true"][0] for row in own} <= set(CLASSES)
            assert all(row["seeds_wrong"][1] == row["seeds_right"][1] == 2 for row in own)
    (link,) = [given for tag, given in page.elements if given.get("download") == "disputed-images.csv"]
    lines = list(csv.DictReader(io.StringIO(base64.b64decode(link["href"].partition(",")[2]).decode())))
    assert [(line["row"], line["true"], float(line["confidence"])) for line in lines] == [
        (row["row"][0], row["true"][0], row["confidence"][1]) for row in rows
    ]


def shown(text: str) -> list[tuple[str, np.ndarray]]:
    """Words for those who cannot see, and the pixels, of each picture of the section."""
    section = text.partition('<section id="disagreement"')[2].partition("</section>")[0]
    found = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)"', section)
    return [(alt, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))) for data, alt in found]


def test_pictures_are_those_of_the_rows_of_the_norms_that_disagree_most(study):
    pictures = shown(study[1])
    rows = Reader(study[1]).tables["t-disputed-images"]
    ways = dict.fromkeys((row["norm_wrong"][0], row["norm_right"][0]) for row in rows)
    expected = [
        row
        for way in ways
        for row in [own for own in rows if (own["norm_wrong"][0], own["norm_right"][0]) == way][
            : disagreement.MOST_IMAGES
        ]
    ]
    assert len(pictures) == len(expected) > 20
    for (alt, pixels), row in zip(pictures, expected, strict=True):
        assert np.array_equal(pixels, IMAGES[int(row["row"][1])])
        assert alt.startswith(f"test image {row['row'][0]}: ")
    assert "&lt;b&gt;bee&lt;/b&gt;, taken for" in study[1]
    assert "<b>bee" not in study[1]


def test_pictures_that_are_all_there_need_no_note(study):
    assert "Pictures that are missing" not in study[1]


def test_pictures_are_few_and_what_is_not_kept_is_blank(tmp_path, monkeypatch):
    predicted_study(tmp_path / "runs", pictures=False)
    text = written(tmp_path / "runs")
    assert shown(text) == []
    assert text.count("<div>no picture</div>") > 20
    told = f"Pictures that are missing: normhpc analyze {tmp_path / 'runs'} --what misclassified keeps them, 1 MB a run"
    assert text.count(told) == 1
    monkeypatch.setattr(disagreement, "MOST_PICTURES", 5)
    assert written(tmp_path / "runs").count("<div>no picture</div>") == 5
    monkeypatch.setattr(disagreement, "MOST_ROWS", 2)
    monkeypatch.setattr(disagreement, "MOST_ROWS_OF_BLOCK", 7)
    text = written(tmp_path / "runs")
    ways = [(row["norm_wrong"][0], row["norm_right"][0]) for row in Reader(text).tables["t-disputed-images"]]
    assert [ways.count(way) for way in dict.fromkeys(ways)] == [2, 2, 2, 1]
    assert "The first 2 of each two norms, 7 in all" in text


def test_false_positives_and_negatives_are_named(tmp_path):
    labels = np.random.default_rng(3).integers(0, 2, (50, 4)).astype(np.uint8)
    predicted_study(tmp_path / "runs", labels=labels)
    text = written(tmp_path / "runs")
    rows = Reader(text).tables["t-disputed-images"]
    assert {row["predicted"][0] for row in rows} == {"false positive", "false negative"}
    for row in rows:
        image, label = int(row["row"][1]), CLASSES.index(row["true"][0])
        truth = bool(labels[image, label])
        first, second = (
            [logits_of(row[name][0], seed, labels)[image, label] >= 0 for seed in range(2)]
            for name in ("norm_wrong", "norm_right")
        )
        assert first == [not truth] * 2
        assert second == [truth] * 2
        assert row["predicted"][0] == ("false negative" if truth else "false positive")
    assert re.search(r"row \d+<br>(false positive: [^<]*|false negative: [^<]*)(<br>false negative: [^<]*)?<br>0", text)
    write_report([tmp_path / "runs"], tmp_path / "r.html")
    assert verify_report(tmp_path / "r.html", [tmp_path / "runs"]).differences == ()


def test_every_number_is_counted_a_second_time(study, tmp_path, monkeypatch):
    runs, text = study
    (tmp_path / "r.html").write_text(text)
    assert verify_report(tmp_path / "r.html", [runs]).differences == ()
    # a first count that is wrong is found by the second
    wrong = disagreement.compare

    def one_more(norms):
        found = wrong(norms)
        found.wrong_right[0, 1] += 1
        return found

    monkeypatch.setattr(disagreement, "compare", one_more)
    write_report([runs], tmp_path / "r.html")
    told, *_ = verify_report(tmp_path / "r.html", [runs]).differences
    count = len(disputed("batch", "layer"))
    assert told == (
        f"disagreement, row 1, right:layer: {count + 1} in the file, {count}.0 by a second count of the run folders"
    )


@pytest.mark.parametrize(
    ("table", "key"),
    [("disputed-images", "row"), ("disputed-images", "confidence"), ("shared-mistakes", "wrong:layer")],
)
def test_a_changed_cell_is_found(study, tmp_path, table, key):
    runs, text = study
    row = Reader(text).tables[f"t-{table}"][0]
    head, mark, rest = text.partition(f'id="t-{table}"')
    value = f'data-v="{row[key][1]!r}"' if key == "confidence" else f'data-v="{int(row[key][1])}"'
    (tmp_path / "r.html").write_text(head + mark + rest.replace(value, 'data-v="77.5"', 1))
    told = verify_report(tmp_path / "r.html", [runs]).differences
    assert any(line.startswith(f"{table}, row 1") and "77.5" in line for line in told)
    assert any("by a second count" in line for line in told)


def test_blocks_have_tables_of_their_own(tmp_path):
    predicted_study(tmp_path / "runs", rates=(0.1, 0.2), seeds=1)
    text = written(tmp_path / "runs")
    page = Reader(text)
    assert {"t-disagreement-1", "t-disagreement-2", "t-disputed-images-2"} <= page.tables.keys()
    assert page.tables["t-disagreement-1"][0]["consistent"] == ("-", None, "")
    told = "One seed alone shows what one network does, not what its norm does: batch; layer; instance."
    assert text.count(told) == 1


def test_what_cannot_be_compared_is_told(tmp_path):
    found = predicted_study(tmp_path / "runs", rates=(0.1, 0.2, 0.3))
    page = written(tmp_path / "runs")
    assert "have no predictions" not in page
    (found[0.1, "layer", 1].path / "posthoc" / "predictions.npz").unlink()
    keep_predictions(found[0.2, "layer", 1], logits_of("layer", 1)[:50], LABELS[:50])
    keep_predictions(found[0.3, "layer", 0], logits_of("layer", 0), LABELS, weights="checkpoint.pt")
    text = Reader(written(tmp_path / "runs")).text
    assert "1 of 6 finished runs have no predictions and are not in it; normhpc analyze" in text
    assert "got 50, 0 of them to other rows; compare runs on the same data" in text
    assert (
        "Predictions are of different weights, best.pt and checkpoint.pt: normhpc analyze --weights takes one" in text
    )
    (found[0.1, "layer", 0].path / "posthoc" / "predictions.npz").write_bytes(b"x")
    assert "expected logits (N, outputs), labels and rows of N images, got something else" in written(tmp_path / "runs")


def test_without_predictions_of_two_norms_there_is_no_such_section(tmp_path):
    folder = sealed_run(tmp_path / "runs", {"norm": "batch", "seed": 0}, swept={"norm": "batch"})
    sealed_run(tmp_path / "runs", {"norm": "layer", "seed": 0}, swept={"norm": "layer"})
    keep_predictions(folder, np.eye(4), [0, 1, 2, 3])
    assert "norms disagree" not in written(tmp_path / "runs")


def test_norms_that_never_disagree_are_counts_of_nothing(tmp_path):
    for norm in ("batch", "layer"):
        folder = sealed_run(tmp_path / "runs", {"norm": norm, "seed": 0}, swept={"norm": norm})
        keep_predictions(folder, np.eye(4), [0, 1, 2, 2])
    page = Reader(written(tmp_path / "runs"))
    assert [row["right:layer"][0] for row in page.tables["t-disagreement"]] == ["0", "-"]
    assert page.tables["t-shared-mistakes"][0]["wrong:layer"] == ("1 (25.0%)", 1, "")
    assert "t-disputed-images" not in page.tables
    # without names of classes, and with damaged ones
    edit_json(folder.summary, classes={"a": 1})
    written(tmp_path / "runs")


SIZES = """<script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll(".thumbs img")].map((image) => [image.naturalWidth, image.naturalHeight]);
  document.title = JSON.stringify(found);
});
</script></body>"""


@needs_chromium
def test_a_browser_shows_the_pictures(study, tmp_path):
    (tmp_path / "r.html").write_text(study[1])
    assert dom(tmp_path / "r.html")[1] == ""
    text = re.sub(r"<meta http-equiv=[^>]*>", "", study[1]).replace("</body>", SIZES)
    (tmp_path / "sizes.html").write_text(text)
    found, said = dom(tmp_path / "sizes.html")
    assert said == ""
    sizes = json.loads(re.search("<title>(.*?)</title>", found)[1])
    assert len(sizes) == len(shown(study[1]))
    assert {tuple(size) for size in sizes} == {(8, 10)}
