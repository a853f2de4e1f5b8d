"""Figures of what was measured inside trained networks: what is drawn, on records and results made for it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results.fabricate import keep_pictures, keep_predictions, sealed_run, summary_with
from scipy import stats
from support.pictures import picture, save
from support.scripts import script

from normhpc import data
from normhpc.config import RunConfig
from normhpc.posthoc.kept import Finding, keep
from normhpc.record import RunFolder
from normhpc.record.probes import Column, ProbeFile, ProbePlan

COLUMNS = (Column("a", "activation", "activation_variance"), Column("b", "activation", "activation_variance"))
COSINE = Column("a", "activation", "activation_cosine")


def norm_run(
    runs: Path, norm: str, seed: int = 0, *, train: float = 0.5, test: float = 0.9, digest: str = "d"
) -> RunFolder:
    final = summary_with(test)["final"] | {"train_top1": train}
    swept = {"norm": norm, "seed": seed}
    return sealed_run(runs, {"norm": norm, "seed": seed}, test, swept=swept, final=final, data_digest=digest)


def kept(folder: RunFolder, what: str, values: Mapping[str, Any], **arrays: np.ndarray) -> None:
    finding = Finding(method="", values=values, units={}, n={}, headline="", arrays=arrays)
    keep(folder, what, finding, {"weights": {}, "images_asked": None})


def curvature(eval_max: float | None, train_max: float, *, settled: bool = True) -> dict[str, Any]:
    modes = {"eval": eval_max, "train": train_max}
    told = {
        mode: {
            "lambda_max": value,
            "lambda_max_times_squared_norm": value and 100 / value,
            "lambda_max_times_lr": None,
            "checks": {"settled": settled},
        }
        for mode, value in modes.items()
    }
    return told | {"modes_differ": eval_max != train_max}


def test_hessian_vs_generalisation(tmp_path: Path, drawn) -> None:
    cells = [
        ("batch", 0, 9.0, 0.3, 0.95),
        ("batch", 1, 8.0, 0.5, 0.97),
        ("layer", 0, 2.0, 2.0, 0.92),
        ("layer", 1, 3.0, 3.0, 0.9),
    ]
    for norm, seed, eval_max, train_max, train in cells:
        kept(norm_run(tmp_path / "runs", norm, seed, train=train), "hessian", curvature(eval_max, train_max))
    kept(norm_run(tmp_path / "runs", "none", train=0.99), "hessian", curvature(None, 1.0, settled=False))
    table = drawn("hessian_vs_generalisation", tmp_path / "runs")
    gaps = [0.05, 0.07, 0.02, 0.0]
    # no run has a learning rate of SGD's
    assert set(table["quantity"]) == {"lambda_max", "lambda_max_times_squared_norm"}
    scaled = table[(table["quantity"] == "lambda_max_times_squared_norm") & (table["mode"] == "eval")]
    assert scaled["value"].tolist() == pytest.approx([100 / 9, 100 / 8, 50, 100 / 3])
    assert scaled["rho"].tolist() == pytest.approx([-stats.spearmanr([9, 8, 2, 3], gaps).statistic] * 4)
    table = table[table["quantity"] == "lambda_max"]
    own = table[table["mode"] == "eval"]
    assert own["gap"].tolist() == pytest.approx(gaps, abs=1e-12)
    assert own["value"].tolist() == [9.0, 8.0, 2.0, 3.0]
    assert own["rho"].tolist() == pytest.approx([stats.spearmanr([9, 8, 2, 3], gaps).statistic] * 4)
    assert set(own["n"]) == {4}
    train = table[table["mode"] == "train"]
    assert train["n"].tolist() == [5] * 5
    assert train["rho"].tolist() == pytest.approx([stats.spearmanr([0.3, 0.5, 2, 3, 1], [*gaps, 0.09]).statistic] * 5)
    assert train["settled"].tolist() == [True, True, True, True, False]


def test_gap_of_a_loss(tmp_path: Path, drawn) -> None:
    kept(norm_run(tmp_path / "runs", "batch"), "hessian", curvature(2.0, 1.0))
    table = drawn("hessian_vs_generalisation", tmp_path / "runs", "--metric", "test_loss")
    assert table["gap"].tolist() == pytest.approx([0.1 - 0.5] * 4, abs=1e-12)


def test_learning_rates_of_sgd_have_the_limit_of_stability(tmp_path: Path, drawn) -> None:
    values = curvature(2.0, 1.0)
    for mode, value in (("eval", 1.9), ("train", 2.1)):
        values[mode]["lambda_max_times_lr"] = value
    kept(norm_run(tmp_path / "runs", "batch"), "hessian", values)
    table = drawn("hessian_vs_generalisation", tmp_path / "runs")
    assert table.loc[table["quantity"] == "lambda_max_times_lr", "value"].tolist() == [1.9, 2.1]


def errors(clean: float, blur: float, noise: float, other: dict[str, Any] | None = None) -> dict[str, Any]:
    """Values of the analysis corruption: errors at five severities around ``blur`` and ``noise``."""
    steps = np.linspace(-0.02, 0.02, 5)
    return {
        "clean_error": clean,
        "mean_corruption_error": (blur + noise) / 2,
        "in_mean": ["gaussian_noise", "defocus_blur"],
        "error_by_severity": {
            "gaussian_noise": (noise + steps).tolist(),
            "defocus_blur": (blur + steps).tolist(),
            "saturate": [0.9] * 5,
        },
        "test_batch_statistics": other,
    }


def test_corruption_robustness(tmp_path: Path, drawn) -> None:
    runs = tmp_path / "runs"
    kept(norm_run(runs, "batch", 0), "corruption", errors(0.1, 0.2, 0.4, errors(0.12, 0.2, 0.3)))
    kept(norm_run(runs, "batch", 1), "corruption", errors(0.1, 0.3, 0.6, errors(0.12, 0.2, 0.3)))
    kept(norm_run(runs, "layer", 0), "corruption", errors(0.2, 0.25, 0.5))
    kept(norm_run(runs, "layer", 1), "corruption", errors(0.2, 0.25, 0.25))
    kept(norm_run(runs, "layer", 2), "corruption", errors(0.2, 0.9, 0.9))
    table = drawn("corruption_robustness", runs)
    own = table.set_index(["norm", "predictor", "measure"])
    # the reference's mean errors are 0.25 and 0.5
    layer = own.loc[("layer", "usual", "mce")]
    each = [(0.25 / 0.25 + 0.5 / 0.5) / 2, (0.25 / 0.25 + 0.25 / 0.5) / 2]
    assert layer["mean"] == pytest.approx(np.mean(each))
    half = stats.t.ppf(0.975, 1) * np.std(each, ddof=1) / 2**0.5
    assert [layer["low"], layer["high"]] == pytest.approx([max(np.mean(each) - half, 0), np.mean(each) + half])
    assert layer[["n", "seeds", "left_out"]].tolist() == [2, "0 1", 1]
    assert layer["reference"] == "batch, running statistics, same seeds"
    relative = [(0.05 / 0.15 + 0.3 / 0.4) / 2, (0.05 / 0.15 + 0.05 / 0.4) / 2]
    assert own.loc[("layer", "usual", "relative_mce"), "mean"] == pytest.approx(np.mean(relative))
    assert own.loc[("layer", "usual", "gaussian_noise"), "mean"] == pytest.approx(0.75)
    assert own.loc[("batch", "usual", "mce"), "mean"] == pytest.approx(1)
    assert own.loc[("batch", "test_batch_statistics", "mce"), "mean"] == pytest.approx((0.2 / 0.25 + 0.3 / 0.5) / 2)
    assert ("layer", "test_batch_statistics", "mce") not in own.index
    assert "saturate" not in set(table["measure"])


def test_corruption_robustness_of_what_is_not_there(tmp_path: Path, refused) -> None:
    runs = tmp_path / "runs"
    for norm in ("batch", "layer"):
        kept(norm_run(runs, norm), "corruption", errors(0.1, 0.2, 0.4))
    assert refused("corruption_robustness", runs, "--metric", "fog") == (
        "--metric: expected a measure that these runs have, got fog; there are mce, relative_mce, mean_corruption_error, "
        "gaussian_noise, defocus_blur"
    )
    assert refused("corruption_robustness", runs, "--only", "norm.name=layer").endswith(
        "got mce; there are none: no analysed runs of batch with the same seeds"
    )


def test_results_of_an_older_version_are_told(tmp_path: Path, refused) -> None:
    runs = tmp_path / "runs"
    old = norm_run(runs, "batch")
    kept(old, "corruption", {"mean_corruption_error": 0.4, "clean_error": 0.1, "error_by_severity": {}})
    assert refused("corruption_robustness", runs) == (
        f"{old.path}/posthoc/corruption.json: expected in_mean, test_batch_statistics in a result of the analysis corruption, "
        f"got one of an older version without; normhpc analyze {old.path.parent} --what corruption --again makes them anew"
    )
    rows = np.arange(3)
    kept(old, "saliency", {}, rows=rows, right=rows > 0, srg_retention=rows / 2, maps=np.zeros((3, 8, 8)))
    assert refused("explainability_grid", runs) == (
        f"{old.path}/posthoc/saliency.npz: expected labels, classes, counted, zero in a result of the analysis saliency, got "
        f"one of an older version without; normhpc analyze {old.path.parent} --what saliency --again makes them anew"
    )
    kept(old, "hessian", {"eval": {}})
    assert refused("hessian_vs_generalisation", runs).startswith(
        f"{old.path}/posthoc/hessian.json: expected modes_differ, train in a result of the analysis hessian, got one of an"
    )


def test_errors_on_different_images_are_not_compared(tmp_path: Path, refused) -> None:
    runs = tmp_path / "runs"
    for norm, images in (("batch", 64), ("layer", 128)):
        folder = norm_run(runs, norm)
        finding = Finding("", errors(0.1, 0.2, 0.4), units={}, n={"test_images": images}, headline="")
        keep(folder, "corruption", finding, {"weights": {}, "images_asked": images})
    assert refused("corruption_robustness", runs) == (
        "expected results of the analysis corruption over the same images, got some over 64 and 128; "
        f"normhpc analyze {folder.path.parent} --what corruption with one --images makes them alike"
    )


def test_without_an_analysis(tmp_path: Path, refused) -> None:
    folder = norm_run(tmp_path / "runs", "batch")
    for name, what in (("hessian_vs_generalisation", "hessian"), ("explainability_grid", "saliency")):
        assert refused(name, tmp_path / "runs") == (
            f"no run in {tmp_path / 'runs'} has posthoc/{what}.json; "
            f"normhpc analyze {tmp_path / 'runs'} --what {what} makes it"
        )
    (folder.path / "posthoc").mkdir()
    damaged = folder.path / "posthoc" / "hessian.json"
    damaged.write_text("{")
    assert refused("hessian_vs_generalisation", tmp_path / "runs") == (
        f"{damaged}: expected a result of the analysis hessian, got something else; "
        f"normhpc analyze {folder.path} --what hessian --again makes it anew"
    )


def saliency(
    folder: RunFolder,
    srg: list[float],
    rows: list[int],
    labels: list[int],
    right: list[bool],
    *,
    several: bool = False,
    maps: np.ndarray | None = None,
) -> None:
    """A wrong answer is the class after the label, of several labels the label that was not found."""
    count = len(rows)
    classes = [label if several or holds else (label + 1) % 10 for label, holds in zip(labels, right, strict=True)]
    counted = right if several else [True] * count
    maps = np.linspace(0, 1, count * 64).reshape(count, 8, 8).astype(np.float16) if maps is None else maps
    arrays = {"rows": np.array(rows), "maps": maps, "srg_retention": np.array(srg), "zero": np.arange(count) == 1}
    arrays |= {"labels": np.array(labels), "classes": np.array(classes), "counted": np.array(counted)}
    kept(folder, "saliency", {}, **arrays, right=np.array(right))


def t_interval(values: list[float], least: float) -> list[float]:
    """Mean, 95 % t interval cut to ``least`` and 1, and n."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return [np.mean(values), max(low, least), min(high, 1.0), len(values)]


