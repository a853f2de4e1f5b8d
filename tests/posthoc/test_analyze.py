"""``normhpc analyze``: what it writes of trained runs, what it keeps, and what it says of slips."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.metrics import confusion_matrix, log_loss
from support.launches import normhpc
from support.sharded import BANDS, config, make_shards
from support.trainings import TINY, new_run, trained

from normhpc import data as image_data
from normhpc import models
from normhpc.data import order
from normhpc.errors import RecordError
from normhpc.files import read_json
from normhpc.posthoc import corruption, kept, mistakes, saliency, similarity
from normhpc.posthoc.analyze import ANALYSES, analyses_named
from normhpc.posthoc.kept import Finding, finite, weights_digest
from normhpc.posthoc.saliency import answers_to_explain
from normhpc.posthoc.subject import SEED
from normhpc.record import RunFolder
from normhpc.train.trained import load_trained

ALL = ",".join(ANALYSES)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on real images with all its analyses, of few images where a number is asked for."""
    changes = {"epochs": 6, "batch_size": 64, "data": {"name": "digits", "val_fraction": 0.1}}
    folder = trained(tmp_path_factory.mktemp("digits") / "run", changes)
    (folder.path / "state").write_bytes(folder.checkpoint.read_bytes())
    answer = normhpc("analyze", folder.path, "--what", ALL, "--images", 96, "--device", "cpu")
    assert (answer.code, answer.out) == (0, "")
    (folder.path / "told").write_text(answer.err)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def result(folder: RunFolder, what: str) -> dict:
    return read_json(folder.path / "posthoc" / f"{what}.json")


def arrays(folder: RunFolder, what: str) -> dict[str, np.ndarray]:
    with np.load(folder.path / "posthoc" / f"{what}.npz") as content:
        return dict(content)


def test_every_analysis_says_what_it_was_computed_with(digits: RunFolder) -> None:
    digest = weights_digest(digits.checkpoint).sha256
    for what in ANALYSES:
        found = result(digits, what)
        assert found["what"] == what
        assert found["run_id"] == digits.read_run().run_id
        assert found["weights"] == {"file": "checkpoint.pt", "sha256": digest}
        assert {"version", "commit", "dirty"} == found["code"].keys()
        assert (found["device"], found["torch"]) == ("cpu", torch.__version__)
        assert len(found["method"]) > 100
        assert found["n"]
        assert found["values"]
        assert all((digits.path / "posthoc" / name).is_file() for name in found["files"])
        sampled = {"misclassified", "saliency", "hessian", "loss_line", "corruption"}
        assert found["images_asked"] == (96 if what in sampled else None)
    written = {file.name for file in (digits.path / "posthoc").iterdir()}
    named = {name for what in ANALYSES for name in [f"{what}.json", *result(digits, what)["files"]]}
    assert written == named
    assert (digits.path / "state").read_bytes() == digits.checkpoint.read_bytes()


def test_a_line_is_told_of_each(digits: RunFolder) -> None:
    lines = (digits.path / "told").read_text().splitlines()
    assert [line.split(": ")[1] for line in lines] == list(ANALYSES)
    assert all(line.startswith(f"{digits.path}: ") for line in lines)


def test_lines_say_over_how_many_images(digits: RunFolder) -> None:
    told = dict(line.split(": ")[1:3] for line in (digits.path / "told").read_text().splitlines())
    assert "n = 360 test images" in told["predictions"]
    assert "n = 360 test images" in told["calibration"]
    assert "by Hutch++" in told["hessian"]
    assert "by Hutchinson" in told["hessian"]
    assert "over 5 random lines" in told["loss_line"]


