"""Random draws: reproducible to the digit, each parameter independent of the others."""

import itertools
import math

import pytest

from normhpc.sweep.sampling import Distribution

RATE = Distribution(("optim", "lr"), "log_uniform", (1e-4, 1), ())
MOMENTUM = Distribution(("optim", "momentum"), "uniform", (0, 0.99), ())
SMOOTHING = Distribution(("loss", "label_smoothing"), "uniform", (0, 0.99), ())
EPOCHS = Distribution(("epochs",), "int", (1, 200), ())
ACT = Distribution(("act",), "choice", ("relu", "silu", "gelu"), ())


def drawn(distribution, seed=0, count=10_000):
    return [distribution.draw(seed, index).value for index in range(count)]


def correlation(xs, ys):
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    dx, dy = [x - mean_x for x in xs], [y - mean_y for y in ys]
    covariance = sum(x * y for x, y in zip(dx, dy, strict=True))
    return covariance / math.sqrt(sum(x * x for x in dx) * sum(y * y for y in dy))


def test_golden_draws():
    assert drawn(RATE, seed=0, count=4) == [0.042385, 0.000360963, 0.184089, 0.0324594]
    assert drawn(MOMENTUM, seed=7, count=4) == [0.533325, 0.921956, 0.982805, 0.869994]
    assert drawn(EPOCHS, seed=0, count=6) == [124, 63, 177, 196, 108, 178]
    assert drawn(ACT, seed=-3, count=6) == ["gelu", "gelu", "silu", "gelu", "relu", "gelu"]


def test_parameters_and_seeds_are_independent():
    numbers = [[math.log(value) for value in drawn(RATE)], drawn(MOMENTUM), drawn(SMOOTHING), drawn(EPOCHS)]
    numbers += [drawn(MOMENTUM, seed=1), [*drawn(MOMENTUM)[1:], 0.5]]
    numbers.append([("relu", "silu", "gelu").index(value) for value in drawn(ACT)])
    for xs, ys in itertools.combinations(numbers, 2):
        assert abs(correlation(xs, ys)) < 0.05


def test_the_same_range_under_another_path_gives_other_values():
    assert drawn(MOMENTUM, count=5) != drawn(SMOOTHING, count=5)


@pytest.mark.parametrize(
    ("distribution", "low", "high"),
    [(RATE, 1e-4, 1), (MOMENTUM, 0, 0.99), (EPOCHS, 1, 200)],
    ids=["log", "uniform", "int"],
)
def test_draws_fill_the_range_evenly(distribution, low, high):
    values = sorted(drawn(distribution))
    assert low <= values[0]
    assert values[-1] <= high
    if distribution.kind == "log_uniform":
        values, low, high = [math.log(value) for value in values], math.log(low), math.log(high)
    for share in (0.1, 0.5, 0.9):
        assert (values[int(share * len(values))] - low) / (high - low) == pytest.approx(share, abs=0.02)


def test_integers_reach_both_ends_and_choices_all():
    assert set(drawn(Distribution(("epochs",), "int", (1, 3), ()), count=100)) == {1, 2, 3}
    assert set(drawn(ACT, count=100)) == {"relu", "silu", "gelu"}


def test_floats_have_six_digits_and_stay_inside():
    narrow = Distribution(("optim", "lr"), "uniform", (0.12345674, 0.12345676), ())
    assert all(0.12345674 <= value <= 0.12345676 for value in drawn(narrow, count=100))
    assert all(float(f"{value:.5e}") == value for value in drawn(RATE, count=1000))


def test_more_draws_and_more_parameters_leave_the_first_ones_alone(sweep_of):
    few = sweep_of("random: {draws: 3, optim.lr: {uniform: [0.1, 1]}}")
    many = sweep_of("random: {draws: 5, act: {choice: [relu, silu]}, optim.lr: {uniform: [0.1, 1]}}")
    rates = [[config.optim.lr for config in sweep.expand()] for sweep in (few, many)]
    assert rates[1][:3] == rates[0]