def test_explainability_grid(tmp_path: Path, drawn) -> None:
    runs, images = tmp_path / "runs", data.load(RunConfig().data)
    labels = [int(images.test.labels[row]) for row in range(4)]
    yes, no = True, False
    saliency(norm_run(runs, "batch", 1), [0.9] * 3, [0, 1, 2], labels[:3], [no] * 3)
    saliency(norm_run(runs, "batch", 0), [0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3], labels, [no, yes, yes, yes])
    saliency(norm_run(runs, "layer", 2), [0.5, 0.6, 0.8], [1, 2, 3], labels[1:], [no, yes, yes])
    norm_run(runs, "none", 0)
    table = drawn("explainability_grid", runs)
    # the lowest seed of each, the images that both have
    cells = table[["norm", "seed", "row", "value", "right", "zero", "class"]].to_numpy().tolist()
    assert cells == [
        ["batch", 0, 1, 0.2, True, True, labels[1]],
        ["batch", 0, 2, 0.3, True, False, labels[2]],
        ["batch", 0, 3, 0.4, True, False, labels[3]],
        ["layer", 2, 1, 0.5, False, False, (labels[1] + 1) % 10],
        ["layer", 2, 2, 0.6, True, True, labels[2]],
        ["layer", 2, 3, 0.8, True, False, labels[3]],
    ]
    named = [images.classes[labels[row]] for row in (1, 2, 3, 1, 2, 3)]
    assert table["label"].astype(str).tolist() == named
    # over the images of each, and over the two that both get right
    found = table.set_index("norm")[
        [f"{of}_{part}" for of in ("own", "common") for part in ("mean", "low", "high", "n")]
    ]
    batch = t_interval([0.1, 0.2, 0.3, 0.4], -1) + t_interval([0.3, 0.4], -1)
    layer = t_interval([0.5, 0.6, 0.8], -1) + t_interval([0.6, 0.8], -1)
    np.testing.assert_allclose(found.loc["batch"].to_numpy(), [batch] * 3)
    np.testing.assert_allclose(found.loc["layer"].to_numpy(), [layer] * 3)
    assert len(drawn("explainability_grid", runs, "--images", 1)) == 2


