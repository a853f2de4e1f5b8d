"""Predictions: the bits of the run's own evaluation, for images that come as a CSV file or as a folder."""

import csv
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.launches import fingerprint, normhpc
from support.sharded import config, make_shards
from support.trainings import TINY, new_run, train_on_ranks, trained, weights

from normhpc import data as image_data
from normhpc import models
from normhpc.data import ImageSplit
from normhpc.files import read_json, replace_json
from normhpc.posthoc import parts
from normhpc.record import RunFolder
from normhpc.train import evaluate as evaluation
from normhpc.train import run
from normhpc.train.checkpoint import save_checkpoint
from normhpc.train.setup import build_batches, build_state
from normhpc.train.single_label import SingleLabel
from normhpc.train.world import World

KEPT = {"checkpoint": {"keep_best": True}}
COLOURS = {**TINY, "data": {**TINY["data"], "channels": 3}}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("digits") / "run", {"epochs": 8, "batch_size": 64})


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("colours") / "run", COLOURS, KEPT)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_images(folder: RunFolder) -> ImageSplit:
    return image_data.load(folder.read_run().config.data).test


test_images.__test__ = False  # type: ignore[attr-defined]


def write_csv(file: Path, split: ImageSplit) -> None:
    """Rows of C*H*W values, channel by channel."""
    planar = split.images.permute(0, 3, 1, 2).flatten(1)
    np.savetxt(file, planar.numpy(), fmt="%d", delimiter=",")


