"""What the statistics ask of the numbers they are given."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.errors import InputError

ROUNDING = 1e-12
"""Numbers that differ by no more than this share of the larger are equal: the mean of the same scores, added up in
another order, must not make a rank.
"""


def finite_values(name: str, values: ArrayLike, *, dimensions: int = 1, least: int = 1) -> NDArray[np.float64]:
    """``values`` as float64. Raises :class:`InputError` unless they are finite, with ``dimensions`` axes, at least
    ``least`` long each.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions or min(array.shape) < least:
        wanted = f"{dimensions} axes" if dimensions > 1 else "one axis"
        at_least = f", each at least {least} long" if dimensions > 1 else f", at least {least} long"
        raise InputError(f"{name}: expected {wanted}{at_least}, got shape {array.shape}")
    odd = int(array.size - np.isfinite(array).sum())
    if odd:
        raise InputError(
            f"{name}: expected finite numbers, got {odd} of {array.size} that are not; "
            "leave out what has no value, and say so"
        )
    return array


def open_share(name: str, value: float) -> float:
    """``value``. Raises :class:`InputError` unless it lies between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise InputError(f"{name}: expected a number between 0 and 1, got {value}; both ends are excluded")
    return value