def test_predictions_are_those_of_the_recorded_evaluation(digits: RunFolder) -> None:
    found, kept = result(digits, "predictions"), arrays(digits, "predictions")
    final = read_json(digits.summary)["final"]
    split = image_data.load(digits.read_run().config.data)
    assert np.array_equal(kept["labels"], split.test.labels.numpy())
    assert np.array_equal(kept["val_labels"], split.val.labels.numpy())
    assert kept["rows"].tolist() == list(range(360))
    assert found["values"]["test_top1"] == final["test_top1"] == found["values"]["recorded_test_top1"]
    assert found["values"]["test_loss"] == pytest.approx(final["test_loss"], rel=1e-6)
    network = load_trained(digits, digits.read_run(), digits.checkpoint, "cpu")
    wanted = torch.cat(list(network.logits(split.test.images.numpy()))).numpy()
    assert kept["logits"].dtype == np.float32
    assert np.array_equal(kept["logits"], wanted)
    assert (kept["logits"].argmax(axis=1) == kept["labels"]).mean() == final["test_top1"]


def test_mistakes_derive_from_the_predictions(digits: RunFolder) -> None:
    kept = arrays(digits, "predictions")
    shares = torch.from_numpy(kept["logits"]).double().softmax(dim=1).numpy()
    with (digits.path / "posthoc" / "misclassified.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    wrong = np.flatnonzero(kept["logits"].argmax(axis=1) != kept["labels"])
    assert sorted(int(row["row"]) for row in rows) == wrong.tolist()
    assert result(digits, "misclassified")["values"]["mistakes"] == len(wrong) > 3
    for row in rows:
        place = int(row["row"])
        assert row["true"] == str(kept["labels"][place])
        assert row["predicted"] == str(shares[place].argmax())
        assert float(row["confidence"]) == pytest.approx(shares[place].max(), rel=1e-8)
    confidence = [float(row["confidence"]) for row in rows]
    assert confidence == sorted(confidence, reverse=True)
    with Image.open(digits.path / "posthoc" / "misclassified.png") as picture:
        assert picture.size[0] == 8 * (128 + 4) + 4
        first = np.asarray(picture)[4 : 4 + 128 : 16, 4 : 4 + 128 : 16]
    pixels = image_data.load(digits.read_run().config.data).test.images.numpy()[int(rows[0]["row"])]
    assert np.array_equal(first, np.repeat(pixels, 3, axis=2))


def test_images_of_mistakes_are_kept_as_they_are_shown(digits: RunFolder) -> None:
    kept = arrays(digits, "misclassified")
    with (digits.path / "posthoc" / "misclassified.csv").open(newline="") as lines:
        rows = [int(row["row"]) for row in csv.DictReader(lines)]
    stored = image_data.load(digits.read_run().config.data).test.images.numpy()
    assert kept["rows"].tolist() == rows
    assert np.array_equal(kept["images"], np.repeat(stored[rows], 3, axis=3))
    assert "misclassified.npz" in result(digits, "misclassified")["files"]


def test_images_of_mistakes_that_are_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained(
        tmp_path / "run", TINY, {"data": {**TINY["data"], "test_images": 40, "multi_label": True}, "loss": "bce"}
    )
    monkeypatch.setattr(mistakes, "MOST_BYTES", 9 * 8 * 8 * 3 + 100)
    monkeypatch.setattr(mistakes, "_AT_ONCE", 4)
    assert normhpc("analyze", folder.path, "--what", "misclassified").code == 0
    with (folder.path / "posthoc" / "misclassified.csv").open(newline="") as lines:
        rows = list(dict.fromkeys(int(row["row"]) for row in csv.DictReader(lines)))
    kept = arrays(folder, "misclassified")
    assert len(rows) > 9
    assert kept["rows"].tolist() == rows[:9]
    assert kept["images"].shape == (9, 8, 8, 3)


def test_confusion_and_calibration_derive_from_the_predictions(digits: RunFolder) -> None:
    kept = arrays(digits, "predictions")
    shares = torch.from_numpy(kept["logits"]).double().softmax(dim=1).numpy()
    assert np.array_equal(
        result(digits, "confusion")["values"]["matrix"], confusion_matrix(kept["labels"], shares.argmax(axis=1))
    )
    values = result(digits, "calibration")["values"]
    assert values["nll"] == pytest.approx(log_loss(kept["labels"], shares), rel=1e-9)
    heat = values["temperature"]
    tempered = torch.from_numpy(kept["logits"] / heat).double().softmax(dim=1).numpy()
    assert values["tempered_nll"] == pytest.approx(log_loss(kept["labels"], tempered), rel=1e-5)
    assert values["ece_equal_width_floor_low"] < values["ece_equal_width_floor"] < values["ece_equal_width_floor_high"]


def test_similarity_is_that_of_the_features(digits: RunFolder) -> None:
    split = image_data.load(digits.read_run().config.data)
    network = load_trained(digits, digits.read_run(), digits.checkpoint, "cpu").model
    train, test = (part.images.double().numpy() / 255 for part in (split.train, split.test))
    images = torch.from_numpy((test - train.mean()) / train.std()).permute(0, 3, 1, 2)
    features = network.double().features(images).detach().numpy()
    labels = split.test.labels.numpy()
    means = np.stack([features[labels == number].mean(axis=0) for number in range(10)])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(10, 1)]
    assert result(digits, "similarity")["values"]["class_similarity"] == pytest.approx(cosines.mean(), rel=1e-4)
    assert result(digits, "similarity")["n"] == {"test_images": 360, "classes": 10, "features": 8}


