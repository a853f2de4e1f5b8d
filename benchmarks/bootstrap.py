"""Time of bootstrap intervals: 20 methods, 2,000 draws, 5 seeds of 20 tasks, against rliable's way.

    python benchmarks/bootstrap.py [--rounds 5]

rliable itself cannot be imported beside pandas 3 (through arch), so its way is written again here and labelled so:
every draw by itself takes indices with ``choice``, gathers the scores and calls scipy's ``trim_mean``. Both take turns; the
clock is the processor time of the process, times are those of the fastest round, the ratio is the median over rounds.
Before anything is timed both must find the same intervals, to 3 % of their width at 20,000 draws.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from normhpc.results.statistics.bootstrap import AGGREGATES, Aggregate, aggregate_intervals

METHODS, TASKS, SEEDS = 20, 20, 5


def in_rliable_s_way(scores: NDArray[np.float64], rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """The 95 % interval of the interquartile mean of ``scores`` (seeds, tasks), one draw after the other."""
    tasks = np.arange(scores.shape[1])[None]
    found = []
    for _ in range(draws):
        indices = rng.choice(scores.shape[0], scores.shape, replace=True)
        found.append(scipy.stats.trim_mean(scores[indices, tasks], 0.25, axis=None))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def check_agreement(scores: NDArray[np.float64]) -> None:
    """Stop when the two ways do not find the same interval."""
    theirs = in_rliable_s_way(scores.T, np.random.default_rng(1), 20_000)
    ours = aggregate_intervals(scores, np.random.default_rng(2), aggregates=["iqm"], draws=20_000)["iqm"]
    assert ours.low is not None
    assert ours.high is not None
    width = theirs[1] - theirs[0]
    apart = max(abs(ours.low - theirs[0]), abs(ours.high - theirs[1]))
    assert apart < 0.03 * width, f"intervals are {apart / width:.1%} of their width apart"


def measure(rounds: int, draws: int) -> dict[str, float]:
    """Seconds for all methods, and how often ours fits into the peer's time."""
    scores = np.random.default_rng(0).normal(0.8, 0.1, (METHODS, TASKS, SEEDS))
    check_agreement(scores[0])

    def ours(aggregates: tuple[Aggregate, ...]) -> None:
        rng = np.random.default_rng(0)
        for method in scores:
            aggregate_intervals(method, rng, aggregates=aggregates, draws=draws)

    def peer() -> None:
        rng = np.random.default_rng(0)
        for method in scores:
            in_rliable_s_way(method.T, rng, draws)

    contestants: dict[str, Callable[[], None]] = {
        "iqm": lambda: ours(("iqm",)),
        "all_four": lambda: ours(AGGREGATES),
        "rliable_s_way_iqm": peer,
    }
    rows: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        row = {}
        for name, work in contestants.items():
            began = time.process_time()
            work()
            row[name] = time.process_time() - began
        rows.append(row)
    return {
        **{f"{name}_seconds": round(min(row[name] for row in rows[1:]), 3) for name in contestants},
        "times_as_fast": round(statistics.median(row["rliable_s_way_iqm"] / row["iqm"] for row in rows[1:]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    print(json.dumps(measure(given.rounds, given.draws)))


if __name__ == "__main__":
    main()
