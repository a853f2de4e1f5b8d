"""What a search of several runs may be expected to find: the price of tuning (Dodge et al. 2019, arXiv 1909.03004)."""

from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.errors import InputError
from normhpc.results.statistics.finite import finite_values


def expected_best(scores: ArrayLike, *, higher_is_better: bool = True) -> NDArray[np.float64]:
    """The mean of the best of k of ``scores`` (n,), for each k from 1 to n: (n,), the first being their mean.

    The scores are those of independent draws from one space of settings. E_k = sum over i of x_(i) C(i - 1, k - 1) /
    C(n, k), x_(i) the i-th smallest: the mean of the maximum over all subsets of k, unbiased, unlike the formula with
    ((i / n)^k - ((i - 1) / n)^k), which draws with replacement (Tang et al. 2020, arXiv 2004.13705). With
    ``higher_is_better=False`` the best is the smallest. Raises :class:`InputError` for no scores and for NaN.
    """
    given = np.sort(finite_values("scores", scores) * (1 if higher_is_better else -1))
    n = len(given)
    # whole numbers of any size, divided once
    best = [
        sum(score * (comb(place, k - 1) / comb(n, k)) for place, score in enumerate(given.tolist()))
        for k in range(1, n + 1)
    ]
    return np.array(best) * (1 if higher_is_better else -1)


def draws_to_reach(scores: ArrayLike, target: float, *, higher_is_better: bool = True) -> int | None:
    """The smallest k of which the expected best of ``scores`` (n,) is ``target`` or better; None if not even n are enough.

    Raises :class:`InputError` as :func:`expected_best`, and for a target that is no number.
    """
    if not np.isfinite(target):
        raise InputError(f"target: expected a finite number, got {target}")
    best = expected_best(scores, higher_is_better=higher_is_better)
    there = np.flatnonzero(best >= target if higher_is_better else best <= target)
    return int(there[0]) + 1 if len(there) else None
