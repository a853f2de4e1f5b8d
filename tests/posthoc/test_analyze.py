"""``normhpc analyze``: what it writes of trained runs, what it keeps, and what it says of slips."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss
from support.launches import normhpc
from support.trainings import TINY, new_run

from normhpc import data as image_data
from normhpc import models
from normhpc.files import read_json
from normhpc.posthoc import similarity
from normhpc.posthoc.analyze import ANALYSES, analyses_named
from normhpc.posthoc.kept import finite, weights_digest
from normhpc.record import RunFolder
from normhpc.train import run
from normhpc.train.trained import load_trained

ALL = ",".join(ANALYSES)


def trained(path: Path, *changes: dict) -> RunFolder:
    folder = new_run(path, *changes)
    run(folder.path)
    return folder


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
        assert values[mode]["seed_trace"] != values[mode]["trace"]
        assert values[mode]["seed_trace_per_weight"] == values[mode]["seed_trace"] / found["n"]["weights"]
    assert len(arrays(digits, "hessian")["rows"]) == 64


def test_lines_of_loss_pass_through_the_loss(digits: RunFolder) -> None:
    values = result(digits, "loss_line")["values"]
    assert values["t"][10] == 0
    assert values["random"][10] == values["gradient"][10] == values["loss"]
    # downhill along the gradient, for a small step
    assert values["gradient"][11] < values["gradient"][9]


def test_corruptions_are_those_of_the_network(digits: RunFolder) -> None:
    values = result(digits, "corruption")["values"]
    kept = arrays(digits, "predictions")
    assert values["clean_error"] == (kept["logits"].argmax(axis=1) != kept["labels"])[:96].mean()
    errors = np.array(list(values["error_by_severity"].values()))
    assert errors.shape == (4, 5)
    assert values["mean_corruption_error"] == pytest.approx(errors.mean())
    assert values["relative_mean_corruption_error"] == pytest.approx(errors.mean() - values["clean_error"])


def test_saliency_is_over_the_images_asked_for(digits: RunFolder) -> None:
    found, kept = result(digits, "saliency"), arrays(digits, "saliency")
    predictions = arrays(digits, "predictions")
    assert np.array_equal(kept["predicted"], predictions["logits"].argmax(axis=1)[:96])
    assert found["values"]["srg_retention"] == pytest.approx(kept["srg_retention"].mean())
    right = predictions["labels"][:96] == kept["predicted"]
    assert found["n"]["right"] == right.sum()
    assert found["values"]["srg_retention_right"] == pytest.approx(kept["srg_retention"][right].mean())
    assert found["values"]["temperature"] == result(digits, "calibration")["values"]["temperature"]
    assert found["values"]["layer"] == "output of layers.1"
    assert abs(found["values"]["srg_retention_random"]) < 0.1
    assert found["values"]["srg_retention_fresh"] == pytest.approx(kept["srg_retention_fresh"].mean())
    assert kept["maps"].shape == kept["true_maps"].shape == (96, 8, 8)


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


def test_a_transformer_without_val_images(tmp_path: Path) -> None:
    vit = {"name": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2, "mlp_width": 8, "image_size": None}
    data = {**TINY["data"], "val_fraction": 0.0}
    folder = trained(tmp_path / "run", TINY, {"model": vit, "norm": "layer", "data": data})
    answer = normhpc("analyze", folder.path, "--what", "saliency,hessian,calibration", "--images", 9)
    assert answer.code == 0, answer.err
    assert result(folder, "saliency")["values"]["layer"] == "input of blocks.1.attention"
    assert result(folder, "hessian")["values"]["modes_differ"] is False
    assert result(folder, "hessian")["values"]["train"]["top"] == result(folder, "hessian")["values"]["eval"]["top"]
    assert result(folder, "calibration")["values"]["temperature"] is None
    assert "no val images to fit a temperature on" in answer.err


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
    text = "this network's outputs are not finite; use other weights, or train it again"
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


def test_a_result_that_cannot_be_written_is_told(digits: RunFolder, tmp_path: Path) -> None:
    folder = copied(digits, tmp_path / "copy")
    shutil.rmtree(folder.path / "posthoc")
    (folder.path / "posthoc").write_text("in the way")
    answer = normhpc("analyze", folder.path, "--what", "similarity")
    assert answer.code == 1
    target = folder.path / "posthoc" / "similarity.json"
    assert answer.err == f"error: {target}: cannot be written: File exists; make room or choose other runs\n"


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
