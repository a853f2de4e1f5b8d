"""Conversion of splits that are in memory."""

import argparse
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from normhpc.errors import DataError, Problem
from normhpc.shards.convert import ImageField, Job, LabelSpec, Options, Row, convert

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, H, W, C) and as many labels."""


def convert_arrays(
    dataset: str,
    splits: Mapping[str, Arrays],
    classes: tuple[str, ...],
    official: Mapping[str, int],
    given: argparse.Namespace,
) -> None:
    """Convert all ``splits`` as the arguments ``given`` to a script say: those of every script, ``root`` and
    ``allow_partial``.

    Raises :class:`~normhpc.errors.DataError` when the splits have not the ``official`` numbers of images and
    ``allow_partial`` is not set.
    """
    found = {split: len(labels) for split, (_, labels) in splits.items()}
    if found != official and not given.allow_partial:
        message = (
            f"expected {_counts(official)} images of {dataset}, found {_counts(found)}; complete the folder, "
            "or give --allow-partial to use what is there"
        )
        raise DataError(Problem(message, file=str(given.root)))
    options, console = (
        Options(given.out, given.rows_per_shard, given.workers, given.task),
        Console(stderr=True, soft_wrap=True, markup=False),
    )
    for split, (images, labels) in splits.items():
        convert(array_job(dataset, split, images[: given.limit], labels[: given.limit], classes), options, console)


def _counts(rows: Mapping[str, int]) -> str:
    return " and ".join(f"{count:,} {split}" for split, count in rows.items())


def array_job(
    dataset: str, split: str, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> Job:
    """The job that stores ``images`` (N, H, W, C) with one label each under their row numbers.

    Its source names the SHA-256 of the pixels and of the labels, so the shards do not depend on the layout in which
    the images came.
    """
    return Job(
        dataset=dataset,
        split=split,
        fields=(ImageField("images", "|u1", images.shape[1:], "NHWC"),),
        encoding="raw",
        labels=LabelSpec("single", classes),
        items=[(row, pair) for row, pair in enumerate(zip(images, labels.tolist(), strict=True))],
        read=_row,
        preprocessing={},
        source=_source(images, labels),
    )


def _row(pair: tuple[NDArray[np.uint8], int]) -> Row:
    image, label = pair
    return Row({"images": image}, label)


def _source(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Mapping[str, Any]:
    arrays = {"images": images, "labels": labels.astype("<i8")}
    return {
        f"{name}_sha256": hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for name, array in arrays.items()
    }