def read_table(file: str = "predictions.csv") -> list[dict[str, str]]:
    with Path(file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def probabilities(rows: list[dict[str, str]]) -> np.ndarray:
    names = [name for name in rows[0] if name.startswith("p_")]
    return np.array([[float(row[name]) for name in names] for row in rows])


def evaluated(folder: RunFolder, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Probabilities (N, classes) of the test images, from the very logits that the run's evaluation sees."""
    config, alone = folder.read_run().config, World(0, 1, torch.device("cpu"))
    images = image_data.load(config.data)
    model = models.build(config)
    model.load_state_dict(state)
    seen: list[torch.Tensor] = []

    def note(_: SingleLabel, __: int, logits: torch.Tensor, ___: torch.Tensor) -> None:
        seen.append(logits)

    with monkeypatch.context() as patched:
        patched.setattr(SingleLabel, "put", note)
        evaluation.evaluate(model, build_batches(config, images, images.test, alone, train=False), config, alone)
    return torch.cat(seen).softmax(dim=1).numpy()


def in_float64(folder: RunFolder, state: dict[str, torch.Tensor]) -> np.ndarray:
    """The same from pixels alone: (p - mean) / std with the statistics of the training images, all in float64."""
    config = folder.read_run().config
    images = image_data.load(config.data)
    model = models.build(config).double().eval()
    model.load_state_dict(state)
    train, test = (split.images.double().numpy() / 255 for split in (images.train, images.test))
    normalized = (test - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2))
    with torch.no_grad():
        return model(torch.from_numpy(normalized).permute(0, 3, 1, 2)).softmax(dim=1).numpy()


def test_csv_of_the_test_images_gives_the_recorded_metrics_and_the_bits_of_the_evaluation(
    digits: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = test_images(digits)
    write_csv(Path("images.csv"), split)
    answer = normhpc("predict", digits.path, "--images", "images.csv", "--probabilities")
    told = f"360 images with the weights of {digits.checkpoint}: predictions.csv\n"
    assert answer == (0, "", told)
    rows = read_table()
    assert list(rows[0]) == ["row", "label", "class", *(f"p_{digit}" for digit in range(10))]
    assert [row["row"] for row in rows] == [str(row) for row in range(360)]
    assert all(row["class"] == row["label"] for row in rows)
    final = read_json(digits.summary)["final"]
    right = sum(int(row["label"]) == label for row, label in zip(rows, split.labels.tolist(), strict=True))
    assert right / 360 == final["test_top1"]
    found = probabilities(rows)
    assert np.array_equal(found.astype(np.float32), evaluated(digits, weights(digits), monkeypatch))
    np.testing.assert_allclose(found, in_float64(digits, weights(digits)), rtol=1e-4)
    of_labels = found[np.arange(360), split.labels.numpy()]
    assert -np.log(of_labels).mean() == pytest.approx(final["test_loss"], rel=1e-5)


def test_averaged_weights_and_the_normalization_of_the_run_are_used(tmp_path: Path) -> None:
    data = {**TINY["data"], "normalize": "half"}
    folder = trained(tmp_path / "run", TINY, {"data": data, "optim": {"ema_decay": 0.9}})
    split = test_images(folder)
    write_csv(Path("images.csv"), split)
    assert normhpc("predict", folder.path, "--images", "images.csv", "--probabilities").code == 0
    of_labels = probabilities(read_table())[np.arange(len(split)), split.labels.numpy()]
    assert -np.log(of_labels).mean() == pytest.approx(read_json(folder.summary)["final"]["test_loss"], rel=1e-5)


def test_statistics_of_the_training_images_are_in_the_summary(digits: RunFolder) -> None:
    images = image_data.load(digits.read_run().config.data)
    pixels = images.train.images.double().numpy() / 255
    summary = read_json(digits.summary)
    assert summary["pixel_mean"] == pytest.approx([pixels.mean()], rel=1e-12)
    assert summary["pixel_std"] == pytest.approx([pixels.std()], rel=1e-12)
    assert summary["classes"] == list("0123456789")


def test_the_images_of_the_run_are_not_needed(
    digits: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_csv(Path("images.csv"), test_images(digits))
    normhpc("predict", digits.path, "--images", "images.csv", "--out", "with.csv")
    monkeypatch.setattr(image_data, "load", None)
    assert normhpc("predict", digits.path, "--images", "images.csv", "--out", "without.csv").code == 0
    assert Path("with.csv").read_text() == Path("without.csv").read_text()


def test_a_run_that_is_not_sealed_takes_the_statistics_from_its_images(digits: RunFolder, tmp_path: Path) -> None:
    write_csv(Path("images.csv"), test_images(digits))
    open_run = RunFolder(Path(shutil.copytree(digits.path, tmp_path / "open")))
    open_run.summary.unlink()
    normhpc("predict", digits.path, "--images", "images.csv", "--out", "sealed.csv", "--probabilities")
    normhpc("predict", open_run.path, "--images", "images.csv", "--out", "open.csv", "--probabilities")
    assert Path("open.csv").read_text() == Path("sealed.csv").read_text() != ""


def test_running_statistics_of_several_ranks_are_pooled_as_when_the_run_was_evaluated(tmp_path: Path) -> None:
    folder = new_run(tmp_path / "run", TINY)
    train_on_ranks(folder, 2)
    split = test_images(folder)
    write_csv(Path("images.csv"), split)
    assert normhpc("predict", folder.path, "--images", "images.csv", "--probabilities").code == 0
    of_labels = probabilities(read_table())[np.arange(len(split)), split.labels.numpy()]
    final = read_json(folder.summary)["final"]
    assert -np.log(of_labels).mean() == pytest.approx(final["test_loss"], rel=1e-6)


def test_folder_of_images_by_name(colours: RunFolder) -> None:
    split = test_images(colours)
    write_csv(Path("images.csv"), split)
    folder = Path("images")
    folder.mkdir()
    names = [f"{9 - row % 10}{row}.PNG" if row % 2 else f"{9 - row % 10}{row}.png" for row in range(len(split))]
    for name, image in zip(names, split.images.numpy(), strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    normhpc("predict", colours.path, "--images", "images.csv", "--out", "csv.csv", "--probabilities")
    assert normhpc("predict", colours.path, "--images", "images", "--out", "folder.csv", "--probabilities").code == 0
    by_name = {row.pop("file"): row for row in read_table("folder.csv")}
    assert list(by_name) == sorted(names)
    for name, row in zip(names, read_table("csv.csv"), strict=True):
        assert row.pop("row") is not None
        # another order in the block may round otherwise
        assert by_name[name]["label"] == row["label"]
        assert float(by_name[name]["p_0"]) == pytest.approx(float(row["p_0"]), rel=1e-4)


def test_grey_jpeg_files(digits: RunFolder) -> None:
    Path("images").mkdir()
    Image.fromarray(test_images(digits).images[0, :, :, 0].numpy()).save("images/one.jpeg", quality=100)
    assert normhpc("predict", digits.path, "--images", "images").code == 0
    assert [row["file"] for row in read_table()] == ["one.jpeg"]


def test_best_weights_if_kept_else_the_last(colours: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(Path("images.csv"), test_images(colours))
    found = {}
    for which in ("best", "last"):
        normhpc("predict", colours.path, "--images", "images.csv", "--probabilities", "--weights", which)
        found[which] = probabilities(read_table()).astype(np.float32)
    states = {"best": torch.load(colours.best, weights_only=True), "last": weights(colours)}
    for which, state in states.items():
        assert np.array_equal(found[which], evaluated(colours, state, monkeypatch))
    normhpc("predict", colours.path, "--images", "images.csv", "--probabilities")
    assert np.array_equal(probabilities(read_table()).astype(np.float32), found["best"])


def test_batch_size_changes_nothing_but_rounding(digits: RunFolder) -> None:
    write_csv(Path("images.csv"), test_images(digits))
    tables = []
    for size in (500, 7):
        normhpc("predict", digits.path, "--images", "images.csv", "--probabilities", "--batch-size", size)
        tables.append(read_table())
    assert [row["label"] for row in tables[0]] == [row["label"] for row in tables[1]]
    np.testing.assert_allclose(probabilities(tables[0]), probabilities(tables[1]), rtol=1e-4)


def test_several_labels_are_those_of_at_least_a_half(tmp_path: Path) -> None:
    data = {**TINY["data"], "multi_label": True}
    folder = new_run(tmp_path / "run", TINY, {"data": data, "loss": "bce"})
    info, alone = folder.read_run(), World(0, 1, torch.device("cpu"))
    state = build_state(info.config, alone)
    with torch.no_grad():
        *_, weight, bias = state.model.parameters()
        weight.zero_()
        bias.copy_(torch.tensor([2.0, -2.0, 0.5, 0.0, 3.0, -1e-3, 1e-8]))
    save_checkpoint(folder, info.run_id, "d1", state, alone)
    classes = ["cat", "dog", "car, red", "tree", "sea", "sky", "man"]
    replace_json(
        folder.summary, {"state": "finished", "pixel_mean": [0.5] * 2, "pixel_std": [0.25] * 2, "classes": classes}
    )
    Path("images.csv").write_text(",".join(["7"] * 128) + "\n")
    assert normhpc("predict", folder.path, "--images", "images.csv", "--probabilities").code == 0
    (row,) = read_table()
    assert (row["label"], row["class"]) == ("0;2;3;4;6", "cat;car, red;tree;sea;man")
    assert float(row["p_car, red"]) == pytest.approx(1 / (1 + math.exp(-0.5)), rel=1e-6)


def test_numbers_may_have_a_fraction_of_zero_a_mark_and_windows_line_ends(digits: RunFolder) -> None:
    Path("plain.csv").write_text(",".join(["7"] * 64) + "\n" + ",".join(["255"] * 64) + "\n")
    odd = [b"\xef\xbb\xbf" + b",".join([b"7.0"] * 64), b",".join([b" 255.0"] * 64)]
    Path("odd.csv").write_bytes(b"\r\n".join(odd))
    for name in ("plain", "odd"):
        normhpc("predict", digits.path, "--images", f"{name}.csv", "--out", f"{name}.out", "--probabilities")
    assert Path("plain.out").read_text() == Path("odd.out").read_text()
    assert len(read_table("plain.out")) == 2


ROW = ",".join(["0"] * 64)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            f"{ROW}\n{ROW[:-2]}\n",
            ["images.csv:2: expected 64 values, the 1 x 8 x 8 of an image channel by channel, got 63"],
        ),
        (f"{ROW}\n\n", ["images.csv:2: expected 64 values, the 1 x 8 x 8 of an image channel by channel, got 0"]),
        ("x" + ROW[1:], ["images.csv:1: value 1: expected a whole number from 0 to 255, got 'x'"]),
        (
            f"{ROW[:-1]}256\n{ROW[:-1]}-1\n{ROW[:-1]}0.5\n{ROW[:-1]}nan\n{ROW[:-1]}1_0\n{ROW[:-1]}",
            [
                f"images.csv:{line}: value 64: expected a whole number from 0 to 255, got {given!r}"
                for line, given in enumerate(["256", "-1", "0.5", "nan", "1_0", ""], start=1)
            ],
        ),
        ("", ["error: images.csv: expected a row for each image, got an empty file"]),
        (
            "\0\1\2",
            ["error: images.csv: --images: not a CSV file, a folder of images or a split of shards"],
        ),
    ],
)
def test_csv_files_that_are_none(digits: RunFolder, content: str, told: list[str]) -> None:
    Path("images.csv").write_text(content)
    answer = normhpc("predict", digits.path, "--images", "images.csv")
    assert (answer.code, answer.out, answer.err.splitlines()) == (2, "", told)
    assert not Path("predictions.csv").exists()


def test_only_the_first_mistakes_are_told(digits: RunFolder) -> None:
    Path("images.csv").write_text("0\n" * 100)
    assert len(normhpc("predict", digits.path, "--images", "images.csv").err.splitlines()) == 20


def test_folders_that_hold_no_images_of_the_run(digits: RunFolder) -> None:
    folder = Path("images")
    folder.mkdir()
    call = ("predict", digits.path, "--images", "images")
    none = "error: images: expected PNG or JPEG images (.jpeg, .jpg, .png) in it, got none\n"
    assert normhpc(*call) == (2, "", none)
    Image.new("L", (9, 8)).save(folder / "a.png")
    Image.new("RGB", (8, 8)).save(folder / "b.png")
    (folder / "c.png").write_text("no image")
    Image.fromarray(test_images(digits).images[0, :, :, 0].numpy()).save(folder / "d.png")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:60])
    answer = normhpc(*call)
    wanted = "expected an image of 8 x 8 pixels (height x width), grey as the run's"
    lines = answer.err.splitlines()
    assert (answer.code, answer.out) == (2, "")
    assert lines[:3] == [
        f"error: images/a.png: {wanted}, got 8 x 9, grey; convert it first",
        f"error: images/b.png: {wanted}, got 8 x 8, RGB; convert it first",
        "error: images/c.png: cannot be read as an image: not PNG or JPEG; mend it or take it out of the folder",
    ]
    assert lines[3].startswith("error: images/d.png: cannot be read as an image: ")
    assert len(lines) == 4


