"""Means of explanations over images, and answers that several networks get right."""

import math

import numpy as np
import pytest
from scipy import stats

from normhpc.results.explained import over_images, own_and_common, parts_of, right_in_all, told


def test_a_mean_over_images_has_a_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=20)
    found = over_images(values, np.arange(20))
    assert found is not None
    low, high = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (found.n, found.mean, found.low, found.high) == pytest.approx((20, values.mean(), low, high))


def test_maps_of_one_image_are_averaged_first_and_what_is_not_finite_or_chosen_left_out() -> None:
    values = np.array([1.0, 3.0, 10.0, np.nan, 6.0, 100.0])
    found = over_images(values, np.array([0, 0, 4, 4, 7, 9]), np.array([True] * 5 + [False]))
    assert found is not None
    assert (found.n, found.mean) == (3, pytest.approx((2 + 10 + 6) / 3))
    assert told(found) == f"6.00 ± {4 * stats.t.ppf(0.975, 2) / 3**0.5:.2f}, n = 3"
    one = over_images(values[:2], np.array([5, 5]))
    assert parts_of(one) == (2.0, None, None, 1)
    assert told(one) == "2.00, n = 1"
    assert (told(None), parts_of(None)) == ("-, n = 0", (None, None, None, 0))
    assert over_images(values, np.arange(6), np.zeros(6, bool)) is None


@pytest.mark.parametrize(
    ("measure", "least", "most"),
    [
        ("srg_retention", -1, 1),
        ("srg_probability_blur", -1, 1),
        ("insertion_blur", 0, 1),
        ("pointing", 0, 1),
        ("sensitivity_max", 0, math.inf),
        ("other", -math.inf, math.inf),
    ],
)
def test_intervals_stay_within_what_a_number_can_be(measure: str, least: float, most: float) -> None:
    values = np.array([0.0, 0.9, 1.0, 0.05])
    arrays = {"rows": np.arange(4), "labels": np.zeros(4), "right": np.ones(4, bool), "counted": np.ones(4, bool)}
    [(own, common)] = own_and_common([{**arrays, measure: values}], measure)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert low < 0
    assert high > 1
    for found in (own, common):
        assert (found.low, found.high) == pytest.approx((max(low, least), min(high, most)))
        assert told(found) == f"{values.mean():.2f} ± {high - values.mean():.2f}, n = 4"


def run(rows: list[int], labels: list[int], right: list[bool], srg: list[float]) -> dict[str, np.ndarray]:
    arrays = {"rows": rows, "labels": labels, "right": right, "srg": srg, "counted": [True] * len(rows)}
    return {name: np.array(each) for name, each in arrays.items()}


def test_answers_that_all_runs_get_right() -> None:
    # image 1 is right in both, 2 in one, 3 not seen by the second; of image 4 only label 8 is found by both
    first = run([1, 2, 3, 4, 4], [5, 6, 7, 8, 9], [True, True, True, True, False], [0.1, 0.2, 0.3, 0.4, 0.6])
    second = run([4, 4, 1, 2], [8, 9, 5, 6], [True, True, True, False], [0.5, 0.7, 0.9, 1.0])
    chosen = right_in_all([first, second])
    assert [one.tolist() for one in chosen] == [[True, False, False, True, False], [True, False, True, False]]
    assert right_in_all([first])[0].tolist() == first["right"].tolist()
    assert right_in_all([]) == []
    (own, common), (other, its_common) = own_and_common([first, second], "srg")
    assert (own.n, own.mean) == (4, pytest.approx(np.mean([0.1, 0.2, 0.3, 0.5])))
    assert (common.n, common.mean) == (2, pytest.approx(0.25))
    assert (other.n, other.mean) == (3, pytest.approx(np.mean([0.6, 0.9, 1.0])))
    assert (its_common.n, its_common.mean) == (2, pytest.approx(0.7))