def test_explainability_grid_of_several_labels(tmp_path: Path, drawn) -> None:
    runs = tmp_path / "runs"
    several = {"name": "synthetic", "multi_label": True, "images": 40, "test_images": 12, "height": 8, "width": 8}
    for norm, seed, srg, right in (
        ("batch", 0, [0.1, 0.3, 0.5, 0.7], [True, True, True, True]),
        ("layer", 0, [0.2, 0.4, 0.6, 0.8], [True, True, False, True]),
    ):
        config = {"norm": norm, "seed": seed, "data": several, "loss": "bce"}
        folder = sealed_run(runs, config, 0.5, swept={"norm": norm}, data_digest="d")
        saliency(folder, srg, [0, 0, 1, 2], [3, 5, 4, 0], right, several=True)
    table = drawn("explainability_grid", runs)
    first = table[table["norm"] == "batch"]
    assert first[["row", "class", "value"]].to_numpy().tolist() == [[0, 3, 0.1], [0, 5, 0.3], [1, 4, 0.5], [2, 0, 0.7]]
    # labels of an image are averaged first; of layer norm the label that was not found does not count
    means = table.groupby("norm")[["own_mean", "own_n", "common_mean", "common_n"]].first()
    np.testing.assert_allclose(means.loc["batch"], [np.mean([0.2, 0.5, 0.7]), 3, np.mean([0.2, 0.7]), 2])
    np.testing.assert_allclose(means.loc["layer"], [np.mean([0.3, 0.8]), 2, np.mean([0.3, 0.8]), 2])


