"""Many images taken in parts that fit in memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_IMAGES = 125
"""Images that an evaluation gives a network at once: parts are multiples of it, so that the answers are its bits."""

PART_BYTES = 256 << 20
"""Most that the images of a part take, unless one block of an evaluation takes more."""


def parts_of(images: int, image_bytes: int) -> Iterator[NDArray[np.int64]]:
    """The places 0 to ``images`` in parts, of images that take ``image_bytes`` each."""
    size = BLOCK_IMAGES * max(1, PART_BYTES // (BLOCK_IMAGES * image_bytes))
    for start in range(0, images, size):
        yield np.arange(start, min(images, start + size))
