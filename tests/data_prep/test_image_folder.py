import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.pictures import picture, save
from support.scripts import REPOSITORY, script

from normhpc.errors import DataError, InputError
from normhpc.shards.read import open_shards

image_folder = script("data_prep/image_folder.py")

CLASSES = ("bee", "ant", "Cat")
"""Not in the order of their names."""


def fill(root, classes=CLASSES, each=2, width=20, height=12, seed=0):
    """``each`` images of each class in folders of ``root``."""
    for number, name in enumerate(classes):
        for image in range(each):
            save(picture(width, height, seed=seed + 10 * number + image), root / name / f"{image}.png")
    return root


def convert(root, *more, out="out"):
    """Run the script in this process; returns where the shards are."""
    place = root.parent / out
    assert image_folder.main(["--root", str(root), "--out", str(place), "--workers", "1", *more]) == 0
    return place


def files_of(folder):
    """Content of all files in ``folder`` but its hidden ones, which are locks."""
    found = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def ids(shards):
    return [name.decode() for name in shards.ids()]


def pixels_at(path, size):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def test_rows_are_the_images_by_path_and_classes_by_name(tmp_path):
    root = fill(tmp_path / "root")
    shards = open_shards(convert(root, "--size", "8"), "train")
    assert ids(shards) == ["Cat/0.png", "Cat/1.png", "ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"]
    assert shards.labels().tolist() == [0, 0, 1, 1, 2, 2]
    assert shards.index.labels.classes == ("Cat", "ant", "bee")
    assert shards.index.labels.positives == (2, 2, 2)
    for row, name in enumerate(ids(shards)):
        assert np.array_equal(shards[row][0], pixels_at(root / name, 8))
    assert shards.extra("orig_size").tolist() == [[12, 20]] * 6


def test_splits(tmp_path):
    root = fill(tmp_path / "root" / "train").parent
    fill(root / "val", CLASSES[:2], each=1, seed=100)
    out = convert(root, "--size", "8")
    assert sorted(path.name for path in out.iterdir()) == ["train", "val"]
    train, val = open_shards(out, "train"), open_shards(out, "val")
    assert train.index.labels.classes == val.index.labels.classes == ("Cat", "ant", "bee")
    assert ids(val) == ["val/ant/0.png", "val/bee/0.png"]
    assert val.labels().tolist() == [1, 2]
    assert np.array_equal(val[0][0], pixels_at(root / "val" / "ant" / "0.png", 8))


def test_a_class_called_train_beside_others(tmp_path):
    root = fill(tmp_path / "root", ("train", "bus"))
    with pytest.raises(DataError) as caught:
        convert(root, "--size", "8")
    assert str(caught.value) == (
        f"{root}: expected classes or the splits train, val, test, got both: train beside bus; "
        "move one kind elsewhere, or give --split NAME to take all folders for classes"
    )
    shards = open_shards(convert(root, "--size", "8", "--split", "vehicles"), "vehicles")
    assert shards.index.labels.classes == ("bus", "train")
    assert len(shards) == 4


def test_size_0_stores_images_of_one_size_as_they_are(tmp_path):
    root = fill(tmp_path / "root")
    shards = open_shards(convert(root, "--size", "0"), "train")
    assert shards.index.fields[0].shape == (12, 20, 3)
    assert np.array_equal(shards[4][0], np.asarray(picture(20, 12, seed=0)))


def test_size_0_refuses_images_of_several_sizes(tmp_path):
    root = fill(tmp_path / "root")
    save(picture(20, 13), root / "bee" / "0.png")
    with pytest.raises(DataError) as caught:
        convert(root, "--size", "0")
    assert f"{root}/bee/0.png: expected 12 x 20 pixels (height x width) like the first image, got 13 x 20; " in str(
        caught.value
    )
    assert not (tmp_path / "out" / "train" / "index.json").exists()


def test_size_0_takes_its_shape_from_the_first_image_that_is_one(tmp_path, capsys):
    root = fill(tmp_path / "root")
    (root / "Cat" / "0.png").write_bytes(b"not an image")
    shards = open_shards(convert(root, "--size", "0"), "train")
    assert shards.index.fields[0].shape == (12, 20, 3)
    assert ids(shards)[0] == "Cat/1.png"
    assert re.search(r"Cat/0\.png.*not an image", capsys.readouterr().err)


def test_size_0_without_any_image(tmp_path):
    root = fill(tmp_path / "root", ("ant",), each=1)
    (root / "ant" / "0.png").write_bytes(b"not an image")
    with pytest.raises(DataError) as caught:
        convert(root, "--size", "0")
    assert str(caught.value) == f"{root}: none of the images can be read; copy or download them again"


