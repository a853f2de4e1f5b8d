import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import picture, save
from support.samples import sample
from support.scripts import REPOSITORY, script

from normhpc.errors import DataError, InputError
from normhpc.shards.read import open_shards

coco = script("data_prep/coco.py")

CATEGORIES = [{"id": 7, "name": "train"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
"""Not in the order of their ids."""

FILES = {5: "five.jpg", 2: "two.jpg", 11: "eleven.jpg", 8: "eight.jpg"}

LABELS = {2: (1, 0, 1), 5: (0, 1, 0), 8: (0, 0, 0), 11: (0, 0, 1)}
"""Of the images, in the order of the category ids."""


def annotation(number, image_id, category_id, **more):
    return {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": 0, "area": 1.5, **more}


def document():
    """Four images; a category twice in one, a crowd alone in another, one without annotations."""
    outline = [[1.0, 2.0, 3.0, 4.0]]
    return {
        "info": {},
        "images": [{"id": key, "file_name": name, "height": 9, "width": 9} for key, name in FILES.items()],
        "annotations": [
            annotation(100, 2, 7, segmentation=outline),
            annotation(101, 2, 1, segmentation=outline),
            annotation(102, 2, 7),
            annotation(103, 5, 3),
            annotation(104, 11, 7, iscrowd=1, segmentation={"counts": [1, 2], "size": [3, 1]}),
        ],
        "categories": CATEGORIES,
    }


@pytest.fixture
def small(tmp_path):
    """A folder with images of different sizes in ``train2017``, their annotations in ``instances.json``."""
    for image_id, name in FILES.items():
        save(
            picture(30 + image_id, 50 - image_id, "L" if image_id == 5 else "RGB", image_id),
            tmp_path / "train2017" / name,
        )
    (tmp_path / "instances.json").write_text(json.dumps(document()))
    return tmp_path


def convert(folder, *more, images=None, annotations=None, split="train2017", out="out"):
    """Run the script in this process; returns where the shards are."""
    places = ["--images", str(images or folder), "--annotations", str(annotations or folder / "instances.json")]
    assert coco.main([*places, "--split", split, "--out", str(folder / out), "--workers", "1", *more]) == 0
    return folder / out


SHARDS = ("train2017-00000.h5", "train2017-00001.h5")


def files_of(folder):
    """Content of all files in ``folder`` but its hidden ones, which are locks."""
    found = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def squashed(path, size):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def test_rows_are_the_annotated_images_by_id(small):
    shards = open_shards(convert(small, "--size", "16"), "train2017")
    assert shards.ids().tolist() == [2, 5, 11]
    assert shards.labels().tolist() == [list(LABELS[image_id]) for image_id in (2, 5, 11)]
    images, labels = shards[0:3]
    assert np.array_equal(labels, shards.labels())
    for row, image_id in enumerate((2, 5, 11)):
        assert np.array_equal(images[row], squashed(small / "train2017" / FILES[image_id], 16))


def test_the_index(small):
    index = open_shards(convert(small, "--size", "16", "--resize", "letterbox"), "train2017").index
    assert (index.dataset, index.split, index.encoding, index.rows) == ("coco", "train2017", "raw", 3)
    stored = json.loads((small / "out" / "train2017" / "index.json").read_text())
    assert stored["labels"] == {
        "kind": "multi",
        "classes": ["person", "car", "train"],
        "category_ids": [1, 3, 7],
        "positives": [1, 1, 2],
    }
    digest = hashlib.sha256((small / "instances.json").read_bytes()).hexdigest()
    expected = {"annotations_sha256": digest, "unannotated": "drop", "rows_seen": 4, "rows_dropped": 1}
    assert expected.items() <= stored["source"].items()
    done = stored["preprocessing"]
    assert (done["size"], done["resize"], done["filter"]) == (16, "letterbox", "bicubic")
    assert str(small) not in json.dumps(stored)


def test_images_without_annotations_are_told_or_kept(small, capsys):
    convert(small, "--size", "8")
    assert re.search(r"\b8\b.*no annotations", capsys.readouterr().err)
    shards = open_shards(convert(small, "--size", "8", "--unannotated", "keep", out="kept"), "train2017")
    assert shards.ids().tolist() == [2, 5, 8, 11]
    assert shards.labels().tolist() == [list(label) for label in LABELS.values()]
    assert "no annotations" not in capsys.readouterr().err


def test_images_are_found_with_or_without_the_folder_of_the_split(small):
    inside = files_of(convert(small, "--size", "8"))
    flat = files_of(convert(small, "--size", "8", images=small / "train2017", out="flat"))
    assert inside == flat


def test_the_stored_height_and_width_of_the_files(small):
    shards = open_shards(convert(small, "--size", "8"), "train2017")
    assert shards.extra("orig_size").tolist() == [[48, 32], [45, 35], [39, 41]]


def test_jpeg(small):
    shards = open_shards(convert(small, "--size", "24", "--encoding", "jpeg"), "train2017")
    assert shards.index.encoding == "jpeg"
    images, _ = shards[0:3]
    for row, image_id in enumerate((2, 5, 11)):
        raw = squashed(small / "train2017" / FILES[image_id], 24)
        assert np.asarray(images[row]).shape == (24, 24, 3)
        assert np.abs(np.asarray(images[row], np.float64) - raw).mean() < 4


def test_size_0_keeps_what_the_files_hold(small):
    shards = open_shards(convert(small, "--size", "0", "--encoding", "jpeg"), "train2017")
    for row, image_id in ((0, 2), (2, 11)):
        with Image.open(small / "train2017" / FILES[image_id]) as image:
            assert np.array_equal(shards[row][0], np.asarray(image))
    assert shards[1][0].shape == (45, 35, 3)


@pytest.mark.parametrize("more", [["--encoding", "raw"], ["--encoding", "jpeg"]])
def test_the_same_bytes_every_time(small, more):
    first = files_of(convert(small, "--size", "16", "--rows-per-shard", "2", *more))
    assert sorted(first) == [f"train2017/{name}" for name in ("index.json", "skipped.csv", *SHARDS)]
    for workers in ("1", "2"):
        again = convert(
            small, "--size", "16", "--rows-per-shard", "2", "--workers", workers, *more, out=f"again{workers}"
        )
        assert files_of(again) == first


def test_tasks_of_an_array_make_the_same_bytes(small):
    whole = files_of(convert(small, "--size", "8", "--rows-per-shard", "1"))
    for task in ("2/3", "3/3"):
        convert(small, "--size", "8", "--rows-per-shard", "1", "--task", task, out="parts")
    assert not (small / "parts" / "train2017" / "index.json").exists()
    assert files_of(convert(small, "--size", "8", "--rows-per-shard", "1", "--task", "1/3", out="parts")) == whole


def test_limit(small):
    shards = open_shards(convert(small, "--size", "8", "--limit", "2"), "train2017")
    assert shards.ids().tolist() == [2, 5]
    assert list(shards.index.labels.positives) == [1, 1, 1]


@pytest.mark.parametrize("fault", ["cut", "absent", "empty"])
def test_images_that_cannot_be_used_are_told_and_left_out(small, capsys, fault):
    file = small / "train2017" / FILES[5]
    content = file.read_bytes()
    if fault == "absent":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if fault == "cut" else b"")
    shards = open_shards(convert(small, "--size", "8"), "train2017")
    assert shards.ids().tolist() == [2, 11]
    assert shards.labels().tolist() == [list(LABELS[2]), list(LABELS[11])]
    reason = {
        "cut": r"not a whole image: (image file is truncated|Truncated)",
        "absent": "missing",
        "empty": "empty file",
    }[fault]
    assert re.search(rf"\b5\b.*{reason}", capsys.readouterr().err)


def refused(folder, **places):
    with pytest.raises(DataError) as caught:
        convert(folder, **places)
    assert not (folder / "out").exists()
    return str(caught.value)


def with_document(folder, change):
    changed = document()
    change(changed)
    (folder / "instances.json").write_text(json.dumps(changed))
    return refused(folder)


def test_annotation_of_an_image_that_is_not_listed(small):
    text = with_document(small, lambda new: new["annotations"].append(annotation(999, 6, 1)))
    assert text == (
        f"{small}/instances.json: annotations[5].image_id: expected an id of images, got 6 (annotation 999); "
        "take a whole file"
    )


def test_annotation_of_a_category_that_is_not_listed(small):
    text = with_document(small, lambda new: new["annotations"].append(annotation(999, 5, 12)))
    assert text == (
        f"{small}/instances.json: annotations[5].category_id: expected an id of categories, got 12 (annotation 999); "
        "take a whole file"
    )


@pytest.mark.parametrize(
    ("key", "entry", "place"),
    [
        (
            "images",
            {"id": 2, "file_name": "other.jpg"},
            "images[4].id: expected one entry for each, got 2 again, the one of images[1]",
        ),
        (
            "categories",
            {"id": 3, "name": "bus"},
            "categories[3].id: expected one entry for each, got 3 again, the one of categories[2]",
        ),
        (
            "categories",
            {"id": 9, "name": "car"},
            "categories[3].name: expected one entry for each, got 'car' again, the one of categories[2]",
        ),
    ],
)
def test_repeated_ids(small, key, entry, place):
    def change(new):
        new[key] = [*new[key], entry]

    assert with_document(small, change) == f"{small}/instances.json: {place}; take one of them out"


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_json_of_something_else(small, key):
    """COCO's captions have no categories, its lists of test images no annotations."""
    text = with_document(small, lambda new: new.pop(key))
    assert text == (
        f"{small}/instances.json: {key}: expected a list, got no such key; give one of COCO's files instances_*.json"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda new: new["images"][1].pop("file_name"), "images[1].file_name: expected a text, got no such key"),
        (lambda new: new["images"][1].update(id="2"), "images[1].id: expected a whole number, got a text"),
        (lambda new: new["images"][1].update(id=True), "images[1].id: expected a whole number, got a truth"),
        (lambda new: new["annotations"][0].update(category_id=None), "annotations[0].category_id: expected a whole number, got null"),
        (lambda new: new["annotations"].insert(0, [1]), "annotations[0]: expected an object, got a list"),
        (lambda new: new.update(images={}), "images: expected a list, got an object; give one of COCO's files instances_*.json"),
        (lambda new: new.update(images=[]), "images: expected at least one entry, got an empty list"),
    ],
)  # fmt: skip
def test_entries_of_another_kind(small, change, told):
    assert with_document(small, change) == f"{small}/instances.json: {told}"


