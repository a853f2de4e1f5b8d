"""Calibration against plain loops, scikit-learn, and networks that are calibrated by construction."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from normhpc.posthoc.answers import mean_nll, probabilities
from normhpc.posthoc.calibration import brier, calibration, equal_mass, equal_width, fitted_temperature


def drawn(count: int, classes: int, seed: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=scale, size=(count, classes)).astype(np.float32)
    shares = probabilities(logits, multiple=False)
    labels = (shares.cumsum(axis=1) < generator.random((count, 1))).sum(axis=1)
    return logits, np.minimum(labels, classes - 1)


def by_hand(confidence: np.ndarray, right: np.ndarray, bins: list[list[int]]) -> float:
    total = 0.0
    for members in bins:
        if members:
            gap = sum(right[one] for one in members) - sum(confidence[one] for one in members)
            total += abs(gap)
    return total / len(confidence)


def test_ece_is_that_of_a_loop_over_bins() -> None:
    logits, labels = drawn(400, 5, seed=1)
    shares = probabilities(logits * 3, multiple=False)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    found = calibration(shares, labels)
    width = [[row for row in range(400) if bin / 15 < confidence[row] <= (bin + 1) / 15] for bin in range(15)]
    order = sorted(range(400), key=lambda row: (confidence[row], row))
    mass = [[order[place] for place in range(400) if place * 15 // 400 == bin] for bin in range(15)]
    assert found.ece["equal_width"] == pytest.approx(by_hand(confidence, right, width), abs=1e-12)
    assert found.ece["equal_mass"] == pytest.approx(by_hand(confidence, right, mass), abs=1e-12)


def test_bins_of_equal_width_take_their_upper_edge() -> None:
    assert equal_width(np.array([0.0, 0.1, 0.2, 0.5, 0.500001, 1.0]), 10).tolist() == [0, 0, 1, 4, 5, 9]


def test_bins_of_equal_mass_differ_by_one_at_most() -> None:
    counts = np.bincount(equal_mass(np.random.default_rng(0).random(100)), minlength=15)
    assert counts.sum() == 100
    assert set(counts) == {6, 7}
    assert equal_mass(np.full(3, 0.5), 3).tolist() == [0, 1, 2]


def test_nll_and_brier_are_scikit_learn_s_and_the_formula_s() -> None:
    logits, labels = drawn(300, 4, seed=2)
    shares = probabilities(logits, multiple=False)
    assert mean_nll(logits, labels) == pytest.approx(log_loss(labels, shares, labels=range(4)), rel=1e-12)
    truth = np.eye(4)[labels]
    assert brier(shares, labels) == pytest.approx(((shares - truth) ** 2).sum(axis=1).mean(), rel=1e-12)
    many = np.random.default_rng(0).integers(0, 2, (300, 4))
    each = probabilities(logits, multiple=True)
    wanted = np.mean([log_loss(many[:, k], each[:, k], labels=[0, 1]) for k in range(4)])
    assert mean_nll(logits, many) == pytest.approx(wanted, rel=1e-9)
    assert brier(each, many) == pytest.approx(((each - many) ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
def test_the_temperature_is_where_the_nll_is_least(heat: float) -> None:
    logits, labels = drawn(4000, 6, seed=3)
    found = fitted_temperature(logits * heat, labels)
    assert found == pytest.approx(heat, rel=0.1)
    least = mean_nll(logits * heat, labels, found)
    assert all(mean_nll(logits * heat, labels, found * factor) > least for factor in (0.99, 1.01))
    # the slope of the nll in 1/T is the mean of sum_k (p_k - y_k) z_k, zero at the best T
    shares = probabilities(logits * heat, multiple=False, temperature=found)
    slope = ((shares - np.eye(6)[labels]) * logits.astype(np.float64)).sum(axis=1).mean()
    assert abs(slope) < 1e-5


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
@pytest.mark.parametrize("multiple", [False, True])
def test_no_temperature_is_best_when_all_answers_are_right_or_worse_than_a_guess(scale: float, multiple: bool) -> None:
    logits = drawn(50, 4, seed=5)[0]
    logits = logits * scale
    right = (logits >= 0).astype(int) if multiple else logits.argmax(axis=1)
    wrong = 1 - right if multiple else logits.argmin(axis=1)
    assert fitted_temperature(logits, right) is None
    assert fitted_temperature(logits, wrong) is None
    # one mistake bounds T, where it is not beyond 0.01 and 100
    one = right.copy()
    one[0] = 1 - one[0] if multiple else logits[0].argmin()
    found = fitted_temperature(logits, one)
    assert found is None if scale != 1 else found == pytest.approx(nll_s_best(logits, one), rel=1e-5)


def nll_s_best(logits: np.ndarray, labels: np.ndarray) -> float:
    """The best of a fine grid, refined: an independent way to the temperature."""
    low, high = 0.01, 100.0
    for _ in range(12):
        grid = np.geomspace(low, high, 101)
        best = int(np.argmin([mean_nll(logits, labels, heat) for heat in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 100)]
    return float(grid[best])


def test_labels_drawn_from_the_network_s_own_probabilities_stay_within_the_floor() -> None:
    inside = {"equal_width": 0, "equal_mass": 0}
    for seed in range(100):
        logits, labels = drawn(300, 10, seed=seed)
        found = calibration(probabilities(logits, multiple=False), labels, seed=seed + 1000)
        for name in inside:
            low, high = np.quantile(found.floors[name], [0.025, 0.975])
            inside[name] += low <= found.ece[name] <= high
    # 95 of 100 are expected; 89 or fewer have a chance of 1 in 100
    assert min(inside.values()) >= 90


def test_several_labels_drawn_from_the_probabilities_stay_within_the_floor() -> None:
    inside = {"equal_width": 0, "equal_mass": 0}
    for seed in range(100):
        generator = np.random.default_rng(seed)
        shares = generator.random((200, 3))
        labels = (generator.random((200, 3)) < shares).astype(np.int64)
        found = calibration(shares, labels, seed=seed + 1000)
        for name in inside:
            low, high = np.quantile(found.floors[name], [0.025, 0.975])
            inside[name] += low <= found.ece[name] <= high
    # quantiles of 100 draws are the 3rd and the 98th: 94 of 100 are expected, 87 or fewer have a chance of 1 in 100
    assert min(inside.values()) >= 88


def test_overconfidence_lies_above_the_floor_and_the_floor_shrinks_with_images() -> None:
    means = []
    for count in (500, 5000):
        logits, labels = drawn(count, 10, seed=5)
        found = calibration(probabilities(logits * 3, multiple=False), labels)
        assert found.ece["equal_width"] > 5 * np.quantile(found.floors["equal_width"], 0.975)
        means.append(found.floors["equal_width"].mean())
    assert means[1] == pytest.approx(means[0] / 10**0.5, rel=0.15)


def test_several_labels_are_calibrated_class_by_class() -> None:
    generator = np.random.default_rng(6)
    shares = generator.random((500, 3))
    labels = (generator.random((500, 3)) < shares).astype(np.int64)
    found = calibration(shares, labels)
    each = []
    for k in range(3):
        bins = [[row for row in range(500) if bin / 15 < shares[row, k] <= (bin + 1) / 15] for bin in range(15)]
        each.append(by_hand(shares[:, k], labels[:, k], bins))
    assert found.ece["equal_width"] == pytest.approx(np.mean(each), abs=1e-12)
    low, high = np.quantile(found.floors["equal_width"], [0.005, 0.995])
    assert low <= found.ece["equal_width"] <= high
