"""Time until an accuracy is reached, where some runs never reach it (Kaplan and Meier 1958).

A run that ends without reaching the target is censored: all that is known is that it takes longer. A mean over the
runs that did reach it would make a method look the faster the more of its runs fail.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.errors import InputError
from normhpc.results.statistics.finite import finite_values
from normhpc.results.statistics.intervals import half_width


@dataclass(frozen=True, slots=True)
class TimeToTarget:
    """When a run reached the target, or how long it was watched without."""

    duration: float
    reached: bool


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalCurve:
    """The share of runs that have not reached the target yet, of ``n``, ``reached`` of which did."""

    n: int
    reached: int
    times: NDArray[np.float64]
    """(E,) ascending: when at least one run reached it."""
    survival: NDArray[np.float64]
    """(E,): the share from each of these times on; 1 before the first."""
    at_risk: NDArray[np.int64]
    """(E,): runs that were watched and had not reached it just before."""
    arrivals: NDArray[np.int64]
    """(E,): runs that reached it then."""
    longest: float
    """How long any run was watched."""
    method: str = "Kaplan-Meier"


@dataclass(frozen=True, slots=True)
class RestrictedMean:
    """Mean time to the target within ``horizon``, in the unit of the times, with its 95 % interval (None without one).

    ``reached`` of ``n`` runs got there.
    """

    n: int
    reached: int
    mean: float
    low: float | None
    high: float | None
    horizon: float
    method: str = "restricted mean, area under Kaplan-Meier, Student t of Greenwood's variance"
    notes: tuple[str, ...] = ()


def time_to_target(
    times: ArrayLike, values: ArrayLike, target: float, *, higher_is_better: bool = True
) -> TimeToTarget:
    """The first of ``times`` (n,), ascending, at which ``values`` (n,) is ``target`` or better; else the last of them.

    ``times`` is the training time at the end of each epoch. A value that is NaN reaches nothing. Raises
    :class:`InputError` for no times, times that fall, different numbers of both.
    """
    at = finite_values("times", times)
    measured = np.asarray(values, dtype=np.float64)
    if measured.shape != at.shape:
        raise InputError(f"values: expected one for each of the {len(at)} times, got shape {measured.shape}")
    if (np.diff(at) < 0).any():
        raise InputError("times: expected ascending times, got one below its predecessor; add up what epochs took")
    there = np.flatnonzero(measured >= target if higher_is_better else measured <= target)
    return TimeToTarget(float(at[there[0]]), True) if len(there) else TimeToTarget(float(at[-1]), False)


def kaplan_meier(durations: ArrayLike, reached: ArrayLike) -> SurvivalCurve:
    """The survival curve of runs with ``durations`` (n,), of which those in ``reached`` (n,) ended at the target.

    S(t) = product over event times s <= t of 1 - d(s) / r(s), d(s) runs that reach it at s of the r(s) that have lasted
    until s; a run censored at s still counts in r(s). Raises :class:`InputError` for no runs, NaN, negative durations.
    """
    lasted = finite_values("durations", durations)
    events = np.asarray(reached, dtype=bool)
    if events.shape != lasted.shape:
        raise InputError(f"reached: expected one for each of the {len(lasted)} durations, got shape {events.shape}")
    if lasted.min() < 0:
        raise InputError(f"durations: expected times from 0 on, got {lasted.min()}")
    times, counts = np.unique(lasted[events], return_counts=True)
    at_risk = np.asarray([(lasted >= time).sum() for time in times], dtype=np.int64)
    survival = np.cumprod(1 - counts / at_risk, dtype=np.float64)
    return SurvivalCurve(
        len(lasted), int(events.sum()), times, survival, at_risk, counts.astype(np.int64), float(lasted.max())
    )


def restricted_mean(curve: SurvivalCurve, horizon: float) -> RestrictedMean:
    """The area under ``curve`` from 0 to ``horizon``: the mean of min(time to the target, horizon).

    A method that never reaches the target has the horizon. Methods are compared at one horizon. Beyond the longest
    run the curve is held flat, and a note says so.

    The interval is mean +/- t(0.975; n - 1) s, within 0 and the horizon, s^2 = n / (n - 1) times the sum over arrival
    times t of A(t)^2 d / (r (r - d)), A(t) the area from t to the horizon, d arrivals of r at risk. Where no run was
    censored before the horizon it is the Student t interval of min(time, horizon). None for one run, and where nobody
    arrived within the horizon. Raises :class:`InputError` for a horizon that is not positive.
    """
    if not (np.isfinite(horizon) and horizon > 0):
        raise InputError(f"horizon: expected a positive time, got {horizon}; the longest run took {curve.longest:g}")
    inside = curve.times < horizon
    edges = np.concatenate([[0.0], curve.times[inside], [horizon]])
    levels = np.concatenate([[1.0], curve.survival[inside]])
    pieces = np.diff(edges) * levels
    area = float(pieces.sum())
    notes: tuple[str, ...] = ()
    if horizon > curve.longest and curve.reached < curve.n:
        notes = (f"no run lasted beyond {curve.longest:g}: held flat from there to {horizon:g}",)
    low = high = None
    if curve.n > 1 and inside.any():
        half = _half_width(curve, inside, after=pieces[::-1].cumsum()[::-1][1:])
        low, high = max(0.0, area - half), min(float(horizon), area + half)
    return RestrictedMean(curve.n, curve.reached, area, low, high, float(horizon), notes=notes)


def _half_width(curve: SurvivalCurve, inside: NDArray[np.bool_], *, after: NDArray[np.float64]) -> float:
    """Half of the interval of a restricted mean; ``after`` is the area that follows each of the times ``inside``."""
    at_risk, arrivals = curve.at_risk[inside], curve.arrivals[inside]
    left = at_risk - arrivals
    # where everybody has arrived no area is left
    terms = np.divide(after**2 * arrivals, at_risk * left, out=np.zeros(len(after)), where=left > 0)
    n = np.array(float(curve.n))
    # half_width divides by the root of n, which the terms have in them already
    std = np.sqrt(terms.sum() * n / (n - 1) * n)
    return float(half_width(std, n))
