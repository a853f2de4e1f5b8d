"""Random images for load tests."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normhpc.config.data import Synthetic
from normhpc.data.images import ImageSplit
from normhpc.data.order import mix
from normhpc.data.source import Source

FIRST_TEST_ROW = 2**32
"""Far behind the training rows, so that no test image is a training image however many there are."""


def read_synthetic(config: Synthetic) -> Source:
    """Uniform random pixels and random labels, a hash of the row number: the same on every machine and for every seed."""
    train = _split(0, config.images, config)
    test = _split(FIRST_TEST_ROW, config.test_images, config)
    return Source(train, test, tuple(str(label) for label in range(config.num_classes)))


def _split(first: int, rows: int, config: Synthetic) -> ImageSplit:
    keys = mix(np.arange(first, first + rows, dtype=np.uint64))
    shape = (config.height, config.width, config.channels)
    images = np.empty((rows, *shape), np.uint8)
    for start in range(0, rows, 256):
        images[start : start + 256] = _pixels(keys[start : start + 256], shape)
    return ImageSplit(torch.from_numpy(images), _labels(keys, config))


def _labels(keys: NDArray[np.uint64], config: Synthetic) -> Tensor:
    # The labels hash the key once more, away from the pixels, which hash it with a counter.
    keys = mix(mix(keys))
    if not config.multi_label:
        return torch.from_numpy((keys % np.uint64(config.num_classes)).astype(np.int64))
    words = mix(mix(keys)[:, None] ^ np.arange(config.num_classes, dtype=np.uint64))
    # both top bits 0: one in four
    return torch.from_numpy((words >> np.uint64(62) == 0).astype(np.uint8))


def _pixels(keys: NDArray[np.uint64], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    pixels = int(np.prod(shape))
    words = mix(keys[:, None] ^ np.arange(-(-pixels // 8), dtype=np.uint64))
    return words.astype("<u8").view(np.uint8)[:, :pixels].reshape(-1, *shape)
