"""Errors under corruption relative to those of a reference network, over seeds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normhpc.errors import InputError
from normhpc.results.statistics.intervals import ANY, MeanOfValues, mean_of

REFERENCE = "batch"
"""The norm whose errors are 1: batch norm with its running statistics, on the same data, network and seeds."""

USUAL, TEST_BATCH = "usual", "test_batch_statistics"
"""Predictors: a network as it is, and where it answers otherwise so with the statistics of test batches."""

_LIMITS = {"relative_mce": ANY, "mean_corruption_error": (0.0, 1.0)}
"""Of the interval of a measure; others are ratios of errors."""


class CorruptionErrors(NamedTuple):
    """Errors of one predictor, of one seed or means over seeds."""

    clean: float
    by_severity: Mapping[str, NDArray[np.float64]]
    """(5,) for each corruption that counts in the mean."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "CorruptionErrors":
        """What the analysis ``corruption`` kept under ``values``, or under its ``test_batch_statistics``."""
        counted = {name: np.array(values["error_by_severity"][name]) for name in values["in_mean"]}
        return cls(float(values["clean_error"]), counted)


def mean_over_seeds(errors: Sequence[CorruptionErrors]) -> CorruptionErrors:
    """Means of clean errors and of errors at each severity.

    Raises :class:`~normhpc.errors.InputError` unless all have the same corruptions.
    """
    names = [list(one.by_severity) for one in errors]
    if any(own != names[0] for own in names):
        raise InputError(
            f"expected the same corruptions of all runs, got {', '.join(names[0])} and others; "
            "normhpc analyze RUN --what corruption --again makes them anew"
        )
    means = {name: np.mean([one.by_severity[name] for one in errors], axis=0) for name in names[0]}
    return CorruptionErrors(float(np.mean([one.clean for one in errors])), means)


class Robustness(NamedTuple):
    """Errors of one network in multiples of the reference's; NaN where the reference makes none."""

    ce: dict[str, float]
    """CE_c = sum_s E_sc / sum_s E^ref_sc, s the severities, for each corruption c."""
    mce: float
    """Mean of CE_c over the corruptions."""
    relative_mce: float
    """Mean over c of sum_s (E_sc - E_clean) / sum_s (E^ref_sc - E^ref_clean)."""


def robustness(own: CorruptionErrors, reference: CorruptionErrors) -> Robustness:
    """The mCE of Hendrycks and Dietterich 2019 (arXiv:1903.12261), by a reference of one's own in AlexNet's place.

    For one ``reference`` the mean of mCE over networks is the mCE of their mean errors. Raises
    :class:`~normhpc.errors.InputError` unless both have the same corruptions.
    """
    mean_over_seeds([own, reference])
    ce = {name: _ratio(own.by_severity[name], reference.by_severity[name]) for name in own.by_severity}
    relative = [_ratio(own.by_severity[name] - own.clean, reference.by_severity[name] - reference.clean) for name in ce]
    return Robustness(ce, float(np.mean(list(ce.values()))), float(np.mean(relative)))


def over_seeds(
    own: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]]
) -> dict[str, NDArray[np.float64]]:
    """``mce``, ``relative_mce``, ``mean_corruption_error`` and CE of each corruption, (S,) over the seeds of ``own``.

    Both are values as in :meth:`CorruptionErrors.of`; the reference are mean errors of ``controls``. What is not finite
    at every seed, where the reference makes no error, is left out.
    """
    reference = mean_over_seeds([CorruptionErrors.of(one) for one in controls])
    found = [robustness(CorruptionErrors.of(one), reference) for one in own]
    numbers = {
        "mce": [one.mce for one in found],
        "relative_mce": [one.relative_mce for one in found],
        "mean_corruption_error": [one["mean_corruption_error"] for one in own],
    } | {name: [one.ce[name] for one in found] for name in found[0].ce}
    return {name: np.array(each) for name, each in numbers.items() if np.isfinite(each).all()}


class Compared(NamedTuple):
    """One predictor of a norm against the reference, over the seeds that both have."""

    predictor: str
    """:data:`USUAL` or :data:`TEST_BATCH`."""
    measures: dict[str, MeanOfValues]
    """Of what :func:`over_seeds` gives."""
    seeds: tuple[int, ...]
    left_out: int
    """Seeds of the norm that the reference lacks."""


def compared(own: Mapping[int, Mapping[str, Any]], controls: Mapping[int, Mapping[str, Any]]) -> Iterator[Compared]:
    """Each predictor of a norm against the reference, both values as in :meth:`CorruptionErrors.of` by seed.

    Nothing without a seed in common, and of :data:`TEST_BATCH` nothing where a network answers alike in both modes.
    Raises :class:`~normhpc.errors.InputError` unless all have the same corruptions.
    """
    seeds = tuple(sorted(own.keys() & controls.keys()))
    if not seeds:
        return
    references = [controls[seed] for seed in seeds]
    for predictor in (USUAL, TEST_BATCH):
        values = [predicted_by(own[seed], predictor) for seed in seeds]
        there = [each for each in values if each is not None]
        if len(there) == len(values):
            found = over_seeds(there, references)
            means = {measure: mean_of(each, _LIMITS.get(measure, (0.0, math.inf))) for measure, each in found.items()}
            yield Compared(predictor, means, seeds, len(own) - len(seeds))


def predicted_by(values: Mapping[str, Any], predictor: str) -> Mapping[str, Any] | None:
    """The part of what the analysis kept that is about ``predictor``; None where a network has no such other answers."""
    found: Mapping[str, Any] | None = values if predictor == USUAL else values[TEST_BATCH]
    return found


def _ratio(own: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    below = float(reference.sum())
    return float(own.sum()) / below if below > 0 else float("nan")