@pytest.fixture
def photographs(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Boxes of three photographs of 80 x 40 pixels, and the data of runs on shards of them."""
    boxes = {(2, 7): [[0, 0, 40, 40]], (2, 9): [[0, 0, 20, 10], [40, 0, 20, 10]], (5, 9): [[60, 30, 20, 10]]}
    boxes[6, 7] = [[0, 0, 0.01, 0.01]]
    entries = [(*which, box) for which, several in boxes.items() for box in several]
    document = {
        "images": [{"id": image, "file_name": f"{image}.png"} for image in (2, 5, 6)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box}
            for number, (image, category, box) in enumerate(entries)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    for image in (2, 5, 6):
        save(picture(80, 40, "RGB", image), tmp_path / "photographs" / f"{image}.png")
    given = ["--images", str(tmp_path / "photographs"), "--annotations", str(tmp_path / "boxes.json"), "--size", "8"]
    for split in ("train", "test"):
        script("data_prep/coco.py").main([*given, "--split", split, "--out", str(tmp_path / "sh"), "--workers", "1"])
    data = {"name": "shards", "dataset": "coco", "path": str(tmp_path / "sh"), "height": 8, "width": 8}
    return tmp_path / "boxes.json", data | {"num_classes": 2, "multi_label": True}


def test_pointing_game(tmp_path: Path, photographs: tuple[Path, dict[str, Any]], drawn) -> None:
    boxes, several = photographs
    first = np.zeros((4, 8, 8))
    first[0, 3, 2] = 1.0  # of the cat's half
    first[1] = np.linspace(0, 1, 64).reshape(8, 8)  # highest in the corner below, where no box of the dog is
    first[2, 6:, 6:] = 1.0  # the box itself
    for norm, maps, right in (("batch", first, [True] * 4), ("layer", first * 0, [True, False, True, True])):
        folder = sealed_run(
            tmp_path / "runs",
            {"norm": norm, "data": several, "loss": "bce"},
            0.5,
            swept={"norm": norm},
            data_digest="d",
        )
        saliency(folder, [0.5] * 4, [0, 0, 1, 2], [0, 1, 1, 0], right, several=True, maps=maps.astype(np.float16))
    table = drawn("pointing_game", tmp_path / "runs", "--boxes", boxes).set_index(["norm", "measure"])
    dog = first[1].astype(np.float16).astype(float)
    energy = (dog[:2, :2].sum() + dog[:2, 4:6].sum()) / dog.sum()
    # two labels of the first image are averaged; the last one's box holds no pixel
    means = {"pointing": [0.5, 1.0], "energy": [(1 + energy) / 2, 1.0], "chance": [(32 / 64 + 8 / 64) / 2, 4 / 64]}
    for measure, values in means.items():
        own = table.loc[("batch", measure)]
        np.testing.assert_allclose(own[["own_mean", "own_low", "own_high", "own_n"]].tolist(), t_interval(values, 0))
    # maps of nothing are as good as chance, over the labels that are found
    for measure in means:
        own = table.loc[("layer", measure)]
        np.testing.assert_allclose(own[["own_mean", "own_n"]].tolist(), [(32 / 64 + 4 / 64) / 2, 2])
    common = table.loc[("batch", "energy")][["common_mean", "common_n"]].tolist()
    np.testing.assert_allclose(common, [1.0, 2])


def test_pointing_game_without_boxes(tmp_path: Path, refused) -> None:
    saliency(norm_run(tmp_path / "runs", "batch"), [0.1], [0], [0], [True])
    text = "--boxes: expected COCO's instances_*.json of the test images of runs on shards, got "
    assert refused("pointing_game", tmp_path / "runs") == f"{text}no file"
    (tmp_path / "boxes.json").write_text("{}")
    message = refused("pointing_game", tmp_path / "runs", "--boxes", tmp_path / "boxes.json")
    assert message == f"{text}runs on other data"


def test_maps_of_different_images_are_not_put_together(tmp_path: Path, refused) -> None:
    saliency(norm_run(tmp_path / "runs", "batch"), [0.1], [0], [0], [True])
    saliency(norm_run(tmp_path / "runs", "layer", digest="other"), [0.1], [0], [0], [True])
    assert refused("explainability_grid", tmp_path / "runs") == (
        "expected 1 to 40 analysed networks on one set of images, got 2 networks on 2 sets of images; "
        "choose with --only FIELD=VALUE"
    )
    message = refused("explainability_grid", tmp_path / "runs", "--only", "norm.name=batch", "--metric", "maps")
    assert message == "--metric: expected a number of each image, srg_retention for instance, got maps"


def answering(folder: RunFolder, labels: list[int], said: list[int]) -> None:
    keep_predictions(folder, 4 * np.eye(4)[said], labels)


def test_disagreement_grid(tmp_path: Path, drawn) -> None:
    runs, labels = tmp_path / "runs", [0, 1, 2, 3, 0]
    batch = [norm_run(runs, "batch", seed) for seed in (0, 1)]
    layer = [norm_run(runs, "layer", seed) for seed in (0, 1)]
    answering(batch[0], labels, [0, 1, 2, 0, 1])
    answering(batch[1], labels, [0, 1, 2, 3, 1])
    answering(layer[0], labels, [1, 1, 3, 3, 0])
    answering(layer[1], labels, [2, 1, 3, 3, 0])
    norm_run(runs, "none", 0)
    keep_pictures(layer[1], [2], np.full((1, 8, 8, 3), 99, np.uint8))
    table = drawn("disagreement_grid", runs)
    sure = np.exp(4) / (np.exp(4) + 3)
    found = table.drop(columns=["panel", "confidence"]).to_numpy().tolist()
    assert found == [
        ["batch", "layer", 4, 0, 1, 2, 2, 2],
        ["layer", "batch", 2, 2, 3, 2, 2, 2],
        ["layer", "batch", 0, 0, 1, 1, 2, 2],
    ]
    assert table["confidence"].tolist() == pytest.approx([sure] * 3, rel=1e-6)
    assert set(table["panel"]) == {"digits, convnet"}
    drawn("disagreement_grid", runs, "--rows", 1, "--images", 1)


def test_disagreement_grid_of_several_labels(tmp_path: Path, drawn) -> None:
    for norm, logits in (("batch", [[1, -1], [1, 1]]), ("layer", [[-1, -1], [1, -1]])):
        keep_predictions(norm_run(tmp_path / "runs", norm), logits, np.array([[0, 0], [1, 1]], np.uint8))
    table = drawn("disagreement_grid", tmp_path / "runs")
    assert table[["norm_wrong", "row", "true", "predicted"]].to_numpy().tolist() == [
        ["batch", 0, 0, "false positive"],
        ["layer", 1, 1, "false negative"],
    ]


def test_without_disagreement(tmp_path: Path, refused) -> None:
    for norm in ("batch", "layer"):
        folder = norm_run(tmp_path / "runs", norm)
        told = refused("disagreement_grid", tmp_path / "runs") if norm == "batch" else ""
        assert told.endswith(f"normhpc analyze {tmp_path / 'runs'} --what predictions makes it" if told else "")
        answering(folder, [0, 1], [0, 0])
    assert refused("disagreement_grid", tmp_path / "runs") == (
        "no image that all seeds of one norm get wrong and all of another right: nothing to draw"
    )


def probed(folder: RunFolder, rows: list[list[float]], features: list[list[float]]) -> None:
    """Every second of six steps, three an epoch."""
    file = ProbeFile(folder.probes, ProbePlan(2, 3, 2, (0.2, 0.5, 0.8)), {"run_id": folder.path.name})
    columns = (*COLUMNS, COSINE)
    file.write_rows(0, columns, np.array(rows, np.float32), np.full(len(rows), 4, np.int32))
    for epoch, values in enumerate(features, 1):
        file.write_features(epoch, np.array(values), columns)


def test_feature_evolution(tmp_path: Path, drawn) -> None:
    runs = tmp_path / "runs"
    probed(norm_run(runs, "batch", 0), [[1, 2, 0.1], [3, 4, 0.2], [5, 6, 0.3]], [[0, 1, 2], [0, 2, 4]])
    probed(norm_run(runs, "batch", 1), [[3, 4, 0.1], [5, 6, 0.2], [7, 8, 0.3]], [[2, 3, 4], [2, 4, 6]])
    probed(norm_run(runs, "none", 0), [[1, 1000, 0.9], [1, np.nan, 0.9]], [[0, 10, 500]])
    table = drawn("feature_evolution", runs)
    layers = table[table["layer"].notna()]
    assert set(layers["measure"]) == {"activation_variance"}
    batch = layers[layers["column"] == "batch"].pivot(index="layer", columns="step", values="mean")
    assert batch.columns.tolist() == [0, 2, 4]
    assert batch.to_numpy().tolist() == [[2, 4, 6], [3, 5, 7]]
    assert set(layers.loc[layers["column"] == "batch", "n"]) == {2}
    without = layers[layers["column"] == "none"].set_index(["layer", "step"])["mean"]
    assert without["b", 0] == 1000
    assert np.isnan(without["b", 2])
    features = table[table["layer"].isna() & (table["column"] == "batch")]
    wide = features.pivot(index="epoch", columns="measure", values="mean")
    assert wide.columns.tolist() == ["quantile_0.2", "quantile_0.5", "quantile_0.8"]
    assert wide.to_numpy().tolist() == [[1, 2, 3], [1, 3, 5]]
    other = drawn("feature_evolution", runs, "--metric", "activation_cosine", "--only", "norm.name=none")
    assert other.loc[other["layer"].notna(), "mean"].tolist() == pytest.approx([0.9, 0.9])


def test_titles_of_many_columns_do_not_meet(tmp_path: Path, drawn) -> None:
    for epochs in (10, 20, 30, 40, 50):
        config = {"norm": "batch", "epochs": epochs, "optim": {"weight_decay": 0.001 * epochs}}
        swept = {"epochs": epochs, "optim.weight_decay": 0.001 * epochs}
        probed(sealed_run(tmp_path / "runs", config, swept=swept), [[1, 2, 0.1], [3, 4, 0.2]], [[0, 1, 2], [0, 2, 4]])
    table = drawn("feature_evolution", tmp_path / "runs")
    assert table["column"].nunique() == 5
    assert table["column"].iloc[0] == "batch\ndigits, convnet, epochs=10, optim.weight_decay=0.01"


def test_feature_evolution_without_probes(tmp_path: Path, refused) -> None:
    folder = norm_run(tmp_path / "runs", "batch")
    assert refused("feature_evolution", tmp_path / "runs") == (
        f"no run in {tmp_path / 'runs'} has probes.h5; normhpc sweep sweeps/probes.yaml makes such runs, as does any "
        "sweep with --set 'probes={name: layers, every_steps: 10, feature_quantiles: [0.01, 0.2, 0.8, 0.99]}'"
    )
    probed(folder, [[1, 2, 0.1]], [[0, 1, 2]])
    assert refused("feature_evolution", tmp_path / "runs", "--metric", "activation_cosin") == (
        "--metric: no probe 'activation_cosin', did you mean 'activation_cosine'? there are activation_variance, "
        "activation_cosine"
    )
