"""Image sets in shards, as a run sees them."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from normhpc.config.data import Residency
from normhpc.config.data import Shards as ShardsConfig
from normhpc.data.files import is_staged, nearest, path_error
from normhpc.data.images import HELD_OUT_SEED, ImageData, ImageSplit, hold_out
from normhpc.data.planes import UNITS, Planes
from normhpc.data.stored import StoredImages, StoredSplit
from normhpc.errors import DataError, Problem
from normhpc.shards import Shards, open_shards
from normhpc.shards.index import INDEX_NAME, Field
from normhpc.shards.read import Access

_ON_DEVICE_BYTES = 2 << 30
"""What all splits may take together to be kept on the device."""

_SLOW_TO_MAP = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cifs",
    "smb3",
    "fuse",
    "9p",
    "afs",
    "pvfs2",
    "wekafs",
)
"""File systems whose pages come one after the other over a network: eight reads at a time are three times as fast."""

_MANY_READS = 4
"""Threads that read, as a multiple of those that would copy."""


def open_sharded(config: ShardsConfig) -> ImageData:
    """The splits of a run, their labels in memory, their images where ``data.residency`` says.

    Mean and standard deviation are those of the whole ``train`` split as its index has them. The digest is one of the
    indexes, which hold the checksum of every file.

    Raises :class:`~normhpc.errors.DataError` where the shards are not what the configuration says.
    """
    if config.path is None:
        raise path_error("shards are read from a folder that a script of data_prep/ has written; set data.path to it")
    root = nearest(config.path)
    if not root.is_dir():
        raise path_error(f"no folder {root}; set data.path to one that a script of data_prep/ has written")
    reads = config.residency == "pread" or (config.residency != "mmap" and _reads(config.path, root))
    access: Access = "pread" if reads else "mmap"
    names = dict.fromkeys(name for name in (config.train, config.val, config.test) if name is not None)
    opened = {name: open_shards(root, name, access=access) for name in names}
    for shards in opened.values():
        _check_index(config, shards)
    threads = config.threads * _MANY_READS if reads else config.threads
    splits = {
        name: stored_split(shards, config.stored_shape(), config.bands, threads) for name, shards in opened.items()
    }
    train, index = splits[config.train], opened[config.train].index
    for name in names:
        _check_alike(opened[name], splits[name].images.planes, opened[config.train], train.images.planes)
    if config.val is None:
        kept, held_out = hold_out(len(train), int(len(train) * config.val_fraction), HELD_OUT_SEED)
        train, val = train.subset(kept), train.subset(held_out)
    else:
        val = splits[config.val]
    planes = train.images.planes
    mean, std = planes.statistics(index)
    digest = hashlib.blake2b(digest_size=16)
    for name, shards in opened.items():
        digest.update(f"{name}\0{shards.index.index_sha256}\0".encode())
    keep = _keeper(config.residency, (train, val, splits[config.test]))
    return ImageData(
        name=config.name,
        train=keep(train),
        val=keep(val),
        test=keep(splits[config.test]),
        classes=index.labels.classes,
        mean=mean,
        std=std,
        digest=digest.hexdigest(),
        unit=UNITS[planes.dtype],
    )


def stored_split(
    shards: Shards, shape: tuple[int, int, int], bands: Sequence[str] | None, threads: int = 2
) -> StoredSplit:
    """All images of ``shards``, which must be of ``shape`` (channels, height, width), and their labels.

    Raises :class:`~normhpc.errors.DataError` where they are not, have none of the ``bands``, or floats among them that
    may not all be finite: what a network makes of NaN would be told as its divergence.
    """
    file = str(shards.folder / INDEX_NAME)
    planes = Planes(_fields(shards, shape), bands, file)
    if planes.shape != shape:
        found, wanted = ("x".join(map(str, size)) for size in (planes.shape, shape))
        # of a choice of bands info knows nothing: without the finest of them images are smaller
        advice = (
            f"take the fields that normhpc shards info {shards.folder} prints"
            if bands is None
            else "set them to what these data.bands are"
        )
        message = (
            f"images of {found} (channels, height, width), but data.channels, data.height and data.width say {wanted}; "
            f"{advice}"
        )
        raise DataError(Problem(message, file=file))
    planes.statistics(shards.index)
    images = StoredImages(shards, planes, np.arange(len(shards)), threads)
    return StoredSplit(images, torch.from_numpy(shards.labels()))


def _fields(shards: Shards, shape: tuple[int, int, int]) -> tuple[Field, ...]:
    """The image fields of the index; packed JPEG as the pixels that it becomes, which are compared when decoded."""
    if shards.index.encoding != "jpeg":
        return shards.index.fields
    (packed,) = shards.index.fields
    pixels = (*shape[1:], len(packed.bands) or 3)
    return (packed.model_copy(update={"shape": pixels, "layout": "NHWC", "dtype": "|u1"}),)


def _check_index(config: ShardsConfig, shards: Shards) -> None:
    """Raise :class:`DataError` unless the shards hold what the configuration says."""
    index = shards.index
    labels = {True: "multi", False: "single"}
    expected = {
        "data.dataset": (config.dataset, index.dataset),
        "data.multi_label": (labels[config.multi_label], index.labels.kind),
        "data.num_classes": (config.num_classes, len(index.labels.classes)),
    }
    for path, (wanted, found) in expected.items():
        if wanted != found:
            message = f"{path} says {wanted}, but these shards hold {found}; set it, or data.path to other shards"
            raise DataError(Problem(message, file=str(shards.folder / INDEX_NAME)))


def _check_alike(shards: Shards, planes: Planes, train: Shards, train_planes: Planes) -> None:
    """Raise :class:`DataError` unless labels and values of a split mean what those of ``train`` do.

    Splits that were converted one by one may have as many classes or bands and others, or in another order.
    """
    names = {
        "classes": (train.index.labels.classes, shards.index.labels.classes),
        "bands": (train_planes.bands, planes.bands),
    }
    for what, pairs in names.items():
        for wanted, found in zip(*pairs, strict=True):
            if found != wanted and found and wanted:
                message = f"expected the {what} of {train.index.split}, got {found!r} for {wanted!r}"
                raise DataError(Problem(f"{message}; convert both splits alike", file=str(shards.folder / INDEX_NAME)))
    if planes.dtype != train_planes.dtype:
        wanted, found = (", ".join(sorted({part.dtype for part in of.fields})) for of in (train_planes, planes))
        message = f"expected values of {wanted} as in {train.index.split}, got {found}; convert both splits alike"
        raise DataError(Problem(message, file=str(shards.folder / INDEX_NAME)))


def _keeper(residency: Residency, splits: Sequence[StoredSplit]) -> Callable[[StoredSplit], ImageSplit | StoredSplit]:
    """What brings a split to where its images are to wait."""
    stored = splits[0].images
    size = sum(map(len, splits)) * math.prod(stored.shape) * stored.planes.dtype.itemsize
    if residency == "device" or (residency == "auto" and size <= _ON_DEVICE_BYTES):
        return lambda split: ImageSplit(split.images.everything(), split.labels)
    if residency == "memory":
        return lambda split: StoredSplit(split.images.in_own_memory(), split.labels)
    return lambda split: split


def _reads(path: str, root: Path) -> bool:
    """Whether reading beats mapping: the folder is on a network file system, not a copy on the node's own disk."""
    return not is_staged(path) and file_system(root).split(".")[0] in _SLOW_TO_MAP


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds ``folder``; empty where the system does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    real = os.path.realpath(folder)
    holds = [
        (point, kind) for _, point, kind, *_ in lines if os.path.commonpath((real, _plain(point))) == _plain(point)
    ]
    return max(holds, key=lambda pair: len(pair[0]))[1] if holds else ""


def _plain(point: str) -> str:
    """A mount point as it is called: the kernel writes blanks as octal."""
    return point.replace("\\040", " ").replace("\\011", "\t")
