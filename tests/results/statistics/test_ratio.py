import math

import numpy as np
import pytest
from scipy import stats

from normhpc.errors import InputError
from normhpc.results.statistics.intervals import ratio_of


@pytest.mark.parametrize("shapes", [(3, 3), (2, 5), (10, 4)])
def test_ratio_is_welch_of_logarithms(shapes: tuple[int, int]) -> None:
    generator = np.random.default_rng(sum(shapes))
    first, second = (np.exp(generator.normal(mean, 0.3, n)) for mean, n in zip((1.0, 0.5), shapes, strict=True))
    found = ratio_of(first, second)
    interval = stats.ttest_ind(np.log(first), np.log(second), equal_var=False).confidence_interval()
    assert found.value == pytest.approx(stats.gmean(first) / stats.gmean(second), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)), rel=1e-9)
    assert found.n == sum(shapes)
    back = ratio_of(second, first)
    assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low), rel=1e-9)


def test_one_value_has_no_interval_and_equal_values_a_point() -> None:
    one = ratio_of([2.0], [1.0, 4.0])
    assert (one.value, one.low, one.high, one.n) == (pytest.approx(1.0, rel=1e-12), None, None, 3)
    found = ratio_of([3.0, 3.0], [2.0, 2.0])
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5), rel=1e-12)


def test_numbers_that_have_no_logarithm() -> None:
    with pytest.raises(
        InputError, match=r"^others: expected numbers above 0, got 0; a ratio of means needs logarithms$"
    ):
        ratio_of([1.0, 2.0], [0.0, 1.0])
