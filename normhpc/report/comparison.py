"""Which cell of a block is the best, which ones cannot be told from it, and how small a difference would show."""

import math
from dataclasses import dataclass

import numpy as np

from normhpc.report.study import Study
from normhpc.results.statistics.paired import detectable_difference, seeds_needed
from normhpc.results.ties import ALPHA, against_best


@dataclass(frozen=True, slots=True)
class Comparison:
    """The cells of a block held against the one with the best mean; numbers of rows of ``study.cells``."""

    block: int
    best: int
    tied: tuple[int, ...]
    """p of no difference is 0.05 or more, by seed, after Holm."""
    worse: tuple[int, ...]
    unjudged: tuple[int, ...]
    """Have a mean, but fewer than two seeds in common with the best."""
    absent: tuple[int, ...]
    """No run has a value."""
    power: "Power | None"


@dataclass(frozen=True, slots=True)
class Power:
    """The smallest difference that ``seeds`` seeds a cell show in four of five studies, from the spread of all cells."""

    std: float
    """Pooled over cells: the root of the mean variance, weighted by n - 1."""
    cells: int
    seeds: int
    """Of the cell with the fewest."""
    one: float
    """For one comparison decided on beforehand."""
    all_with_best: float
    comparisons: int
    seeds_for_half: int
    """To show half of ``all_with_best``."""


def compare(study: Study, block: int, metric: str | None = None) -> Comparison | None:
    """The cells of ``block`` by ``metric``, by default the study's; None when no run of it has a value."""
    name = metric or study.metric
    members = study.cells_in(block)
    values = {cell: study.values_by_seed(cell, name) for cell in members}
    there = [cell for cell in members if values[cell]]
    if not there:
        return None
    best, p_values = against_best({cell: values[cell] for cell in there}, study.direction)
    return Comparison(
        block=block,
        best=best,
        tied=tuple(cell for cell, p in p_values.items() if p >= ALPHA),
        worse=tuple(cell for cell, p in p_values.items() if p < ALPHA),
        unjudged=tuple(cell for cell in there if cell != best and cell not in p_values),
        absent=tuple(cell for cell in members if not values[cell]),
        power=_power([np.array(list(values[cell].values())) for cell in there]),
    )


def _power(scores: "list[np.ndarray[tuple[int], np.dtype[np.float64]]]") -> Power | None:
    repeated = [each for each in scores if len(each) > 1]
    if not repeated or len(scores) < 2:
        return None
    freedom = sum(len(each) - 1 for each in repeated)
    std = math.sqrt(sum(float(each.var(ddof=1)) * (len(each) - 1) for each in repeated) / freedom)
    if std == 0:
        return None
    seeds, comparisons = min(map(len, repeated)), len(scores) - 1
    one = detectable_difference(seeds, std).difference
    many = detectable_difference(seeds, std, comparisons=comparisons).difference
    half = seeds_needed(many / 2, std, comparisons=comparisons)
    return Power(std, len(repeated), seeds, one, many, comparisons, half)
