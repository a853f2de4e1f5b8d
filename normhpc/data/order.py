"""The order of the training images and every random draw of their augmentation, from one hash.

splitmix64 (Steele et al. 2014) is a bijection of 64-bit integers with the same result on every machine and NumPy,
so a row's place and its draws depend on (seed, epoch, row) alone: not on ranks, batches or where a run resumed.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

INCREMENT = 0x9E3779B97F4A7C15
FACTOR_1 = 0xBF58476D1CE4E5B9
FACTOR_2 = 0x94D049BB133111EB
_ALL_BITS = (1 << 64) - 1


class Stream(IntEnum):
    """What a draw is for: streams of :func:`draws` are independent. The numbers are part of every run's result."""

    FLIP = 0
    TOP = 1
    LEFT = 2
    GRAYSCALE = 3
    ANGLE = 4
    PERSPECTIVE = 5
    PARTNER = 6
    # of a whole batch: draws for a step in place of a row
    MIXED = 7
    CUT = 8
    SHARE = 9
    BOX_ROW = 10
    BOX_COLUMN = 11
    CORNERS = 16  # and the seven after it: x and y of the four corners


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 of each of ``values``, an array of any shape."""
    z = values + np.uint64(INCREMENT)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(FACTOR_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(FACTOR_2)
    return z ^ (z >> np.uint64(31))


def order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of ``range(rows)``: argsort(mix(row ^ key)) with key = mix(mix(seed) ^ epoch)."""
    hashes = mix(np.arange(rows, dtype=np.uint64) ^ _key(seed, epoch))
    # A bijection has no ties, so that every way of sorting gives the same order.
    return np.argsort(hashes).astype(np.int64, copy=False)


def rank_share(length: int, rank: int, world: int) -> slice:
    """Rank's contiguous part of ``length`` items; the parts of all ranks cover each item once, sizes differ by 1."""
    return slice(length * rank // world, length * (rank + 1) // world)


def draws(seed: int, epoch: int, rows: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
    """64 random bits for each of ``rows``, a function of (seed, epoch, row, stream) only.

    Different streams, and :func:`order`, are independent of one another.
    """
    return mix(rows.astype(np.uint64) ^ mix(_key(seed, epoch) ^ mix(np.array([stream], np.uint64))))


def uniform(seed: int, epoch: int, rows: NDArray[np.int64], stream: int) -> NDArray[np.float64]:
    """:func:`draws` as numbers in [0, 1), multiples of 2^-53."""
    return (draws(seed, epoch, rows, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def step_seed(seed: int, step: int, rank: int) -> int:
    """64 bits for the draws inside a network, such as dropout, at optimizer step ``step`` of the run."""
    return _mix_one(_mix_one(_mix_one(seed) ^ step) ^ ~rank & _ALL_BITS)


def _mix_one(value: int) -> int:
    """:func:`mix` of one integer, many times faster than through an array."""
    z = (value + INCREMENT) & _ALL_BITS
    z = ((z ^ (z >> 30)) * FACTOR_1) & _ALL_BITS
    z = ((z ^ (z >> 27)) * FACTOR_2) & _ALL_BITS
    return z ^ (z >> 31)


def _key(seed: int, epoch: int) -> NDArray[np.uint64]:
    # Arrays of one element, because NumPy warns when a scalar overflows, which is what a hash does.
    return mix(mix(np.array([seed], np.uint64)) ^ np.array([epoch], np.uint64))
