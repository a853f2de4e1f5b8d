"""What an evaluation finds."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normhpc.config.data import Labels

CHOSEN_BY: dict[Labels, str] = {"single": "top1", "multi": "map_macro"}
"""The metric on ``val`` that decides which epoch is the best, by the kind of labels."""

MOST_CONFUSED = 20
"""Classes up to which a summary has the confusion of each with each."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found on one split."""

    metrics: dict[str, float]
    """Under their names in ``metrics.jsonl``. NaN for what is not defined on these images."""
    details: dict[str, Any]
    """What only a summary has room for, as JSON values: results by class."""


def macro(values: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """The mean of ``values`` (K,) over the classes that are ``present`` (K,), exactly rounded; NaN when none is."""
    there = values[present]
    return math.fsum(there.tolist()) / len(there) if len(there) else math.nan


def f1(hits: NDArray[np.int64], truths: NDArray[np.int64], guesses: NDArray[np.int64]) -> NDArray[np.float64]:
    """2 hits / (truths + guesses) by class, 0 for a class that is neither there nor ever predicted."""
    found: NDArray[np.float64] = 2 * hits / np.maximum(truths + guesses, 1)
    return found


def by_class(values: NDArray[np.float64], present: NDArray[np.bool_]) -> list[float | None]:
    """``values`` (K,) as JSON, None for a class that is not ``present``."""
    return [value if there else None for value, there in zip(values.tolist(), present.tolist(), strict=True)]