def test_curvature_of_both_modes(digits: RunFolder) -> None:
    found = result(digits, "hessian")
    values = found["values"]
    # whole batches of the run's 64 images, so that both modes see the same ones
    assert found["n"]["train_images"] == values["train"]["batch_images"] == 64
    assert values["modes_differ"] is True
    assert values["eval"]["lambda_max"] != values["train"]["lambda_max"]
    for mode in ("eval", "train"):
        assert values[mode]["checks"]["order"] is True
        assert values[mode]["lambda_max"] == values[mode]["top"][0] > 0
        assert values[mode]["seed_trace"] != values[mode]["trace"] != values[mode]["trace_hutchinson"]
        # SGD at 0.1 with momentum 0.9, as by default
        assert values[mode]["lambda_max_times_lr"] == pytest.approx(values[mode]["lambda_max"] * 0.1 / 1.9)
        assert values[mode]["seed_trace_per_weight"] == values[mode]["seed_trace"] / found["n"]["weights"]
    assert len(arrays(digits, "hessian")["rows"]) == 64


def test_lines_of_loss_pass_through_the_loss(digits: RunFolder) -> None:
    values = result(digits, "loss_line")["values"]
    assert values["t"][10] == 0
    assert values["random"][10] == pytest.approx(values["loss"], rel=1e-12)
    assert values["gradient"][10] == values["loss"]
    lines = arrays(digits, "loss_line")["random"]
    assert lines.shape == (5, 21)
    assert np.all(lines[:, 10] == values["loss"])
    assert values["random"] == pytest.approx(lines.mean(axis=0).tolist())
    assert values["random_std"] == pytest.approx(lines.std(axis=0, ddof=1).tolist(), abs=1e-12)
    rises = (lines[:, 8] + lines[:, 12]) / 2 - values["loss"]
    assert values["random_rise_at_0.1"] == pytest.approx(rises.mean())
    assert values["random_rise_at_0.1_std"] == pytest.approx(rises.std(ddof=1)) != 0
    # downhill along the gradient, for a small step
    assert values["gradient"][11] < values["gradient"][9]


def test_corruptions_are_those_of_the_network(digits: RunFolder) -> None:
    values = result(digits, "corruption")["values"]
    kept = arrays(digits, "predictions")
    assert values["clean_error"] == (kept["logits"].argmax(axis=1) != kept["labels"])[:96].mean()
    for own in (values, values["test_batch_statistics"]):
        errors = np.array([own["error_by_severity"][name] for name in own["in_mean"]])
        assert errors.shape == (14, 5)
        assert set(own["error_by_severity"]) - set(own["in_mean"]) == {"speckle_noise", "gaussian_blur", "saturate"}
        assert own["mean_corruption_error"] == pytest.approx(errors.mean())
        assert own["relative_mean_corruption_error"] == pytest.approx(errors.mean() - own["clean_error"])


