"""Shards to train on in tests: a few random images in one field or, as of a satellite, in fields of several resolutions."""

from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from normhpc.shards.convert import ImageField, Job, LabelSpec, Options, Row, convert

PHOTO = (ImageField("images", "|u1", (12, 10, 3), "NHWC"),)
BANDS = (
    ImageField("s2_10m", "<u2", (2, 12, 12), "NCHW", ("B02", "B03")),
    ImageField("s2_20m", "<u2", (3, 6, 6), "NCHW", ("B05", "B06", "B8A")),
    ImageField("s2_60m", "<u2", (1, 2, 2), "NCHW", ("B01",)),
)


DECIBELS = ImageField("s1_10m", "<f4", (2, 12, 12), "NCHW", ("VV", "VH"))


def row(fields: tuple[ImageField, ...], classes: int, multi: bool, number: int) -> Row:
    """The image with this number, a function of it alone."""
    random = np.random.default_rng(number)
    images = {
        field.name: random.normal(-12, 5, field.shape).astype(np.float32)
        if field.dtype == "<f4"
        else random.integers(0, np.iinfo(field.dtype).max + 1, field.shape, field.dtype)
        for field in fields
    }
    label = random.integers(0, 2, classes).tolist() if multi else number % classes
    return Row(images, label)


def make_shards(
    out: Path,
    rows: int,
    split: str = "train",
    *,
    fields: tuple[ImageField, ...] = PHOTO,
    classes: int = 4,
    names: tuple[str, ...] = (),
    multi: bool = False,
    rows_per_shard: int = 16,
    first: int = 0,
) -> None:
    """Convert ``rows`` images into ``out``."""
    job = Job(
        dataset="random",
        split=split,
        fields=fields,
        encoding="raw",
        labels=LabelSpec(
            "multi" if multi else "single", names or tuple(f"class {number}" for number in range(classes))
        ),
        items=[(number, number) for number in range(first, first + rows)],
        read=partial(row, fields, classes, multi),
        preprocessing={},
        source={},
    )
    convert(job, Options(out, rows_per_shard), Console(file=StringIO()))


def config(path: Path, /, **changes: Any) -> dict[str, Any]:
    """The data part of a run on :data:`PHOTO` shards in ``path``."""
    fields = {"dataset": "random", "path": str(path), "height": 12, "width": 10, "num_classes": 4}
    return {"name": "shards", **fields, **changes}
