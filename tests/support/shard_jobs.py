"""Small conversions whose every stored byte can be computed again."""

import io
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from normhpc.shards.convert import ExtraField, ImageField, Job, LabelSpec, Options, Report, Row, Unreadable, convert

CLASSES = ("cat", "dog", "emu")
IMAGES = 50


def colours(number: int) -> np.ndarray:
    """8 x 6 pixels of 3 bytes."""
    return np.random.default_rng(number).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def bands(number: int) -> dict[str, np.ndarray]:
    """Two fields of 16 bits, of different sizes."""
    draw = np.random.default_rng(number)
    return {
        "wide": draw.integers(0, 65536, (4, 6, 6), dtype=np.uint16),
        "small": draw.integers(0, 9000, (2, 3, 3), dtype=np.uint16),
    }


def decibels(number: int) -> np.ndarray:
    """Two bands of floats."""
    return np.random.default_rng(number).normal(-12, 5, (2, 7, 5)).astype(np.float32)


def multi_hot(number: int) -> list[int]:
    return [number % 2, number // 2 % 2, int(number % 5 == 0)]


def jpeg(number: int) -> bytes:
    """A JPEG file, every third of them grey, of two sizes."""
    height = 8 + 8 * (number % 2)
    pixels = np.random.default_rng(number).integers(0, 256, (height, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert("L") if number % 3 == 0 else image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def read_colours(number: int, unreadable: tuple[int, ...] = (), pause_seconds: float = 0.0) -> Row:
    time.sleep(pause_seconds)
    if number in unreadable:
        raise Unreadable(f"no pixels in {number}")
    return Row({"images": colours(number)}, number % 3, {"orig_size": (number, 2 * number)})


def read_floats(number: int, spoiled: int) -> Row:
    """Bytes and floats; one of the floats of image ``spoiled`` is no number."""
    floats = decibels(number)
    if number == spoiled:
        floats[1, 2, 3] = np.nan
    return Row({"images": colours(number), "s1": floats}, number % 3)


def read_bands(number: int) -> Row:
    return Row(bands(number), multi_hot(number))


def read_jpeg(number: int) -> Row:
    return Row(jpeg(number), number % 3)


def read_as(number: int, row: Row) -> Row:
    """``row``, whatever image is asked for: what a script with a mistake in it gives."""
    return row


def read_then_die(number: int) -> Row:
    if number == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_colours(number)


def colours_job(**changes: Any) -> Job:
    unreadable, pause = changes.pop("unreadable", ()), changes.pop("pause_seconds", 0.0)
    given: dict[str, Any] = {
        "dataset": "toy",
        "split": "train",
        "fields": (ImageField("images", "|u1", (8, 6, 3), "NHWC", ("red", "green", "blue")),),
        "encoding": "raw",
        "labels": LabelSpec("single", CLASSES, {"category_ids": [1, 5, 9]}),
        "items": [(100 + number, number) for number in range(IMAGES)],
        "read": partial(read_colours, unreadable=unreadable, pause_seconds=pause),
        "extra_fields": (ExtraField("orig_size", "<u2", (2,)),),
        "preprocessing": {"resize": "none"},
        "source": {"made_by": "numpy"},
    }
    return Job(**given | changes)


def floats_job(*, spoiled: int = -1, **changes: Any) -> Job:
    fields = (*colours_job().fields, ImageField("s1", "<f4", (2, 7, 5), "NCHW", ("VV", "VH")))
    return colours_job(fields=fields, read=partial(read_floats, spoiled=spoiled), extra_fields=(), **changes)


def bands_job(**changes: Any) -> Job:
    given: dict[str, Any] = {
        "dataset": "bands",
        "split": "test",
        "fields": (
            ImageField("wide", "<u2", (4, 6, 6), "NCHW", ("B02", "B03", "B04", "B08")),
            ImageField("small", "<u2", (2, 3, 3), "NCHW", ("B01", "B09")),
        ),
        "encoding": "raw",
        "labels": LabelSpec("multi", CLASSES),
        "items": [(f"patch_{number}" + "é" * (number == 7), number) for number in range(IMAGES)],
        "read": read_bands,
    }
    return Job(**given | changes)


def jpeg_job(**changes: Any) -> Job:
    given: dict[str, Any] = {
        "dataset": "pictures",
        "split": "train",
        "fields": (ImageField("jpeg", "|u1", (), "NHWC", ("red", "green", "blue")),),
        "encoding": "jpeg",
        "labels": LabelSpec("single", CLASSES),
        "items": [(number, number) for number in range(IMAGES)],
        "read": read_jpeg,
    }
    return Job(**given | changes)


JOBS = {"colours": colours_job, "bands": bands_job, "jpeg": jpeg_job, "floats": floats_job}


def silent() -> Console:
    return Console(file=io.StringIO(), markup=False, highlight=False, width=10_000)


def converted(out: Path, job: Job, **options: Any) -> Report:
    """Convert with 16 images a file, so that there are four."""
    return convert(job, Options(out, **({"rows_per_shard": 16} | options)), silent())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in ``folder`` and its bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
