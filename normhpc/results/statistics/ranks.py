"""Methods ranked over blocks (a data set with a network, say), and which of them differ (Demsar 2006; Benavoli 2016).

Scores and ranks have the shape (B blocks, K methods). One block is one value of each method, the mean over its seeds:
more seeds make its values surer, they are no more blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.errors import InputError
from normhpc.results.statistics.finite import ROUNDING, finite_values, open_share
from normhpc.results.statistics.paired import holm, signed_ranks


@dataclass(frozen=True, slots=True)
class Friedman:
    """Whether any of ``methods`` differ over ``n`` blocks: Friedman's chi-square and Iman and Davenport's F."""

    n: int
    methods: int
    chi_square: float
    p: float
    f: float
    f_p: float
    method: str = "Friedman, corrected for ties; Iman-Davenport"


@dataclass(frozen=True, slots=True, eq=False)
class Pairwise:
    """All pairs of K methods over ``n`` blocks."""

    n: int
    p: NDArray[np.float64]
    """(K, K), symmetric, adjusted for the number of pairs; 1 on the diagonal."""
    cliques: tuple[tuple[int, ...], ...]
    """Largest groups of two or more methods of which no two differ, each from best to worst."""
    alpha: float
    method: str
    critical_difference: float | None = None
    """How far two average ranks must lie apart, where that is the test."""


@dataclass(frozen=True, slots=True, eq=False)
class AgainstControl:
    """Every method against method ``control`` over ``n`` blocks."""

    n: int
    control: int
    p: NDArray[np.float64]
    """(K,), adjusted for K - 1 comparisons; 1 for the control."""
    alpha: float
    method: str


@dataclass(frozen=True, slots=True)
class CompleteBlocks:
    """Which blocks have a value of every method: indices of ``kept`` and ``dropped``, and what is ``missing``."""

    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    missing: tuple[int, ...]
    """Of each method, how many blocks lack it."""


def complete_blocks(scores: ArrayLike) -> CompleteBlocks:
    """Split the blocks of ``scores`` (B, K), NaN where a method has no value, by whether they are complete.

    A mean of ranks over different blocks for different methods compares nothing, so incomplete blocks are dropped,
    and whoever drops them says which methods cost how many.
    """
    absent = np.isnan(np.asarray(scores, dtype=np.float64))
    incomplete = absent.any(axis=1)
    return CompleteBlocks(
        tuple(np.flatnonzero(~incomplete).tolist()),
        tuple(np.flatnonzero(incomplete).tolist()),
        tuple(absent.sum(axis=0).tolist()),
    )


def block_ranks(scores: ArrayLike, *, higher_is_better: bool = True) -> NDArray[np.float64]:
    """Ranks (B, K) within each block of ``scores`` (B, K): 1 for the best, ties at their average.

    Raises :class:`InputError` for fewer than two methods, no block, NaN.
    """
    values = _checked_blocks("scores", scores) * (1 if higher_is_better else -1)
    ahead = values[:, None, :] - values[:, :, None]
    sizes = np.abs(values)
    slack = ROUNDING * np.maximum(sizes[:, None, :], sizes[:, :, None])
    better, equal = (ahead > slack).sum(axis=2), (np.abs(ahead) <= slack).sum(axis=2)
    return np.asarray(better + (equal + 1) / 2, dtype=np.float64)


def friedman(ranks: ArrayLike) -> Friedman:
    """Test of all methods at once, on the ranks (B, K) within blocks.

    chi^2 = (K - 1) (sum_j S_j^2 - B C) / (sum_bj r_bj^2 - C), S_j = sum_b r_bj, C = B K (K + 1)^2 / 4, with K - 1
    degrees of freedom: without ties 12 B / (K (K + 1)) (sum_j R_j^2 - K (K + 1)^2 / 4) for the average ranks R.
    F = (B - 1) chi^2 / (B (K - 1) - chi^2), with K - 1 and (K - 1) (B - 1), is the less conservative of the two.

    Raises :class:`InputError` for fewer than two blocks or methods, NaN.
    """
    from scipy.special import chdtrc, fdtrc

    given = _checked_blocks("ranks", ranks, least=2)
    blocks, methods = given.shape
    level = blocks * methods * (methods + 1) ** 2 / 4
    spread = float((given**2).sum()) - level
    between = float((given.sum(axis=0) ** 2).sum()) / blocks - level
    chi_square = (methods - 1) * blocks * between / spread if spread > 0 else 0.0
    rest = blocks * (methods - 1) - chi_square
    # the same order in every block leaves nothing
    f = (blocks - 1) * chi_square / rest if rest > 1e-9 * blocks else math.inf
    freedom = methods - 1
    f_p = 0.0 if math.isinf(f) else float(fdtrc(freedom, freedom * (blocks - 1), f))
    return Friedman(blocks, methods, chi_square, float(chdtrc(freedom, chi_square)), f, f_p)


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's: average ranks further apart than q sqrt(K (K + 1) / (6 B)) differ.

    q is the 1 - alpha quantile of the studentized range of K and infinitely many degrees of freedom, over sqrt(2).
    """
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - open_share("alpha", alpha), methods, np.inf)) / math.sqrt(2)
    return quantile * _rank_error(methods, blocks)


