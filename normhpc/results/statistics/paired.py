"""Two methods compared seed by seed or block by block, and how small a difference a study can see.

Pairing by seed is sound only when the seed fixes the same split, order of images and initial weights for both.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.errors import InputError
from normhpc.results.statistics.finite import ROUNDING, finite_values, open_share
from normhpc.results.statistics.intervals import CONFIDENCE, Estimate

_MOST_SEEDS = 1_000_000
_NODES = 100
_TURN = 9.0


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of ``first - second`` over ``n`` pairs, its 95 % interval, and the p value of no difference."""

    n: int
    difference: float
    low: float
    high: float
    p: float
    correlation: float | None
    """Of the two over the pairs; None when one of them does not vary."""
    method: str
    """``paired t``; ``Welch t`` where pairs are not alike, so that pairing would gain nothing."""


@dataclass(frozen=True, slots=True)
class SignedRanks:
    """Wilcoxon's signed ranks of ``n`` differences that are not zero, of ``n + ties`` pairs."""

    n: int
    zeros: int
    statistic: float
    """The smaller of the sums of positive and of negative ranks."""
    p: float
    method: str = "Wilcoxon signed rank, exact, two-sided"


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest true difference that a test finds with probability ``power``, in the unit of ``std``."""

    n: int
    difference: float
    std: float
    comparisons: int
    alpha: float
    power: float
    method: str


def paired_difference(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """Compare the scores (n,) of two methods on the same n >= 2 seeds, in the same order.

    Paired t: d = first - second, mean(d) +/- t(0.975; n - 1) std(d) / sqrt(n). Where the two do not vary together
    (correlation <= 0) Welch's t interval takes its place, with sqrt((s1^2 + s2^2) / n) and its own degrees of freedom.

    Raises :class:`InputError` for different numbers of seeds, fewer than two, NaN.
    """
    x, y = _checked_pairs(first, second, least=2)
    n, differences = len(x), x - y
    variances = np.array([x.var(ddof=1), y.var(ddof=1)])
    correlation = float(np.corrcoef(x, y)[0, 1]) if variances.min() > 0 else None
    if correlation is None or correlation > 0:
        error, freedom, method = float(differences.std(ddof=1)) / math.sqrt(n), float(n - 1), "paired t"
    else:
        error, method = math.sqrt(variances.sum() / n), "Welch t"
        freedom = float((n - 1) * variances.sum() ** 2 / (variances**2).sum())
    mean = float(differences.mean())
    low, high, p = _t_interval(mean, error, freedom)
    return PairedDifference(n, mean, low, high, p, correlation, method)


def signed_ranks(first: ArrayLike, second: ArrayLike) -> SignedRanks:
    """Wilcoxon's signed rank test of the pairs (n,), (n,): is ``first`` as often better, and by as much, as worse?

    Pairs without a difference are left out, equal sizes share their average rank, and p is exact also then: the
    share of all 2^n signs of the ranks with a smaller sum at most as large as the one found. No p is below 2^(1 - n).

    Raises :class:`InputError` for different numbers of pairs, none, NaN.
    """
    x, y = _checked_pairs(first, second, least=1)
    slack = ROUNDING * np.maximum(np.abs(x), np.abs(y))
    apart = np.abs(x - y) > slack
    differences, slack = (x - y)[apart], slack[apart]
    n, zeros = len(differences), len(x) - len(differences)
    if n == 0:
        return SignedRanks(0, zeros, 0.0, 1.0)
    # twice the average rank is a whole number: sums of them can be counted
    doubled = _doubled_ranks(np.abs(differences), slack)
    positive = int(doubled[differences > 0].sum())
    smaller = min(positive, int(doubled.sum()) - positive)
    shares = np.zeros(int(doubled.sum()) + 1)
    shares[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(shares)
        moved[rank:] = shares[: len(shares) - rank]
        shares = (shares + moved) / 2
    return SignedRanks(n, zeros, smaller / 2, min(1.0, 2 * float(shares[: smaller + 1].sum())))


def median_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """The median of ``first - second`` over the pairs, with an interval between two of the differences.

    The interval is that of the sign test: from the k-th smallest to the k-th largest difference, k the largest with
    P(Binomial(n, 1/2) < k) <= 0.025; it holds the true median in at least 95 % of all cases whatever the
    distribution. Below 6 pairs there is none. Raises :class:`InputError` as :func:`signed_ranks`.
    """
    x, y = _checked_pairs(first, second, least=1)
    differences = np.sort(x - y)
    n = len(differences)
    below = np.cumsum([math.comb(n, successes) / 2**n for successes in range(n)])
    rank = int((below <= (1 - CONFIDENCE) / 2).sum())
    low, high = (float(differences[rank - 1]), float(differences[n - rank])) if rank else (None, None)
    return Estimate(float(np.median(differences)), low, high, n, "median, interval of the sign test")


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjustment of m p values (m,), in their order: those below alpha are found at a family-wise error of alpha.

    p~(i) = max over j <= i of min(1, (m - j + 1) p(j)), p(1) <= p(2) ... Raises :class:`InputError` for NaN.
    """
    p = finite_values("p_values", p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return adjusted


def detectable_difference(
    n: int,
    std: float = 1.0,
    *,
    paired: bool = False,
    comparisons: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Detectable:
    """The smallest true difference that ``n`` seeds of each method show with probability ``power``.

    Two-sided t test at alpha / ``comparisons`` (Bonferroni). Two samples: ``std`` is that of the seeds of a method,
    2 n - 2 degrees of freedom, noncentrality difference / (std sqrt(2 / n)). ``paired``: ``std`` is that of the
    differences, n - 1 degrees, difference / (std / sqrt(n)).

    Raises :class:`InputError` for n < 2, a negative std, and shares outside 0 to 1.
    """
    if n < 2:
        raise InputError(
            f"n: expected at least 2 seeds, got {n}; one run shows no spread, so no difference can be judged"
        )
    if not (math.isfinite(std) and std >= 0):
        raise InputError(f"std: expected a number from 0 on, got {std}")
    if comparisons < 1:
        raise InputError(f"comparisons: expected a positive integer, got {comparisons}")
    level, power = open_share("alpha", alpha) / comparisons, open_share("power", power)
    if power <= level:
        raise InputError(f"power: expected more than the {level:g} that no difference at all reaches, got {power}")
    freedom = n - 1 if paired else 2 * n - 2
    error = 1 / math.sqrt(n) if paired else math.sqrt(2 / n)
    difference = _noncentrality(freedom, level, power) * error * std
    method = "paired t" if paired else "two-sample t"
    return Detectable(n, difference, std, comparisons, alpha, power, method)


def seeds_needed(
    difference: float,
    std: float,
    *,
    paired: bool = False,
    comparisons: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """The fewest seeds of each method that show a true ``difference``; arguments as in :func:`detectable_difference`.

    Raises :class:`InputError` when ``difference`` is not positive or a million seeds are too few.
    """
    if not difference > 0:
        raise InputError(f"difference: expected a positive number, got {difference}")

    def enough(n: int) -> bool:
        found = detectable_difference(n, std, paired=paired, comparisons=comparisons, alpha=alpha, power=power)
        return found.difference <= difference

    high = 2
    while not enough(high):
        if high >= _MOST_SEEDS:
            raise InputError(f"difference: {difference} of a std of {std} needs more than {_MOST_SEEDS} seeds")
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _checked_pairs(
    first: ArrayLike, second: ArrayLike, *, least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = finite_values("first", first, least=least), finite_values("second", second, least=least)
    if len(x) != len(y):
        raise InputError(
            f"second: expected {len(x)} values, one for each of the first, got {len(y)}; pairs must be whole"
        )
    return x, y


def _doubled_ranks(sizes: NDArray[np.float64], slack: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice the rank of each of ``sizes``, those within ``slack`` of each other at their average."""
    order = np.argsort(sizes, kind="stable")
    steps = np.diff(sizes[order]) > np.maximum(slack[order][1:], slack[order][:-1])
    group = np.concatenate([[0], np.cumsum(steps)])
    counts = np.bincount(group)
    up_to = np.cumsum(counts)
    doubled = np.empty(len(sizes), dtype=np.int64)
    # a group of c that ends at rank e has the ranks e - c + 1 to e
    doubled[order] = (2 * up_to - counts + 1)[group]
    return doubled


def _t_interval(mean: float, error: float, freedom: float) -> tuple[float, float, float]:
    from scipy.special import stdtr, stdtrit

    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return mean - half, mean + half, 2 * float(stdtr(freedom, -abs(mean) / error))


def _noncentrality(freedom: int, level: float, power: float) -> float:
    """The mean of T at which |T| passes its two-sided critical value with probability ``power``."""
    from scipy.optimize import brentq
    from scipy.special import chdtri, gammaln, ndtr, stdtrit

    critical = float(stdtrit(freedom, 1 - level / 2))
    low, high = np.sqrt(chdtri(freedom, [1 - 1e-14, 1e-14]) / freedom)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = freedom / 2
    constant = math.log(2) + half * math.log(half) - gammaln(half)

    def missing(shift: float) -> float:
        # T = (Z + shift) / S with S^2 chi-square over its degrees, averaged over S: scipy's noncentral t is NaN at
        # shifts as large as those of three seeds and many comparisons. Both tails turn within a few 1 / critical
        turns = [low + _TURN / critical, (shift - _TURN) / critical, (shift + _TURN) / critical]
        edges = np.unique(np.clip([low, *turns, high], low, high))
        widths = np.diff(edges)[:, None] / 2
        spread = edges[:-1, None] + widths * (nodes + 1)
        density = np.exp(constant + (freedom - 1) * np.log(spread) - half * spread**2)
        found = ndtr(shift - critical * spread) + ndtr(-shift - critical * spread)
        return float((widths * weights * density * found).sum()) - power

    # a shift of the critical value alone is found in half the cases
    most = critical + 1
    while missing(most) < 0:
        most *= 2
    return float(brentq(missing, 0.0, most, xtol=1e-12))
