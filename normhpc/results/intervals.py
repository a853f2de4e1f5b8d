"""Mean, spread and interval of a handful of values."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Share of such intervals that hold the true mean when the values are normal."""


def half_width(std: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half of the 95 % Student t interval of a mean: t(0.975; n - 1) std / sqrt(n). NaN for n < 2.

    ``std`` is the standard deviation with n - 1, ``count`` the n of each; same shape.
    """
    known = np.where(count > 1, count, np.nan)
    quantile: NDArray[np.float64] = stdtrit(known - 1, (1 + CONFIDENCE) / 2)
    return np.asarray(quantile * std / np.sqrt(known), dtype=np.float64)