def nemenyi(ranks: ArrayLike, alpha: float = 0.05) -> Pairwise:
    """All pairs by the difference of their average ranks, on the ranks (B, K) within blocks.

    p = P(studentized range of K > sqrt(2) |R_i - R_j| / sqrt(K (K + 1) / (6 B))). Whether two methods differ depends
    on which others are in the pool (Benavoli 2016); :func:`wilcoxon_holm` does not have this fault but needs more
    blocks. Raises :class:`InputError` for fewer than two methods, no block, NaN.
    """
    from scipy.stats import studentized_range

    given = _checked_blocks("ranks", ranks)
    blocks, methods = given.shape
    means = given.mean(axis=0)
    apart = np.abs(means[:, None] - means[None])
    # 190 pairs at once; only half of the square is different
    first, second = np.triu_indices(methods, k=1)
    steps = math.sqrt(2) * apart[first, second] / _rank_error(methods, blocks)
    p = _symmetric(methods, np.asarray(studentized_range.sf(steps, methods, np.inf)))
    widest = critical_difference(methods, blocks, alpha)
    return Pairwise(blocks, p, cliques(apart < widest, _best_first(means)), alpha, "Nemenyi", widest)


def wilcoxon_holm(scores: ArrayLike, alpha: float = 0.05, *, higher_is_better: bool = True) -> Pairwise:
    """All m = K (K - 1) / 2 pairs of ``scores`` (B, K) by exact signed ranks over blocks, p values adjusted by Holm.

    Raises :class:`InputError` when there are so few blocks that not even the clearest pair could be found:
    2^(1 - B) >= alpha / m; for fewer than two methods; for NaN.
    """
    given = _checked_blocks("scores", scores)
    methods = given.shape[1]
    pairs = list(combinations(range(methods), 2))
    _refuse_hopeless(len(given), methods, len(pairs), alpha, "all pairs", "compare with one control, or use Nemenyi")
    p = holm([signed_ranks(given[:, first], given[:, second]).p for first, second in pairs])
    matrix = _symmetric(methods, p)
    means = block_ranks(given, higher_is_better=higher_is_better).mean(axis=0)
    found = cliques(matrix >= alpha, _best_first(means))
    return Pairwise(len(given), matrix, found, alpha, "Wilcoxon signed rank, exact, Holm")


def wilcoxon_against(scores: ArrayLike, control: int, alpha: float = 0.05) -> AgainstControl:
    """Every method of ``scores`` (B, K) against method number ``control``: exact signed ranks, Holm over K - 1.

    Raises :class:`InputError` for too few blocks, 2^(1 - B) >= alpha / (K - 1), and as :func:`wilcoxon_holm`.
    """
    given = _checked_blocks("scores", scores)
    methods = given.shape[1]
    if not 0 <= control < methods:
        raise InputError(f"control: expected the number of a method, 0 to {methods - 1}, got {control}")
    _refuse_hopeless(len(given), methods, methods - 1, alpha, "one control", "add blocks or leave out methods")
    others = [method for method in range(methods) if method != control]
    p = np.ones(methods)
    p[others] = holm([signed_ranks(given[:, method], given[:, control]).p for method in others])
    return AgainstControl(len(given), control, p, alpha, "Wilcoxon signed rank against one control, exact, Holm")


def blocks_needed(comparisons: int, alpha: float = 0.05) -> int:
    """The fewest blocks B at which the smallest exact p value passes Holm's first step: 2^(1 - B) < alpha / m.

    13 for all pairs of 20 methods, 10 for 19 of them against one.
    """
    blocks = 1
    while 2.0 ** (1 - blocks) >= open_share("alpha", alpha) / comparisons:
        blocks += 1
    return blocks


def cliques(alike: ArrayLike, order: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The largest groups, of two or more, of which all are ``alike`` (K, K), members and groups in ``order``.

    Groups may overlap. Bron and Kerbosch's search with pivots.
    """
    matrix = np.asarray(alike, dtype=bool)
    place = {method: index for index, method in enumerate(order)}
    neighbours = {method: {other for other in order if other != method and matrix[method, other]} for method in order}
    found: list[tuple[int, ...]] = []

    def extend(group: set[int], candidates: set[int], seen: set[int]) -> None:
        if not candidates and not seen:
            if len(group) > 1:
                found.append(tuple(sorted(group, key=place.__getitem__)))
            return
        pivot = max(candidates | seen, key=lambda method: len(candidates & neighbours[method]))
        for method in sorted(candidates - neighbours[pivot], key=place.__getitem__):
            extend(group | {method}, candidates & neighbours[method], seen & neighbours[method])
            candidates = candidates - {method}
            seen = seen | {method}

    extend(set(), set(order), set())
    return tuple(sorted(found, key=lambda group: [place[method] for method in group]))


def _refuse_hopeless(blocks: int, methods: int, comparisons: int, alpha: float, what: str, advice: str) -> None:
    needed = blocks_needed(comparisons, alpha)
    if blocks < needed:
        raise InputError(
            f"Wilcoxon-Holm of {what} of {methods} methods needs at least {needed} blocks, got {blocks}: "
            f"no p value can be below 2^{1 - blocks} = {2.0 ** (1 - blocks):.2g}, "
            f"and {alpha:g} / {comparisons} = {alpha / comparisons:.2g} is asked of the smallest; {advice}"
        )


def _checked_blocks(name: str, values: ArrayLike, *, least: int = 1) -> NDArray[np.float64]:
    given = finite_values(name, values, dimensions=2, least=least)
    if given.shape[1] < 2:
        raise InputError(f"{name}: expected at least 2 methods to compare, got {given.shape[1]}")
    return given


def _symmetric(methods: int, upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, K) from the values of the pairs i < j in rows; 1 on the diagonal."""
    matrix = np.ones((methods, methods))
    first, second = np.triu_indices(methods, k=1)
    matrix[first, second] = matrix[second, first] = upper
    return matrix


def _rank_error(methods: int, blocks: int) -> float:
    return math.sqrt(methods * (methods + 1) / (6 * blocks))


def _best_first(mean_ranks: NDArray[np.float64]) -> list[int]:
    return [int(method) for method in np.argsort(mean_ranks, kind="stable")]
