"""Boxes of COCO in the pixels of maps, against images of filled boxes that are resized as shards are."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.sharded import config, make_shards

from normhpc.config import RunConfig
from normhpc.errors import DataError, InputError
from normhpc.posthoc.boxes import covered, on_objects, read_boxes
from normhpc.shards.resize import WAYS, resized


def shards(**changes: object):
    data = {"name": "shards", "dataset": "coco", "path": "x", "height": 40, "width": 40, "num_classes": 4}
    return RunConfig.model_validate({"data": data | {"multi_label": True} | changes, "loss": "bce"}).data


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sides", [(120, 120), (160, 100), (90, 150)])
@pytest.mark.parametrize("box", [(20, 30, 47, 41), (40, 10, 31, 66)])
@pytest.mark.parametrize("crop", [None, 32])
def test_boxes_are_where_the_pixels_of_objects_are(way, sides, box, crop) -> None:
    image = Image.new("L", sides)
    left, top, width, height = box
    ImageDraw.Draw(image).rectangle((left, top, left + width - 1, top + height - 1), fill=255)
    stored = np.asarray(resized(image, 40, way, "bilinear"))
    if crop:
        stored = stored[4:36, 4:36]
    mask = covered([box], sides, {"size": 40, "resize": way}, shards(crop=crop), stored.shape)
    # lines through the middle of the object, where no corner is
    lines, columns = stored.max(axis=1) > 127.5, stored.max(axis=0) > 127.5
    assert np.array_equal(mask, lines[:, None] & columns)
    assert 0 < mask.sum() < mask.size / 2


def test_maps_of_another_size_than_the_images_and_several_boxes() -> None:
    boxes = [(0.0, 0.0, 20.0, 10.0), (60.0, 20.0, 20.0, 20.0)]
    mask = covered(boxes, (80, 40), {"size": 40, "resize": "squash"}, shards(), (4, 8))
    wanted = np.zeros((4, 8), bool)
    wanted[0, :2] = wanted[2:, 6:] = True
    assert np.array_equal(mask, wanted)


def annotated(path: Path, *entries: tuple[int, int, list[float]]) -> Path:
    found = [{"image_id": image, "category_id": category, "bbox": box} for image, category, box in entries]
    path.write_text(json.dumps({"annotations": found}))
    return path


def test_boxes_of_each_image_and_category(tmp_path: Path) -> None:
    file = annotated(tmp_path / "a.json", (5, 7, [1, 2, 3, 4]), (5, 8, [0, 0, 1, 1]), (5, 7, [5, 6, 7.5, 8]))
    assert read_boxes(file) == {(5, 7): [(1, 2, 3, 4), (5, 6, 7.5, 8)], (5, 8): [(0, 0, 1, 1)]}


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (None, InputError, "--boxes: cannot be read: No such file or directory"),
        ("{", DataError, "expected an object with annotations, got something else; give one of COCO's files inst"),
        ("[]", DataError, "expected an object with annotations, got something else; give one of COCO's files inst"),
        (
            '{"annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3]}]}',
            DataError,
            "annotations[0]: expected image_id, category_id and a bbox of four numbers, got something else; take a whole",
        ),
    ],
)
def test_files_without_boxes_are_told(tmp_path: Path, content, kind, text: str) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(kind) as caught:
        read_boxes(file)
    assert str(caught.value).startswith(f"{file}: {text}")


def test_shards_without_categories_are_told(tmp_path: Path) -> None:
    make_shards(tmp_path, 4, "test", multi=True)
    data = RunConfig.model_validate({"data": config(tmp_path, multi_label=True), "loss": "bce"}).data
    with pytest.raises(InputError) as caught:
        on_objects({}, data, {})
    assert str(caught.value) == (
        f"{tmp_path}/test: data: expected shards that data_prep/coco.py has made with a --size, got others; "
        "boxes have no place in them"
    )