def test_statistics_of_test_batches_are_another_predictor(digits: RunFolder) -> None:
    found = result(digits, "corruption")
    # 96 images in batches of equal size, at most the 64 of training
    assert found["n"]["test_batch_images"] == 48
    network = load_trained(digits, digits.read_run(), digits.checkpoint, "cpu")
    split = image_data.load(digits.read_run().config.data).test
    rows = torch.from_numpy(order(96, SEED, epoch=0))
    network.model.train()
    logits = torch.cat(list(network.logits(split.images.numpy()[:96][rows], 48)))
    error = float((logits.argmax(1) != split.labels[:96][rows]).double().mean())
    assert found["values"]["test_batch_statistics"]["clean_error"] == error
    told = (digits.path / "told").read_text()
    assert "; with statistics of the test batch mean corruption error " in told
    assert "n = 96 test images" in told


def test_saliency_is_over_the_images_asked_for(digits: RunFolder) -> None:
    found, kept = result(digits, "saliency"), arrays(digits, "saliency")
    values, predictions = found["values"], arrays(digits, "predictions")
    assert kept["rows"].tolist() == list(range(96))
    assert np.array_equal(kept["classes"], predictions["logits"].argmax(axis=1)[:96])
    right = predictions["labels"][:96] == kept["classes"]
    assert np.array_equal(kept["right"], right)
    assert (found["n"]["images"], found["n"]["right"]) == (96, right.sum())
    assert values["srg_retention_right"] == pytest.approx(kept["srg_retention"][right].mean())
    assert values["temperature"] == result(digits, "calibration")["values"]["temperature"]
    assert values["layer"] == "output of layers.1"
    assert abs(values["srg_retention_random"]) < 0.1
    assert kept["maps"].shape == kept["true_maps"].shape == (96, 8, 8)
    areas = {name: np.trapezoid(kept[f"retention_{name}_first"], dx=1 / 16, axis=1) for name in ("least", "most")}
    np.testing.assert_allclose(kept["srg_retention"], areas["least"] - areas["most"], atol=1e-12)


def test_parts_of_pictures_are_told_with_their_words(digits: RunFolder) -> None:
    names = {"saliency": 24, "misclassified": min(96, result(digits, "misclassified")["values"]["mistakes"])}
    for what, count in names.items():
        tiles = result(digits, what)["tiles"][f"{what}.png"]
        assert len(tiles) == count
        with Image.open(digits.path / "posthoc" / f"{what}.png") as picture:
            assert all(0 < tile["box"][2] <= picture.width and 0 < tile["box"][3] <= picture.height for tile in tiles)
    kept = arrays(digits, "saliency")
    for number, tile in enumerate(result(digits, "saliency")["tiles"]["saliency.png"]):
        row, said, label = (kept[name][number] for name in ("rows", "classes", "labels"))
        assert tile["words"] == [f"test {row}", f"predicted: {said}", f"true: {label}"]
        left, top, right, bottom = tile["box"]
        # an image and two maps of 128 pixels with 4 between them
        assert (right - left, bottom - top) == (3 * 128 + 2 * 4, 128)
    assert "tiles" not in result(digits, "confusion")


@pytest.mark.parametrize(
    "name", ["srg_retention", "srg_retention_random", "srg_retention_fresh", "insertion_blur", "sensitivity_max"]
)
def test_numbers_of_saliency_have_intervals_over_images(digits: RunFolder, name: str) -> None:
    found, kept = result(digits, "saliency"), arrays(digits, "saliency")
    each = kept[name][~kept["zero"]] if name == "sensitivity_max" else kept[name]
    assert found["n"]["images_of_sensitivity_max"] == (~kept["zero"]).sum()
    interval = stats.t.interval(0.95, len(each) - 1, each.mean(), stats.sem(each))
    told = [found["values"][f"{name}{end}"] for end in ("", "_low", "_high")]
    np.testing.assert_allclose(told, [each.mean(), *interval], rtol=1e-9)
    if name == "srg_retention":
        line = next(line for line in (digits.path / "told").read_text().splitlines() if ": saliency: " in line)
        assert f"srg_retention {told[0]:.4f} [{told[1]:.4f}, {told[2]:.4f}] (random order " in line
        assert "over 96 images" in line


