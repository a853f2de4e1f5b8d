"""Numbers of explanations: means over images, and the answers that several networks all get right."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normhpc.results.statistics.intervals import ANY, MeanOfValues, mean_of

_LIMITS = {
    "srg": (-1.0, 1.0),
    **dict.fromkeys(("deletion", "insertion", "pointing", "energy", "chance"), (0.0, 1.0)),
    "sensitivity": (0.0, math.inf),
}
"""Of numbers of explanations, by the first word of their names."""


def over_images(
    values: NDArray[np.float64],
    rows: NDArray[np.integer],
    chosen: NDArray[np.bool_] | None = None,
    *,
    limits: tuple[float, float] = ANY,
) -> MeanOfValues | None:
    """Mean of ``values`` (P,) of maps over their images ``rows`` (P,), with its 95 % interval over images in ``limits``.

    An image of several labels has a map for each: their mean is taken first, since they are not independent. Values that
    are not finite, and maps that are not ``chosen`` (P,), are left out. None when nothing is left.
    """
    taken = np.isfinite(values) if chosen is None else np.isfinite(values) & chosen
    if not taken.any():
        return None
    _, image = np.unique(rows[taken], return_inverse=True)
    return mean_of(np.bincount(image, values[taken]) / np.bincount(image), limits)


def limits_of(measure: str) -> tuple[float, float]:
    """The least and the most that a number of a map can be: ``srg_retention`` from -1 to 1, ``insertion_blur`` to 1."""
    return _LIMITS.get(measure.partition("_")[0], ANY)


def own_and_common(
    runs: Sequence[Mapping[str, NDArray[Any]]], measure: str
) -> list[tuple[MeanOfValues | None, MeanOfValues | None]]:
    """For each run the mean of ``measure`` over its own answers, and that over the answers that all ``runs`` get right.

    A run is the content of a ``saliency.npz``: of each map its image (``rows``), the label of that (``labels``), whether
    the network says so (``right``), whether the map is ``counted`` in the run's own means, and ``measure``.
    """
    return [
        (
            over_images(run[measure], run["rows"], run["counted"], limits=limits_of(measure)),
            over_images(run[measure], run["rows"], common, limits=limits_of(measure)),
        )
        for run, common in zip(runs, right_in_all(runs), strict=True)
    ]


def right_in_all(runs: Sequence[Mapping[str, NDArray[Any]]]) -> list[NDArray[np.bool_]]:
    """For each run which of its maps (P,) explain an answer, a label of an image, that all ``runs`` get right."""
    answers = [list(zip(run["rows"].tolist(), run["labels"].tolist(), strict=True)) for run in runs]
    right = [
        {answer for answer, holds in zip(own, run["right"].tolist(), strict=True) if holds}
        for own, run in zip(answers, runs, strict=True)
    ]
    common = set.intersection(*right) if right else set()
    return [np.array([answer in common for answer in own], dtype=bool) for own in answers]


def told(mean: MeanOfValues | None) -> str:
    """``0.23 ± 0.04, n = 96``: the mean with half of its interval, as far as there is one."""
    if mean is None:
        return "-, n = 0"
    half = "" if mean.half is None else f" ± {mean.half:.2f}"
    return f"{mean.mean:.2f}{half}, n = {mean.n}"


def parts_of(mean: MeanOfValues | None) -> tuple[float | None, float | None, float | None, int]:
    """Mean, both ends of its interval, and n."""
    return (mean.mean, mean.low, mean.high, mean.n) if mean else (None, None, None, 0)
