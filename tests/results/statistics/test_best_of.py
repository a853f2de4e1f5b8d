from itertools import combinations

import numpy as np
import pytest

from normhpc.errors import InputError
from normhpc.results.statistics.best_of import draws_to_reach, expected_best


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_it_is_the_mean_over_all_subsets(n):
    scores = np.random.default_rng(n).normal(size=n)
    expected = [np.mean([max(part) for part in combinations(scores, k)]) for k in range(1, n + 1)]
    assert expected_best(scores) == pytest.approx(expected, rel=1e-12)
    smallest = [np.mean([min(part) for part in combinations(scores, k)]) for k in range(1, n + 1)]
    assert expected_best(scores, higher_is_better=False) == pytest.approx(smallest, rel=1e-12)


def test_equal_scores_and_many():
    assert expected_best([0.5, 0.5, 0.5]).tolist() == pytest.approx([0.5, 0.5, 0.5], rel=1e-15)
    many = np.random.default_rng(0).random(400)
    curve = expected_best(many)
    assert curve[0] == pytest.approx(many.mean(), rel=1e-12)
    assert curve[-1] == many.max()
    assert (np.diff(curve) >= 0).all()


def test_it_is_unbiased():
    # the best of 3 uniform numbers is 3/4 in the mean, estimated from 6 of them
    rng = np.random.default_rng(1)
    found = np.mean([expected_best(rng.random(6))[2] for _ in range(4000)])
    assert found == pytest.approx(0.75, abs=0.005)


def test_draws_to_reach():
    scores = [0.1, 0.2, 0.3, 0.4]
    # of two: (0.2 + 0.3 + 0.4 + 0.3 + 0.4 + 0.4) / 6 = 1/3
    assert expected_best(scores)[1] == pytest.approx(1 / 3, rel=1e-12)
    assert draws_to_reach(scores, 0.33) == 2
    assert draws_to_reach(scores, 0.25) == 1
    assert draws_to_reach(scores, 0.41) is None
    assert draws_to_reach(scores, 0.2, higher_is_better=False) == 2


def test_what_is_refused():
    with pytest.raises(InputError, match="scores: expected finite numbers, got 1 of 2 that are not"):
        expected_best([0.1, float("nan")])
    with pytest.raises(InputError, match="target: expected a finite number, got nan"):
        draws_to_reach([0.1], float("nan"))