def test_results_of_the_same_weights_are_kept(digits: RunFolder) -> None:
    files = sorted((digits.path / "posthoc").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    answer = normhpc("analyze", digits.path, "--what", "confusion,similarity,predictions")
    kept = "kept, of the same weights (--again computes it once more)"
    told = [f"{digits.path}: {what}: {kept}" for what in ("predictions", "confusion", "similarity")]
    assert (answer.code, answer.err.splitlines()) == (0, told)
    assert [file.stat().st_mtime_ns for file in files] == before


def copied(folder: RunFolder, place: Path) -> RunFolder:
    shutil.copytree(folder.path, place)
    return RunFolder(place)


def test_other_weights_another_number_of_images_a_lost_file_and_again_are_computed_anew(
    digits: RunFolder, tmp_path: Path
) -> None:
    folder = copied(digits, tmp_path / "copy")
    assert "kept" not in normhpc("analyze", folder.path, "--what", "misclassified", "--images", "2").err
    assert result(folder, "misclassified")["n"]["shown"] == 2
    (folder.path / "posthoc" / "confusion.png").unlink()
    (folder.path / "posthoc" / "similarity.json").write_text("{")
    answer = normhpc("analyze", folder.path, "--what", "confusion,similarity")
    assert (answer.code, "kept" in answer.err) == (0, False)
    assert (folder.path / "posthoc" / "confusion.png").is_file()
    assert "kept" not in normhpc("analyze", folder.path, "--what", "confusion", "--again").err
    # the network at its start, as the best weights
    torch.manual_seed(5)
    torch.save(models.build(folder.read_run().config).state_dict(), folder.best)
    assert normhpc("analyze", folder.path, "--what", "confusion", "--weights", "best").code == 0
    for what in ("confusion", "predictions"):  # which confusion is made from
        assert result(folder, what)["weights"]["file"] == "best.pt"
    assert "recorded_test_top1" not in result(folder, "predictions")["values"]
    assert result(folder, "predictions")["values"]["test_top1"] < 0.3


def test_images_of_several_labels(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", TINY, {"data": {**TINY["data"], "multi_label": True}, "loss": "bce"})
    answer = normhpc("analyze", folder.path, "--what", ALL, "--images", 12)
    assert answer.code == 0, answer.err
    kept = arrays(folder, "predictions")
    assert kept["labels"].shape == kept["logits"].shape == (12, 7)
    predicted, true = kept["logits"] >= 0, kept["labels"] == 1
    values = result(folder, "misclassified")["values"]
    assert values["false_positives"] == (predicted & ~true).sum()
    assert values["false_negatives"] == (~predicted & true).sum()
    matrices = np.array(result(folder, "confusion")["values"]["matrices"])
    assert matrices.shape == (7, 2, 2)
    assert matrices[:, 1, 1].sum() == (predicted & true).sum()
    assert result(folder, "predictions")["values"]["test_loss"] == pytest.approx(
        read_json(folder.summary)["final"]["test_loss"], rel=1e-6
    )
    # this network finds no label at all
    found = result(folder, "saliency")
    assert (found["n"]["maps"], found["n"]["right"], found["n"]["images"]) == (true.sum(), 0, 0)
    assert found["values"]["srg_retention"] is None
    assert "saliency: srg_retention - (random order -, fresh weights -) over 0 images" in answer.err


def test_each_label_of_an_image_has_a_map_and_those_found_are_judged(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", TINY, {"data": {**TINY["data"], "multi_label": True}, "loss": "bce"})
    state = models.build(folder.read_run().config).state_dict()
    torch.nn.init.normal_(state["head.weight"], generator=torch.Generator().manual_seed(0))
    state["head.weight"][3], state["head.bias"][3] = 0, -1  # never found, and no pixel speaks for it
    torch.save(state, folder.best)
    assert normhpc("analyze", folder.path, "--what", "saliency,predictions", "--images", 12).code == 0
    answers, maps = arrays(folder, "predictions"), arrays(folder, "saliency")
    predicted, true = answers["logits"] >= 0, answers["labels"] == 1
    assert np.array_equal(np.stack([maps["rows"], maps["classes"]], axis=1), np.argwhere(true))
    found = maps["right"]
    assert np.array_equal(found, predicted[true])
    assert 0 < found.sum() < len(found)
    assert maps["maps"].shape == (true.sum(), 8, 8)
    assert "true_maps" not in maps
    images = np.unique(maps["rows"][found])
    means = np.array([maps["srg_retention"][found & (maps["rows"] == row)].mean() for row in images])
    half = stats.t.ppf(0.975, len(images) - 1) * stats.sem(means)
    values, n = result(folder, "saliency")["values"], result(folder, "saliency")["n"]
    assert values["zero_maps"] == (maps["zero"] & found).sum()
    assert values["zero_maps_of_all_labels"] == maps["zero"].sum() > values["zero_maps"]
    told = [values[f"srg_retention{end}"] for end in ("", "_low", "_high")]
    assert told == pytest.approx([means.mean(), means.mean() - half, means.mean() + half])
    assert (n["test_images"], n["maps"], n["right"], n["images"]) == (12, true.sum(), found.sum(), len(images))


def test_images_without_any_label_have_no_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained(tmp_path / "run", TINY, {"data": {**TINY["data"], "multi_label": True}, "loss": "bce"})
    monkeypatch.setattr(saliency, "answers_to_explain", lambda logits, labels: answers_to_explain(logits, labels * 0))
    answer = normhpc("analyze", folder.path, "--what", "saliency", "--images", 5)
    text = "saliency: expected labels, got none on the first 5 test images; use more --images"
    assert (answer.code, answer.err) == (1, f"error: {folder.path}: {text}\n")


def test_a_transformer_without_val_images(tmp_path: Path) -> None:
    vit = {"name": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2, "mlp_width": 8, "image_size": None}
    data = {**TINY["data"], "val_fraction": 0.0}
    folder = trained(tmp_path / "run", TINY, {"model": vit, "norm": "layer", "data": data})
    answer = normhpc("analyze", folder.path, "--what", "saliency,hessian,calibration,corruption", "--images", 9)
    assert answer.code == 0, answer.err
    assert result(folder, "saliency")["values"]["layer"] == "input of blocks.1.attention"
    assert result(folder, "corruption")["values"]["test_batch_statistics"] is None
    assert result(folder, "hessian")["values"]["modes_differ"] is False
    assert result(folder, "hessian")["values"]["train"]["top"] == result(folder, "hessian")["values"]["eval"]["top"]
    assert result(folder, "calibration")["values"]["temperature"] is None
    assert "no val images to fit a temperature on" in answer.err


def test_a_finished_run_whose_weights_are_gone_is_not_sent_to_training(digits: RunFolder, tmp_path: Path) -> None:
    gone = copied(digits, tmp_path / "runs" / "gone")
    for file in (gone.checkpoint, gone.best):
        file.unlink(missing_ok=True)
    answer = normhpc("analyze", "gone", "--what", "hessian")
    path = gone.path.relative_to(tmp_path)
    assert (answer.code, answer.err) == (
        1,
        f"error: {path}/checkpoint.pt: not there, the run is finished and has no weights; put them back, or delete {path} and "
        "launch the sweep again\n",
    )


def test_a_diverged_run_has_no_weights_to_bring_back(digits: RunFolder, tmp_path: Path) -> None:
    diverged = copied(digits, tmp_path / "runs" / "diverged")
    for file in (diverged.checkpoint, diverged.best):
        file.unlink(missing_ok=True)
    summary = json.loads(diverged.summary.read_text())
    diverged.summary.write_text(json.dumps(summary | {"state": "diverged"}))
    answer = normhpc("analyze", "diverged", "--what", "hessian")
    text = "not there, the run is diverged and has no weights; leave it out"
    path = diverged.path.relative_to(tmp_path)
    assert (answer.code, answer.err) == (1, f"error: {path}/checkpoint.pt: {text}\n")


def test_runs_without_weights_are_told_and_the_others_done(digits: RunFolder, tmp_path: Path) -> None:
    sweep = tmp_path / "runs" / "some"
    sweep.mkdir(parents=True)
    new = new_run(sweep / "a_new")
    done = copied(digits, sweep / "b_done")
    shutil.rmtree(done.path / "posthoc")
    answer = normhpc("analyze", "some", "--what", "confusion")
    assert answer.code == 1
    first, second = answer.err.splitlines()
    path = new.path.relative_to(tmp_path)
    assert first == (
        f"error: {path}/checkpoint.pt: not there, the run is new and has no weights; train it: normhpc train {path}"
    )
    assert second.startswith(f"{done.path.relative_to(tmp_path)}: confusion: most often ")


def test_a_network_whose_outputs_are_not_finite_is_told(digits: RunFolder, tmp_path: Path) -> None:
    folder = copied(digits, tmp_path / "copy")
    state = models.build(folder.read_run().config).state_dict()
    state["head.bias"][3] = torch.nan
    torch.save(state, folder.best)
    answer = normhpc("analyze", folder.path, "--what", "confusion,similarity")
    assert answer.code == 1
    text = "this network's outputs are not finite; choose others with --weights"
    assert f"error: {folder.best}: {text}" in answer.err
    assert f"{folder.path}: similarity: " in answer.err


def test_other_images_than_the_run_s_are_told(digits: RunFolder, tmp_path: Path) -> None:
    folder = copied(digits, tmp_path / "copy")
    summary = read_json(folder.summary)
    folder.summary.write_text(json.dumps(summary | {"data_digest": "0" * 32}))
    answer = normhpc("analyze", folder.path, "--what", "similarity", "--again")
    assert answer.code == 1
    wanted = f"expected the images that the run was trained on (digest {'0' * 32}), got others (digest "
    assert f"error: {folder.path}: {wanted}{summary['data_digest']})" in answer.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--what hesian", "error: --what: no analysis 'hesian', did you mean 'hessian'? there are predictions, "),
        ("--what confusion,frog", "error: --what: no analysis 'frog', there are predictions, misclassified, "),
        ("--what ,", "error: --what: expected names out of predictions, misclassified, "),
        ("--what confusion --device gpu", "error: --device: expected cpu, cuda or cuda:NUMBER, got 'gpu'"),
        (
            "--what confusion --device cuda:99",
            "of this machine, got 'cuda:99'; use --device cpu",
        ),
        ("--what confusion --images 0", "Invalid value for '--images'"),
        ("nowhere --what confusion", "error: nowhere: no such run in runs/; give its folder or the start of its id"),
    ],
)
def test_slips_change_nothing(digits: RunFolder, arguments: str, text: str) -> None:
    answer = normhpc("analyze", digits.path, *arguments.split(), "--again")
    assert answer.code == 2
    assert text in " ".join(answer.err.split())
    assert result(digits, "confusion")["n"]["test_images"] == 360


def test_corruptions_of_more_than_8_bits_are_refused_before_the_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, rows in (("train", 30), ("test", 8)):
        make_shards(tmp_path / "shards", rows, split, fields=BANDS[:1])
    data = config(tmp_path / "shards", channels=2, width=12)
    folder = trained(tmp_path / "run", {"data": data, "epochs": 1, "batch_size": 9})
    monkeypatch.setattr(corruption, "in_memory", None)
    answer = normhpc("analyze", folder.path, "--what", "corruption", "--device", "cpu")
    assert answer == (
        1,
        "",
        f"error: {folder.path}: corruption: expected images of 8 bits, which the strengths of CIFAR-10-C are for, got images "
        "of more; leave corruption out of --what\n",
    )


def test_a_result_that_cannot_be_written_is_told(digits: RunFolder, tmp_path: Path) -> None:
    folder = copied(digits, tmp_path / "copy")
    shutil.rmtree(folder.path / "posthoc")
    (folder.path / "posthoc").write_text("in the way")
    answer = normhpc("analyze", folder.path, "--what", "similarity")
    assert answer.code == 1
    target = folder.path / "posthoc" / "similarity.json"
    told = f"error: {target}: cannot be written: File exists; move away {target.parent}\n"
    assert answer.err == told


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "No space left on device; make room"),
        (errno.EDQUOT, "Disk quota exceeded; make room"),
        (
            errno.EACCES,
            "Permission denied; it takes the right to write into PLACE; get it, or analyze a copy of the run",
        ),
        (
            errno.EROFS,
            "Read-only file system; it takes the right to write into PLACE; get it, or analyze a copy of the run",
        ),
        (errno.EIO, "Input/output error; mend that, or choose other runs"),
    ],
)
def test_what_keeps_a_result_from_being_written_is_told_with_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refuse(path: Path, value: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(kept, "replace_json", refuse)
    folder = RunFolder(tmp_path)
    with pytest.raises(RecordError) as caught:
        kept.keep(folder, "similarity", Finding("", {}, {}, {}, ""), {})
    target = tmp_path / "posthoc" / "similarity.json"
    assert str(caught.value) == f"{target}: cannot be written: {told.replace('PLACE', str(target.parent))}"


def test_a_damaged_checkpoint_is_told_once_with_what_helps_a_finished_run(digits: RunFolder, tmp_path: Path) -> None:
    folder = copied(digits, tmp_path / "copy")
    shutil.rmtree(folder.path / "posthoc")
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:-200])
    answer = normhpc("analyze", folder.path, "--what", "predictions,similarity,loss_line", "--weights", "last")
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith(f"error: {folder.checkpoint}: damaged, cannot be read (")
    cure = f"; put back the file that this run wrote, or delete {folder.path} and launch the sweep again"
    assert line.endswith(cure)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "CUDA out of memory. Tried",
            "not enough memory (CUDA out of memory. Tried); use fewer --images, or --device cpu",
        ),
        (
            "derivative for aten::x is not implemented\nmore",
            "torch cannot differentiate this network as often (derivative for aten::x is not implemented); leave it out",
        ),
    ],
)
def test_limits_of_the_machine_are_told_and_the_rest_is_done(
    digits: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, told: str
) -> None:
    folder = copied(digits, tmp_path / "copy")

    def fails(subject: object) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(similarity, "analyse", fails)
    answer = normhpc("analyze", folder.path, "--what", "similarity,loss_line", "--again", "--images", 64)
    assert answer.code == 1
    assert answer.err.splitlines()[0] == f"error: {folder.path}: similarity: {told}"
    assert ": loss_line: loss " in answer.err


def test_a_fault_of_the_program_keeps_its_traceback(digits: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(subject: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(similarity, "analyse", fails)
    with pytest.raises(RuntimeError, match="shapes differ"):
        normhpc("analyze", digits.path, "--what", "similarity", "--again")


def test_names_are_done_in_one_order_each_once() -> None:
    assert analyses_named("hessian, confusion,hessian,predictions") == ["predictions", "confusion", "hessian"]


def test_what_is_not_finite_is_null() -> None:
    given = {"a": float("nan"), "b": [np.float64(1.5), np.inf], "c": np.array([1, 2]), "d": np.bool_(True), 3: "x"}
    assert finite(given) == {"a": None, "b": [1.5, None], "c": [1, 2], "d": True, "3": "x"}