def test_many_mistakes_are_told_in_part(small):
    text = with_document(small, lambda new: new["annotations"].extend(annotation(n, 99, 1) for n in range(30)))
    lines = text.splitlines()
    assert len(lines) == 11
    assert "(annotation 9)" in lines[9]
    assert lines[10] == f"{small}/instances.json: and 20 more"


def test_what_is_no_json_object(small):
    (small / "instances.json").write_text("[1, 2]")
    assert (
        refused(small) == f"{small}/instances.json: expected an object with categories, images, annotations, got a list"
    )


def test_a_file_that_is_cut_short_or_no_text(small):
    file = small / "instances.json"
    file.write_text('{"images": [')
    advice = "copy or download and unpack it again"
    where = "Expecting value: line 1 column 13 (char 12)"
    assert refused(small) == f"{file}: not a whole JSON document in its 12 bytes ({where}); {advice}"
    file.write_bytes(b"")
    where = "Expecting value: line 1 column 1 (char 0)"
    assert refused(small) == f"{file}: not a whole JSON document in its 0 bytes ({where}); {advice}"
    file.write_bytes(b"\x1f\x8b\x08\x00")  # as gzip files begin
    where = "'utf-8' codec can't decode byte 0x8b in position 1: invalid start byte"
    assert refused(small) == f"{file}: not a whole JSON document in its 4 bytes ({where}); {advice}"


