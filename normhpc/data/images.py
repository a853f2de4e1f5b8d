"""Images in memory: three splits of one set, with what a run must know about them."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normhpc.config.data import Normalize
from normhpc.data.order import order
from normhpc.data.stored import StoredSplit

HELD_OUT_SEED = 0x76616C
"""Seed of the permutation that chooses ``val``; a constant, so that all runs and seeds hold out the same images."""


@dataclass(frozen=True, slots=True)
class ImageSplit:
    """Stored values of some images."""

    images: Tensor
    """uint8, (N, H, W, C)."""
    labels: Tensor
    """int64 (N,), or uint8 (N, K) of 0 and 1 where an image has any number of labels."""

    def __len__(self) -> int:
        return len(self.labels)


Split = ImageSplit | StoredSplit
"""Images of a split, in memory or in their files."""


@dataclass(frozen=True, slots=True)
class ImageData:
    """An image set, split for training, choosing and reporting."""

    name: str
    """As in the configuration."""
    train: Split
    """What is learned from."""
    val: Split
    """Held out of the training images; what choices are made on. May be empty."""
    test: Split
    """What is reported."""
    classes: tuple[str, ...]
    """Name of each label."""
    mean: tuple[float, ...]
    """Mean of each channel of ``train``, in 0..1 units."""
    std: tuple[float, ...]
    """Standard deviation (biased) of each channel of ``train``, in 0..1 units."""
    digest: str
    """Hex BLAKE2b of all training (before ``val`` is held out) and test pixels and labels, and their shapes; of shards
    the BLAKE2b of the checksums in their indexes."""
    unit: float = 255.0
    """The stored value that stands for 1."""


def assemble(
    name: str, train: ImageSplit, test: ImageSplit, classes: tuple[str, ...], val_fraction: float
) -> ImageData:
    """Hold ``val`` out of ``train`` and add statistics and digest."""
    digest = digest_of(train, test)
    kept, held_out = hold_out(len(train), int(len(train) * val_fraction), HELD_OUT_SEED)
    val, train = rows_of(train, held_out), rows_of(train, kept)
    mean, std = channel_statistics(train.images)
    return ImageData(name, train, val, test, classes, mean, std, digest)


def hold_out(rows: int, count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kept, held out) row numbers, both ascending: the first ``count`` of a fixed permutation are held out."""
    permutation = order(rows, seed, epoch=0)
    return np.sort(permutation[count:]), np.sort(permutation[:count])


def rows_of(split: ImageSplit, rows: NDArray[np.int64]) -> ImageSplit:
    """The given rows of ``split``, in that order."""
    if np.array_equal(rows, np.arange(len(split))):
        return split
    index = torch.from_numpy(rows)
    return ImageSplit(split.images.index_select(0, index), split.labels.index_select(0, index))


def in_memory(split: Split, rows: NDArray[np.int64]) -> ImageSplit:
    """The given rows of ``split``, in that order, in memory."""
    if isinstance(split, ImageSplit):
        return rows_of(split, rows)
    chosen = split.subset(rows)
    return ImageSplit(chosen.images.everything(), chosen.labels)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and biased standard deviation of each channel of uint8 (N, H, W, C), in 0..1 units.

    From exact integer sums, so that they are the same for any order of the images and on any machine.
    """
    channels = images.shape[-1]
    total = squares = torch.zeros(channels, dtype=torch.int64)
    for start in range(0, len(images), 1024):
        values = images[start : start + 1024].reshape(-1, channels).to(torch.int32)
        total = total + values.sum(0, dtype=torch.int64)
        squares = squares + values.square_().sum(0, dtype=torch.int64)
    count = images.numel() // channels
    sums = list(zip(total.tolist(), squares.tolist(), strict=True))
    mean = tuple(first / count / 255 for first, _ in sums)
    std = tuple(math.sqrt(count * second - first * first) / count / 255 for first, second in sums)
    return mean, std


def centre_and_scale(data: ImageData, normalize: Normalize) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(m, s) for each channel: a pixel p in 0..1 becomes (p - m) / s."""
    ones = (1.0,) * len(data.mean)
    match normalize:
        case "channel":
            return data.mean, data.std
        case "mean":
            return data.mean, ones
        case "half":
            return tuple(one / 2 for one in ones), tuple(one / 2 for one in ones)


def digest_of(*splits: ImageSplit) -> str:
    """32 hex digits of all shapes, pixels and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        digest.update(str(tuple(split.images.shape)).encode())
        digest.update(split.images.contiguous().numpy().data)
        if split.labels.ndim > 1:
            digest.update(str(tuple(split.labels.shape)).encode())
        digest.update(split.labels.contiguous().numpy().astype("<i8").data)
    return digest.hexdigest()
