"""Images in parts: bounded by bytes, and in the blocks of an evaluation."""

import numpy as np
import pytest

from normhpc.posthoc.parts import BLOCK_IMAGES, PART_BYTES, parts_of
from normhpc.train.evaluate import BLOCK


@pytest.mark.parametrize(
    ("images", "image_bytes", "sizes"),
    [
        (11_000, 28 * 28, [11_000]),
        (4_000, 224 * 224 * 3, [1_750, 1_750, 500]),
        # twelve bands of 16 bits at 120 pixels
        (1_200, 120 * 120 * 12 * 2, [750, 450]),
        # a block takes more than a part may: no less than a block is taken
        (300, 1 << 22, [125, 125, 50]),
        (0, 100, []),
    ],
)
def test_parts(images: int, image_bytes: int, sizes: list[int]) -> None:
    parts = list(parts_of(images, image_bytes))
    assert [len(part) for part in parts] == sizes
    assert np.concatenate([[], *parts]).tolist() == list(range(images))
    assert all(size * image_bytes <= max(PART_BYTES, BLOCK * image_bytes) for size in sizes)


def test_the_blocks_are_those_of_evaluations() -> None:
    assert BLOCK_IMAGES == BLOCK