def test_folders_and_files_that_are_not_there(small):
    for places, text in [
        (
            {"images": small / "none"},
            f"{small}/none: --images: there is no such folder; give the one that holds the images, or their folder train2017",
        ),
        (
            {"annotations": small / "none"},
            f"{small}/none: --annotations: cannot be read: No such file or directory; give one of COCO's files "
            "instances_*.json",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            convert(small, **places)
        assert str(caught.value) == text


def test_a_folder_without_any_of_the_images(small):
    (small / "wrong").mkdir()
    assert refused(small, images=small / "wrong") == (
        f"{small}/wrong: --images: expected two.jpg and the others that the annotations name, in it or in its folder "
        "train2017, got none of them; give the folder that holds them"
    )


def test_annotations_of_no_image(small):
    text = with_document(small, lambda new: new.update(annotations=[]))
    assert (
        text == f"{small}/instances.json: expected annotations of at least one image, got none; add --unannotated keep"
    )


def test_size_0_needs_jpeg(small):
    with pytest.raises(InputError) as caught:
        convert(small, "--size", "0")
    assert str(caught.value) == (
        "--size: expected pixels, got 0, which keeps the files' bytes; images of COCO differ in size: add --encoding jpeg"
    )


def test_the_command(small):
    command = [sys.executable, str(REPOSITORY / "data_prep" / "coco.py")]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--images", "--annotations", "--split", "--size", "--resize", "--encoding", "--unannotated"):
        assert option in helped
    for option in ("--workers", "--task", "--limit", "--rows-per-shard", "--out"):
        assert option in helped
    places = ["--images", str(small), "--annotations", str(small / "none.json"), "--split", "x"]
    answer = subprocess.run(
        [*command, *places, "--out", str(small / "out")], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    text = "cannot be read: No such file or directory; give one of COCO's files instances_*.json"
    assert answer.stderr == f"error: {small}/none.json: --annotations: {text}\n"


def test_no_torch_is_loaded():
    path = str(REPOSITORY / "data_prep" / "coco.py")
    code = f"import runpy, sys; runpy.run_path({path!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SPLITS = {"train2017": (27, 28, 53), "val2017": (25, 25, 56)}
"""Rows without and with images that have no annotations, and classes with an image, of the sample."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Both splits of the sample, with and without images that have no annotations."""
    folder = sample("coco")
    out = tmp_path_factory.mktemp("coco")
    for split in SPLITS:
        for mode in ("drop", "keep"):
            annotations = folder / "annotations" / f"instances_{split}.json"
            convert(
                out,
                "--size",
                "32",
                "--unannotated",
                mode,
                images=folder,
                annotations=annotations,
                split=split,
                out=mode,
            )
    return out


def names(shards, row):
    classes = shards.index.labels.classes
    return [classes[index] for index in shards.labels()[row].nonzero()[0]]


@pytest.mark.parametrize("split", SPLITS)
def test_labels_of_the_sample_are_those_of_pycocotools(stored, split, capsys):
    reader = pytest.importorskip("pycocotools.coco")
    theirs = reader.COCO(sample("coco") / "annotations" / f"instances_{split}.json")
    categories = theirs.loadCats(sorted(theirs.getCatIds()))
    for mode in ("drop", "keep"):
        shards = open_shards(stored / mode, split)
        images = sorted(theirs.imgToAnns if mode == "drop" else theirs.getImgIds())
        assert shards.ids().tolist() == images
        assert list(shards.index.labels.classes) == [category["name"] for category in categories]
        for row, image_id in enumerate(images):
            found = {entry["category_id"] for entry in theirs.loadAnns(theirs.getAnnIds(imgIds=[image_id]))}
            assert shards.labels()[row].tolist() == [int(category["id"] in found) for category in categories]


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_of_the_sample(stored, split):
    shards = open_shards(stored / "keep", split)
    for row, image_id in enumerate(shards.ids()):
        expected = squashed(sample("coco") / split / f"{image_id:012d}.jpg", 32)
        assert np.array_equal(shards[row][0], expected)


@pytest.mark.parametrize("split", SPLITS)
def test_counts_of_the_sample(stored, split):
    dropped, kept, classes = SPLITS[split]
    without, with_all = open_shards(stored / "drop", split), open_shards(stored / "keep", split)
    assert (len(without), len(with_all)) == (dropped, kept)
    assert len(without.index.labels.classes) == 80
    positives = list(without.index.labels.positives)
    assert positives == without.labels().sum(0).tolist()
    assert sum(count > 0 for count in positives) == classes


def test_facts_of_the_sample(stored):
    train, val = open_shards(stored / "keep", "train2017"), open_shards(stored / "keep", "val2017")
    assert names(train, train.ids().tolist().index(86)) == ["person", "motorcycle", "handbag"]
    assert names(val, val.ids().tolist().index(7888)) == ["clock"]
    assert names(train, train.ids().tolist().index(508)) == []
    missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(train.index.labels.extra["category_ids"]) == set(range(1, 91)) - missing
    assert 508 not in open_shards(stored / "drop", "train2017").ids()
    for shards, image_id in ((train, 86), (val, 7888)):
        pixels = shards[shards.ids().tolist().index(image_id)][0]
        assert (pixels[..., 0] == pixels[..., 1]).all()
        assert (pixels[..., 0] == pixels[..., 2]).all()


def test_the_grey_images_of_the_sample_are_grey():
    for place in ("train2017/000000000086.jpg", "val2017/000000007888.jpg"):
        with Image.open(Path(sample("coco")) / place) as image:
            assert image.mode == "L"


def test_what_is_written_passes_verification(small):
    out = convert(small, "--size", "16", "--rows-per-shard", "2")
    command = [sys.executable, "-m", "normhpc", "shards", "verify", str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    shard = out / "train2017" / SHARDS[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