def test_splits_of_shards_get_the_answers_of_the_evaluation(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", 30)
    make_shards(tmp_path / "shards", 11, "test", first=100)
    data = config(tmp_path / "shards", val_fraction=0.0)
    folder = new_run(tmp_path / "run", {"data": data, "epochs": 1, "batch_size": 10})
    summary = run(folder.path)
    call = ("predict", folder.path, "--images")
    answer = normhpc(*call, tmp_path / "shards" / "test")
    assert (answer.code, answer.out) == (0, "")
    rows = read_table()
    assert [row["id"] for row in rows] == [str(number) for number in range(100, 111)]
    right = sum(int(row["label"]) == number % 4 for number, row in enumerate(rows, start=100))
    assert right / 11 == pytest.approx(summary["final"]["test_top1"])
    several = normhpc(*call, tmp_path / "shards")
    both = ", ".join(str(tmp_path / "shards" / split) for split in ("test", "train"))
    assert several == (2, "", f"error: {tmp_path}/shards: --images: a folder of splits; give one of them: {both}\n")


def test_shards_that_come_in_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table as in one part: 1,100 images, of which a part may hold 500."""
    make_shards(tmp_path / "shards", 30, rows_per_shard=2000)
    make_shards(tmp_path / "shards", 1100, "test", rows_per_shard=2000)
    data = config(tmp_path / "shards", val_fraction=0.0)
    folder = new_run(tmp_path / "run", {"data": data, "epochs": 1, "batch_size": 10})
    run(folder.path)
    tables = []
    for most in (parts.PART_BYTES, 500 * 12 * 10 * 3):
        monkeypatch.setattr(parts, "PART_BYTES", most)
        answer = normhpc("predict", folder.path, "--images", tmp_path / "shards" / "test", "--probabilities")
        assert answer.code == 0
        tables.append(Path("predictions.csv").read_bytes())
    assert tables[0] == tables[1]
    assert len(read_table()) == 1100


def test_shards_of_other_images_are_refused(digits: RunFolder, tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", 3)
    answer = normhpc("predict", digits.path, "--images", tmp_path / "shards" / "train")
    assert answer.code == 2
    assert (
        "images of 3x12x10 (channels, height, width), but data.channels, data.height and data.width say 1x8x8"
        in answer.err
    )
    assert not Path("predictions.csv").exists()


def test_images_that_are_not_there(digits: RunFolder) -> None:
    answer = normhpc("predict", digits.path, "--images", "nowhere.csv")
    assert answer == (2, "", "error: nowhere.csv: --images: there is no such file or folder\n")


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("folder", "folder: --out: expected a file to write, this is a folder"),
        ("none/x.csv", "none: --out: there is no such folder to write into"),
        ("/proc/x.csv", "/proc: --out: cannot be written: No such file or directory; choose another place"),
    ],
)
def test_places_that_cannot_be_written(digits: RunFolder, out: str, told: str) -> None:
    Path("folder").mkdir()
    write_csv(Path("images.csv"), test_images(digits))
    answer = normhpc("predict", digits.path, "--images", "images.csv", "--out", out)
    assert answer == (2, "", f"error: {told}\n")


def test_a_run_without_weights(tmp_path: Path) -> None:
    folder = new_run(tmp_path / "run")
    Path("images.csv").write_text(ROW)
    call = ("predict", folder.path, "--images", "images.csv")
    told = "not there, the run is new and has no weights; train it: normhpc train"
    assert normhpc(*call) == (2, "", f"error: {folder.checkpoint}: {told} {folder.path}\n")
    told = "not there, the run keeps it only with checkpoint.keep_best; use --weights last"
    assert normhpc(*call, "--weights", "best") == (2, "", f"error: {folder.best}: {told}\n")


def test_weights_of_another_run_and_of_another_network(digits: RunFolder, colours: RunFolder, tmp_path: Path) -> None:
    Path("images.csv").write_text(ROW)
    folder = RunFolder(Path(shutil.copytree(digits.path, tmp_path / "run")))
    own, other = folder.read_run().run_id, colours.read_run().run_id
    call = ("predict", folder.path, "--images", "images.csv")
    shutil.copy(colours.checkpoint, folder.checkpoint)
    anew = f"delete {folder.path} and launch the sweep again"
    told = f"belongs to run {other}, but this folder is run {own}; move it back or {anew}"
    answer = normhpc(*call)
    assert (answer.code, answer.err) == (2, f"error: {folder.checkpoint}: {told}\n")
    shutil.copy(colours.best, folder.best)
    answer = normhpc(*call)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {folder.best}: weights of another network: ")
    assert answer.err.endswith(f"; put back the file that this run wrote, or {anew}\n")
    assert "expected 4x1x3x3, got 4x3x3x3" in answer.err
    folder.best.write_bytes(b"no weights")
    answer = normhpc(*call)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {folder.best}: damaged, cannot be read (")


def test_no_such_run() -> None:
    hint = "give its folder or the start of its id (normhpc collect --per-run)"
    answer = normhpc("predict", "nobody", "--images", "x.csv")
    assert answer == (2, "", f"error: nobody: no such run in runs/; {hint}\n")


def test_a_network_that_gives_no_numbers(colours: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(colours.path, tmp_path / "run")))
    state = torch.load(folder.best, weights_only=True)
    torch.save(
        {name: value * math.nan if value.is_floating_point() else value for name, value in state.items()}, folder.best
    )
    write_csv(Path("images.csv"), test_images(folder))
    answer = normhpc("predict", folder.path, "--images", "images.csv")
    told = "this network's outputs are not finite; choose others with --weights"
    assert answer == (2, "", f"error: {folder.best}: {told}\n")


def test_nothing_but_the_predictions_is_written(digits: RunFolder) -> None:
    Path("images.csv").write_text(ROW)
    before = fingerprint(digits.path)
    assert normhpc("predict", digits.path, "--images", "images.csv", "--out", "x.csv").code == 0
    assert fingerprint(digits.path) == before
    assert sorted(map(str, Path().iterdir())) == ["images.csv", "x.csv"]


MISTAKEN = """
import sys
from normhpc import cli
sys.argv = ["normhpc", "predict", sys.argv[1], "--images", "images.csv"]
try:
    cli.main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""


def test_mistakes_in_the_images_are_told_before_torch_is_loaded(digits: RunFolder) -> None:
    Path("images.csv").write_text("1,2,3\n")
    command = [sys.executable, "-c", MISTAKEN, str(digits.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "2 False\n"
