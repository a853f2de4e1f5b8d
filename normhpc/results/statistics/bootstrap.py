"""Aggregates over tasks with stratified bootstrap intervals (Agarwal et al. 2021, arXiv 2108.13264).

A method's scores are its seeds' scores on each task. A draw takes, within every task, as many seeds as there are, with
replacement; the interval is that between the 2.5 % and the 97.5 % quantile of the aggregate over all draws. With few
seeds these intervals are too narrow (87 % instead of 95 % at three seeds, 91 % at five): they are for aggregates over
many tasks, never for one cell, and say so below :data:`FEW_SEEDS`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.errors import InputError, did_you_mean
from normhpc.results.statistics.finite import finite_values, open_share
from normhpc.results.statistics.intervals import CONFIDENCE, Estimate

Aggregate = Literal["iqm", "median", "mean", "optimality_gap"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)

FEW_SEEDS = 5
"""Below this many seeds a task an interval carries a caution."""

MEANINGFUL = 0.75
"""A probability of improvement from which on the better method is worth the change (Bouthillier 2021)."""

_ONE_SEED = "one seed of every task: each draw of seeds is the same, so there is no interval"

_VALUES_AT_ONCE = 2**22


def aggregate_intervals(
    scores: Sequence[ArrayLike],
    rng: np.random.Generator,
    *,
    aggregates: Sequence[Aggregate] = AGGREGATES,
    draws: int = 2000,
    resample_tasks: bool = False,
    target: float = 1.0,
) -> dict[Aggregate, Estimate]:
    """Aggregates of one method over all its scores, each with its 95 % interval; all from the same draws.

    ``scores`` has one array a task, of the scores of that task's seeds, not necessarily equally many. Tasks of
    different scales must be normalised before. With N scores in all:

    - ``iqm``: interquartile mean, the mean without the floor(N / 4) lowest and highest
    - ``median``, ``mean``
    - ``optimality_gap``: mean of max(0, ``target`` - score)

    ``resample_tasks`` also draws the tasks with replacement: for a statement about tasks like these, not about
    these; it needs equally many seeds everywhere. Without it, one seed of every task gives no interval.

    Raises :class:`InputError` for a name that is no aggregate, no draws, no scores, NaN.
    """
    names = [_checked_aggregate(name) for name in aggregates]
    tasks = _checked_tasks("scores", scores)
    counts = np.array([len(task) for task in tasks])
    if draws < 1:
        raise InputError(f"draws: expected a positive integer, got {draws}")
    if resample_tasks and len(set(counts.tolist())) > 1:
        raise InputError(
            f"resample_tasks: expected equally many seeds of every task, got {counts.min()} to {counts.max()}; "
            "leave out tasks that lack seeds, or draw seeds alone"
        )
    flat = np.concatenate(tasks)
    functions = {name: _aggregate_function(name, target) for name in names}
    drawn: dict[Aggregate, list[NDArray[np.float64]]] = {name: [] for name in names}
    # in parts that fit into memory at any number of scores; which parts is a function of the shape alone
    part = max(1, _VALUES_AT_ONCE // len(flat))
    for first in range(0, draws, part):
        rows = min(part, draws - first)
        sample = flat[_drawn_indices(rng, counts, rows, resample_tasks=resample_tasks)]
        sample.sort(axis=1)
        for name in names:
            drawn[name].append(functions[name](sample))
    method = f"stratified bootstrap, {draws} draws of {'tasks and seeds' if resample_tasks else 'seeds within tasks'}"
    ordered = np.sort(flat)[None]
    all_alike = counts.max() == 1 and not resample_tasks
    found = {}
    for name in names:
        low, high = (None, None) if all_alike else _percentiles(np.concatenate(drawn[name]))
        value = float(functions[name](ordered)[0])
        found[name] = Estimate(value, low, high, len(flat), method, (_ONE_SEED,) if all_alike else _few_seeds(counts))
    return found


def probability_of_improvement(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike], rng: np.random.Generator, *, draws: int = 2000
) -> Estimate:
    """P(a score of ``first`` beats one of ``second``), averaged over tasks, more being better, with its 95 % interval.

    Both have one array a task, as in :func:`aggregate_intervals`, the same tasks in the same order.
    P = 1/B sum_b U_b / (n_b m_b), U_b = #{x > y} + #{x = y} / 2 over all pairs of the task (Mann and Whitney); the
    seeds of both are drawn independently; one seed of each and every task gives no interval. :func:`verdict` says what
    to make of it.

    Raises :class:`InputError` for different numbers of tasks, no scores, NaN.
    """
    left, right = _checked_tasks("first", first), _checked_tasks("second", second)
    if len(left) != len(right):
        raise InputError(f"second: expected the {len(left)} tasks of the first method, got {len(right)}")
    if draws < 1:
        raise InputError(f"draws: expected a positive integer, got {draws}")
    value, sums = 0.0, np.zeros(draws)
    for x, y in zip(left, right, strict=True):
        wins = (np.sign(x[:, None] - y[None]) + 1) / 2
        value += float(wins.mean())
        # how often each seed was drawn says all about a draw
        of_first = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws)
        of_second = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=draws)
        sums += np.einsum("di,di->d", of_first @ wins, of_second) / wins.size
    counts = np.array([len(task) for task in [*left, *right]])
    all_alike = counts.max() == 1
    low, high = (None, None) if all_alike else _percentiles(sums / len(left))
    return Estimate(
        value / len(left),
        low,
        high,
        int(counts.sum()),
        f"Mann-Whitney over {len(left)} tasks, stratified bootstrap, {draws} draws",
        (_ONE_SEED,) if all_alike else _few_seeds(counts),
    )


def verdict(improvement: Estimate) -> str:
    """``better`` when P is surely over 1/2 and at least :data:`MEANINGFUL`, ``worse`` for the reverse, else ``unclear``.

    ``better, little`` (or ``worse, little``) is sure, but of less than that size.
    """
    low, high = improvement.low, improvement.high
    if low is not None and low > 0.5:
        return "better" if improvement.value >= MEANINGFUL else "better, little"
    if high is not None and high < 0.5:
        return "worse" if improvement.value <= 1 - MEANINGFUL else "worse, little"
    return "unclear"


def seeds_for_improvement(probability: float = MEANINGFUL, *, alpha: float = 0.05, power: float = 0.95) -> int:
    """Seeds of each method to tell P = ``probability`` from 1/2 in one task, by a one-sided test (Noether 1987).

    n >= ((z(1 - alpha) + z(power)) / (sqrt(6) (P - 1/2)))^2: 29 for 0.75, 5 % and 95 %.
    """
    from scipy.special import ndtri

    open_share("probability", probability)
    if probability == 0.5:
        raise InputError("probability: expected another number than 0.5, which no number of seeds tells from 0.5")
    quantiles = float(ndtri(1 - open_share("alpha", alpha)) + ndtri(open_share("power", power)))
    return math.ceil((quantiles / (math.sqrt(6) * (probability - 0.5))) ** 2)


def _drawn_indices(
    rng: np.random.Generator, counts: NDArray[np.int64], rows: int, *, resample_tasks: bool
) -> NDArray[np.int64]:
    """Places in the row of all scores, (rows, N): of each draw as many of every task as the task has."""
    starts = np.cumsum(counts) - counts
    total = int(counts.sum())
    per_place = np.repeat(counts, counts)
    equal = bool((counts == counts[0]).all())
    # one bound for all places is several times as fast as a bound for each
    within = rng.integers(0, counts[0] if equal else per_place, size=(rows, total))
    if not resample_tasks:
        return np.asarray(np.repeat(starts, counts) + within, dtype=np.int64)
    tasks = rng.integers(0, len(counts), size=(rows, len(counts)))
    return np.asarray(np.repeat(starts[tasks], counts[0], axis=1) + within, dtype=np.int64)


def _aggregate_function(name: Aggregate, target: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """From rows of ascending scores to a number each."""
    if name == "iqm":
        return _interquartile_mean
    if name == "median":
        return _median
    if name == "mean":
        return lambda rows: np.asarray(rows.mean(axis=1))
    return lambda rows: np.asarray(np.maximum(target - rows, 0.0).mean(axis=1))


def _interquartile_mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    cut = rows.shape[1] // 4
    return np.asarray(rows[:, cut : rows.shape[1] - cut].mean(axis=1))


def _median(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = rows.shape[1]
    return np.asarray((rows[:, (length - 1) // 2] + rows[:, length // 2]) / 2)


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _few_seeds(counts: NDArray[np.int64]) -> tuple[str, ...]:
    fewest = int(counts.min())
    if fewest >= FEW_SEEDS:
        return ()
    return (f"as few as {fewest} seeds of a task: the interval covers less than {CONFIDENCE:.0%}",)


def _checked_aggregate(name: Aggregate) -> Aggregate:
    if name not in AGGREGATES:
        hint = did_you_mean(name, AGGREGATES) or "."
        raise InputError(f"no aggregate is called {name!r}{hint} There are: {', '.join(AGGREGATES)}")
    return name


def _checked_tasks(name: str, scores: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    tasks = [finite_values(f"{name}[{task}]", values) for task, values in enumerate(scores)]
    if not tasks:
        raise InputError(f"{name}: expected an array of scores for each task, got no task")
    return tasks
