"""Whether maps lie on the objects that they speak for: the boxes of COCO's annotations. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normhpc.config.data import Shards as ShardsConfig
from normhpc.errors import DataError, InputError, Problem
from normhpc.files import read_json
from normhpc.shards import Shards, open_shards
from normhpc.shards.resize import placed

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the original image."""


class OnObjects(NamedTuple):
    """Of each of P maps, how much of it is in the boxes of its label; NaN where no pixel of the image is."""

    pointing: NDArray[np.float64]
    """Whether the highest pixel is (Zhang et al. 2016, arXiv:1608.00507), of several equal ones the share that is."""
    energy: NDArray[np.float64]
    """Sum of the map in the boxes over its sum (Wang et al. 2020, arXiv:1910.01279)."""
    chance: NDArray[np.float64]
    """Share of the pixels: both numbers of a map that is the same everywhere, as which one of zeros counts."""


def read_boxes(path: Path) -> dict[tuple[int, int], list[Box]]:
    """The boxes of each image and category in COCO's file ``path`` (``instances_*.json``), crowds too.

    Raises :class:`~normhpc.errors.InputError` when it cannot be read, :class:`~normhpc.errors.DataError` for an entry
    without image, category or box.
    """
    found: dict[tuple[int, int], list[Box]] = {}
    try:
        content = read_json(path)
        entries = content["annotations"]
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", path="--boxes", file=str(path))) from None
    except (ValueError, KeyError, TypeError):
        text = "expected an object with annotations, got something else; give one of COCO's files instances_*.json"
        raise DataError(Problem(text, file=str(path))) from None
    for number, entry in enumerate(entries):
        try:
            left, top, width, height = map(float, entry["bbox"])
            found.setdefault((entry["image_id"], entry["category_id"]), []).append((left, top, width, height))
        except (KeyError, TypeError, ValueError):
            text = "expected image_id, category_id and a bbox of four numbers, got something else; take a whole file"
            raise DataError(Problem(text, path=f"annotations[{number}]", file=str(path))) from None
    return found


def on_objects(
    found: Mapping[str, NDArray[Any]], config: ShardsConfig, boxes: Mapping[tuple[int, int], Sequence[Box]]
) -> OnObjects:
    """Of the maps of a ``saliency.npz`` of test images as ``config`` has them: their labels against their ``boxes``.

    Raises :class:`~normhpc.errors.InputError` for shards that ``data_prep/coco.py`` has not made of images of one size.
    """
    with open_shards(str(config.path), config.test) as shards:
        categories, ids, sizes = _about(shards, config)
    kept: list[tuple[float, float, float]] = []
    for row, label, values in zip(found["rows"].tolist(), found["labels"].tolist(), found["maps"], strict=True):
        height, width = sizes[row].tolist()
        given = boxes.get((int(ids[row]), categories[label]), ())
        mask = covered(given, (width, height), shards.index.preprocessing, config, values.shape)
        kept.append(_measured(values.astype(np.float64), mask))
    return OnObjects(*np.array(kept, dtype=np.float64).reshape(-1, 3).T)


def _about(shards: Shards, config: ShardsConfig) -> tuple[list[int], NDArray[Any], NDArray[Any]]:
    """Category ids of the classes; of the rows the image ids, and heights and widths before they were resized."""
    categories = shards.index.labels.extra.get("category_ids")
    if categories is None or not shards.index.preprocessing.get("size"):
        text = "expected shards that data_prep/coco.py has made with a --size, got others; boxes have no place in them"
        raise InputError(Problem(text, path="data", file=f"{config.path}/{config.test}"))
    return list(categories), shards.ids(), shards.extra("orig_size")


def covered(
    boxes: Sequence[Box],
    original: tuple[int, int],
    preprocessing: Mapping[str, Any],
    config: ShardsConfig,
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Pixels, in a map of ``shape`` (H, W), whose middle is in one of the ``boxes``.

    The image of ``original`` width and height was resized as ``preprocessing`` says, then its middle cut out (``crop``)
    and brought to the size of the map.
    """
    size = preprocessing["size"]
    place = placed(*original, size, preprocessing["resize"])
    window = config.crop or size
    cut = (size - window) // 2
    mask = np.zeros(shape, dtype=bool)
    # the middle of each pixel of the map, in pixels of the original
    across, down = (
        ((np.arange(count) + 0.5) * window / count + cut - offset) * side / scaled
        for count, offset, side, scaled in (
            (shape[1], place.left, original[0], place.width),
            (shape[0], place.top, original[1], place.height),
        )
    )
    for left, top, width, height in boxes:
        columns, lines = (
            (at >= low) & (at < low + wide) for at, low, wide in ((across, left, width), (down, top, height))
        )
        mask |= lines[:, None] & columns
    return mask


def _measured(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    if not mask.any():
        return np.nan, np.nan, np.nan
    if not values.any():
        values = np.ones_like(values)
    return float(mask[values == values.max()].mean()), float(values[mask].sum() / values.sum()), float(mask.mean())
