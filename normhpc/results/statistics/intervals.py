"""Mean, spread and interval of a handful of values."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from normhpc.errors import InputError
from normhpc.results.statistics.finite import finite_values

CONFIDENCE = 0.95
"""Share of such intervals that hold the true value when what is assumed of the values is so."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, the interval it is known to (None when there is none), and what both are made of."""

    value: float
    low: float | None
    high: float | None
    n: int
    """How many values went in."""
    method: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MeanOfValues:
    """Mean, standard deviation with n - 1 and 95 % interval of ``n`` values; with n = 1 there is a mean alone.

    ``low`` and ``high`` are cut to what the values can be, ``half``, what stands behind a ±, is not.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    half: float | None = None
    method: str = "Student t"


def half_width(std: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half of the 95 % Student t interval of a mean: t(0.975; n - 1) std / sqrt(n). NaN for n < 2.

    ``std`` is the standard deviation with n - 1, ``count`` the n of each; same shape.
    """
    known = np.where(count > 1, count, np.nan)
    quantile: NDArray[np.float64] = stdtrit(known - 1, (1 + CONFIDENCE) / 2)
    return np.asarray(quantile * std / np.sqrt(known), dtype=np.float64)


ANY = (-math.inf, math.inf)
"""Limits of what has none."""


def mean_of(values: ArrayLike, limits: tuple[float, float] = ANY) -> MeanOfValues:
    """Mean of ``values`` (n,) with its 95 % interval, mean +/- t(0.975; n - 1) std / sqrt(n), within ``limits``.

    Exact for normal values at any n >= 2. What values cannot be, a share above 1 say, is no part of the interval; that it
    is left out does not make the interval hold the mean less often. Raises :class:`~normhpc.errors.InputError` for no values or NaN.
    """
    given = finite_values("values", values)
    n, mean = len(given), float(given.mean())
    if n == 1:
        return MeanOfValues(n, mean, None, None, None)
    std = float(given.std(ddof=1))
    half = float(half_width(np.array(std), np.array(float(n))))
    return MeanOfValues(n, mean, std, max(limits[0], mean - half), min(limits[1], mean + half), half)


def ratio_of(values: ArrayLike, others: ArrayLike) -> Estimate:
    """Geometric mean of positive ``values`` (n,) over that of ``others`` (m,), with its 95 % interval.

    exp of Welch's t interval of the difference of mean logarithms: error sqrt(a + b), a = s^2 / n of the one, b of the
    other, with (a + b)^2 / (a^2 / (n - 1) + b^2 / (m - 1)) degrees of freedom. Without interval for n or m below 2.
    Raises :class:`~normhpc.errors.InputError` for no values, and for ones that are not above zero.
    """
    given = [finite_values(name, part) for name, part in (("values", values), ("others", others))]
    for name, part in zip(("values", "others"), given, strict=True):
        if part.min() <= 0:
            raise InputError(f"{name}: expected numbers above 0, got {part.min():g}; a ratio of means needs logarithms")
    first, second = (np.log(part) for part in given)
    difference = float(first.mean() - second.mean())
    n, m = len(first), len(second)
    method = "Welch t of logarithms"
    if min(n, m) < 2:
        return Estimate(math.exp(difference), None, None, n + m, method)
    errors = np.array([part.var(ddof=1) / len(part) for part in (first, second)])
    half = 0.0
    if errors.sum() > 0:
        freedom = errors.sum() ** 2 / (errors**2 / [n - 1, m - 1]).sum()
        half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2) * math.sqrt(errors.sum()))
    return Estimate(math.exp(difference), math.exp(difference - half), math.exp(difference + half), n + m, method)
