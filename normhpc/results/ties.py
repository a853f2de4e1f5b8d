"""Which cells of a table cannot be told from the best one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from normhpc.results.names import better
from normhpc.results.statistics.paired import holm, paired_difference

ALPHA = 0.05

METHOD = "bold: best mean; underlined: not distinguishable from it (paired by seed, Holm, 5 %)"
"""How the marks of a table were found."""


def against_best(values: Mapping[int, Mapping[int, float]], direction: int) -> tuple[int, dict[int, float]]:
    """Compare cells, each a value for each seed, with the best: the highest mean for ``direction`` 1, the lowest for -1.

    Gives the number of the best, and of each other cell with two seeds or more in common with it the p of no difference,
    by :func:`~normhpc.results.statistics.paired.paired_difference` and adjusted by Holm. Every cell has a value.
    """
    means = {cell: float(np.mean(list(by_seed.values()))) for cell, by_seed in values.items()}
    best = max(means, key=lambda cell: direction * means[cell])
    p: dict[int, float] = {}
    for cell, by_seed in values.items():
        seeds = sorted(by_seed.keys() & values[best].keys())
        if cell != best and len(seeds) >= 2:
            first, second = ([values[one][seed] for seed in seeds] for one in (best, cell))
            p[cell] = paired_difference(first, second).p
    return best, dict(zip(p, holm(list(p.values())).tolist(), strict=True)) if p else {}


def tied_with_best(values: pd.Series, seeds: pd.Series, cell: pd.Series, rivals: pd.Series, metric: str) -> list[int]:
    """The numbers of the cells whose mean of ``metric`` cannot be told from, but is not equal to, the best of their rivals.

    ``values`` and ``seeds`` have an entry a run, ``cell`` is the number of its cell, ``rivals`` of each cell the group in
    which the best is sought. Of several runs with one seed in a cell the mean counts.
    """
    direction = better(metric)
    there = values.notna()
    if direction == 0 or not there.any():
        return []
    by_seed = values[there].groupby([cell[there].rename("cell"), seeds[there].rename("seed")]).mean()
    members: dict[int, dict[int, float]] = {}
    for number, seed, value in by_seed.rename("value").reset_index().itertuples(index=False):
        members.setdefault(int(number), {})[int(seed)] = float(value)
    tied: list[int] = []
    for _, group in rivals.groupby(rivals, dropna=False):
        chosen = {int(number): members[int(number)] for number in group.index if int(number) in members}
        if chosen:
            best, p = against_best(chosen, direction)
            top = np.mean(list(chosen[best].values()))
            tied += [n for n, value in p.items() if value >= ALPHA and np.mean(list(chosen[n].values())) != top]
    return sorted(tied)