def test_size_0_of_several_sizes_as_jpeg(tmp_path):
    root = tmp_path / "root"
    first = save(picture(20, 12, seed=1), root / "ant" / "0.jpg")
    save(picture(30, 18, seed=2), root / "ant" / "1.jpg")
    shards = open_shards(convert(root, "--size", "0", "--encoding", "jpeg"), "train")
    assert shards.encoded(0) == first.read_bytes()
    assert shards[1][0].shape == (18, 30, 3)


def test_images_in_folders_of_a_class_and_files_that_are_none(tmp_path, capsys):
    root = fill(tmp_path / "root", ("ant",), each=1)
    save(picture(9, 9), root / "ant" / "deep" / "er" / "x.JPG")
    (root / "ant" / "notes.txt").write_text("notes")
    (root / "ant" / ".hidden.png").write_text("")
    (root / ".cache").mkdir()
    (root / "readme.md").write_text("beside the classes")
    shards = open_shards(convert(root, "--size", "8"), "train")
    assert ids(shards) == ["ant/0.png", "ant/deep/er/x.JPG"]
    told = capsys.readouterr().err
    assert re.search(r"ant/notes\.txt.*not an image by the ending of its name", told)
    assert "hidden" not in told
    stored = json.loads((tmp_path / "out" / "train" / "index.json").read_text())
    assert {"rows_seen": 3, "rows_dropped": 1}.items() <= stored["source"].items()


def test_names_in_any_script_and_none_that_is_no_text(tmp_path, capsys):
    root = fill(tmp_path / "root", ("été",), each=1)
    content = (root / "été" / "0.png").read_bytes()
    with open(os.fsencode(root / "été") + b"/\xff.png", "wb") as file:  # noqa: PTH123  (no path of text has this name)
        file.write(content)
    shards = open_shards(convert(root, "--size", "8"), "train")
    assert ids(shards) == ["été/0.png"]
    assert re.search(r"udcff.*a name that is not printable text", capsys.readouterr().err)


@pytest.mark.parametrize("more", [["--encoding", "raw"], ["--encoding", "jpeg"]])
def test_the_same_bytes_every_time(tmp_path, more):
    root = fill(tmp_path / "root", each=3)
    first = files_of(convert(root, "--size", "8", "--rows-per-shard", "4", *more))
    assert sorted(first) == [f"train/{name}" for name in ("index.json", *(f"train-0000{n}.h5" for n in range(3)))]
    assert (
        files_of(convert(root, "--size", "8", "--rows-per-shard", "4", "--workers", "2", *more, out="again")) == first
    )


def test_limit_and_name(tmp_path):
    root = fill(tmp_path / "root" / "train").parent
    fill(root / "test", seed=100)
    out = convert(root, "--size", "8", "--limit", "3", "--name", "insects")
    for split in ("train", "test"):
        shards = open_shards(out, split)
        assert shards.labels().tolist() == [0, 0, 1]
        assert shards.index.dataset == "insects"


def test_a_class_without_images(tmp_path):
    root = fill(tmp_path / "root")
    (root / "dog").mkdir()
    with pytest.raises(DataError) as caught:
        convert(root, "--size", "8")
    assert str(caught.value) == (
        f"{root}/dog: expected images (.bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp) of the class 'dog' in it, "
        "got none; add some or remove it"
    )


def test_a_folder_without_classes(tmp_path):
    save(picture(9, 9), tmp_path / "root" / "0.png")
    with pytest.raises(DataError) as caught:
        convert(tmp_path / "root", "--size", "8")
    assert str(caught.value) == (
        f"{tmp_path}/root: expected a folder for each class in it, got none; give the folder that holds them"
    )


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError) as caught:
        convert(tmp_path / "root", "--size", "8")
    assert str(caught.value) == (
        f"{tmp_path}/root: --root: there is no such folder; give the one that holds the folders of the classes, or of the "
        "splits"
    )


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    root = fill(tmp_path / "root")
    listed = os.scandir

    def scandir(place):
        if place == str(root / "bee"):
            raise PermissionError(13, "Permission denied", place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError) as caught:
        convert(root, "--size", "8")
    assert str(caught.value) == f"{root}/bee: cannot be read: Permission denied"


def test_the_command(tmp_path):
    command = [sys.executable, str(REPOSITORY / "data_prep" / "image_folder.py")]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--root", "--out", "--size", "--resize", "--workers", "--task", "--limit", "--rows-per-shard"):
        assert option in helped
    root = fill(tmp_path / "root")
    places = ["--root", str(root), "--out", str(tmp_path / "out")]
    answer = subprocess.run([*command, *places, "--size", "8"], capture_output=True, text=True, check=False)
    assert (answer.returncode, len(open_shards(tmp_path / "out", "train"))) == (0, 6)
    missing = subprocess.run([*command, *places], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "--size" in missing.stderr


def test_no_torch_is_loaded():
    path = str(REPOSITORY / "data_prep" / "image_folder.py")
    code = f"import runpy, sys; runpy.run_path({path!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
