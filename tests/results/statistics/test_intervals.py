import math

import numpy as np
import pytest
import scipy.stats

from normhpc.errors import InputError
from normhpc.results.statistics.intervals import MeanOfValues, half_width, mean_of


def test_the_interval_is_student_s():
    values = np.array([0.90, 0.92, 0.97, 0.91, 0.99])
    for count in range(2, 6):
        chosen = values[:count]
        low, high = scipy.stats.t.interval(0.95, count - 1, chosen.mean(), scipy.stats.sem(chosen))
        half = half_width(np.array([chosen.std(ddof=1)]), np.array([count]))[0]
        assert half == pytest.approx((high - low) / 2, rel=1e-12)
        found = mean_of(chosen)
        assert (found.n, found.mean, found.std) == (count, chosen.mean(), chosen.std(ddof=1))
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
        assert found.method == "Student t"


def test_the_interval_by_hand():
    # t(p; 2) = (2 p - 1) / sqrt(2 p (1 - p)); std of 1, 2, 3 is 1
    t = 0.95 / math.sqrt(2 * 0.975 * 0.025)
    assert half_width(np.array([1.0]), np.array([3]))[0] == pytest.approx(t / math.sqrt(3), rel=1e-12)
    assert np.isnan(half_width(np.array([np.nan, np.nan]), np.array([1, 0]))).all()


def test_ends_are_cut_to_what_the_values_can_be_and_half_is_not():
    values = [0.98, 0.99, 1.0]
    half = scipy.stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    found = mean_of(values, (0.0, 1.0))
    assert (found.low, found.high, found.half) == pytest.approx((0.99 - half, 1.0, half))
    assert 0.99 + half > 1
    other = mean_of([-value for value in values], (-0.995, 0.0))
    assert (other.low, other.high, other.half) == pytest.approx((-0.995, -0.99 + half, half))
    assert mean_of([1.0], (0.0, 1.0)).half is None


def test_one_value_has_no_interval():
    assert mean_of([0.5]) == MeanOfValues(1, 0.5, None, None, None)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_covers_what_it_says(n):
    rng = np.random.default_rng(7)
    samples = rng.normal(0.9, 0.01, (40_000, n))
    half = half_width(samples.std(axis=1, ddof=1), np.full(40_000, n))
    assert np.mean(np.abs(samples.mean(axis=1) - 0.9) <= half) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "values: expected one axis, at least 1 long, got shape (0,)"),
        ([[1.0]], "values: expected one axis, at least 1 long, got shape (1, 1)"),
        (
            [1.0, math.nan, math.inf],
            "values: expected finite numbers, got 2 of 3 that are not; leave out what has no value, and say so",
        ),
    ],
)
def test_what_has_no_mean(values, text):
    with pytest.raises(InputError) as caught:
        mean_of(values)
    assert str(caught.value) == text
