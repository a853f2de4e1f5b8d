import numpy as np
import pytest
import scipy.stats

from normhpc.errors import InputError
from normhpc.results.statistics.intervals import mean_of
from normhpc.results.statistics.survival import TimeToTarget, kaplan_meier, restricted_mean, time_to_target

# weeks in remission under 6-MP (Freireich et al. 1963), the example of Gehan 1965 and of textbooks since; + is censored
WEEKS = [
    "6",
    "6",
    "6",
    "6+",
    "7",
    "9+",
    "10",
    "10+",
    "11+",
    "13",
    "16",
    "17+",
    "19+",
    "20+",
    "22",
    "23",
    "25+",
    "32+",
    "32+",
    "34+",
    "35+",
]
DURATIONS = [float(week.rstrip("+")) for week in WEEKS]
REACHED = [not week.endswith("+") for week in WEEKS]


def test_the_curve_of_a_textbook():
    curve = kaplan_meier(DURATIONS, REACHED)
    assert (curve.n, curve.reached, curve.longest, curve.method) == (21, 9, 35.0, "Kaplan-Meier")
    assert curve.times.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert curve.at_risk.tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert np.round(curve.survival, 3).tolist() == [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]


def test_the_curve_is_scipy_s():
    rng = np.random.default_rng(0)
    durations, reached = rng.integers(1, 30, 60).astype(float), rng.random(60) < 0.7
    data = scipy.stats.CensoredData(uncensored=durations[reached], right=durations[~reached])
    expected = scipy.stats.ecdf(data).sf
    curve = kaplan_meier(durations, reached)
    assert curve.survival == pytest.approx(expected.evaluate(curve.times), rel=1e-12)


def test_without_censoring_the_restricted_mean_is_a_mean():
    durations = np.array([3.0, 5.0, 8.0, 8.0, 20.0])
    curve = kaplan_meier(durations, np.ones(5))
    for horizon in (2.0, 5.0, 8.0, 10.0, 30.0):
        found = restricted_mean(curve, horizon)
        assert found.mean == pytest.approx(np.minimum(durations, horizon).mean(), rel=1e-12)
        assert (found.n, found.reached, found.horizon, found.notes) == (5, 5, horizon, ())
        if horizon == 2.0:
            assert (found.low, found.high) == (None, None)
        else:
            plain = mean_of(np.minimum(durations, horizon))
            assert found.low == pytest.approx(max(0, plain.low), rel=1e-12)
            assert found.high == pytest.approx(min(horizon, plain.high), rel=1e-12)


def test_censored_at_the_horizon_as_well():
    # every run is watched until 10: min(time, 10) is known of all
    curve = kaplan_meier([4.0, 10.0, 6.0, 10.0], [True, False, True, False])
    assert restricted_mean(curve, 10.0).mean == pytest.approx((4 + 6 + 10 + 10) / 4, rel=1e-12)


def test_the_area_by_a_fine_sum():
    curve = kaplan_meier(DURATIONS, REACHED)
    grid = (np.arange(300_000) + 0.5) / 10_000
    place = np.searchsorted(curve.times, grid, side="right")
    heights = np.concatenate([[1.0], curve.survival])[place]
    assert restricted_mean(curve, 30.0).mean == pytest.approx(heights.mean() * 30, rel=1e-9)


def test_the_interval_by_greenwood_s_formula_in_plain_numbers():
    found = restricted_mean(kaplan_meier(DURATIONS, REACHED), 30.0)
    variance, survival = 0.0, 1.0
    steps = []
    for time in sorted({d for d, r in zip(DURATIONS, REACHED, strict=True) if r}):
        at_risk = sum(d >= time for d in DURATIONS)
        arrived = sum(d == time and r for d, r in zip(DURATIONS, REACHED, strict=True))
        survival *= 1 - arrived / at_risk
        steps.append((time, survival, arrived / (at_risk * (at_risk - arrived))))
    ends = [time for time, _, _ in steps[1:]] + [30.0]
    areas = [level * (end - time) for (time, level, _), end in zip(steps, ends, strict=True)]
    variance = sum(sum(areas[place:]) ** 2 * steps[place][2] for place in range(len(steps)))
    half = scipy.stats.t.ppf(0.975, 20) * np.sqrt(variance * 21 / 20)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=1e-12)


def test_the_interval_holds_the_true_mean():
    rng = np.random.default_rng(3)
    truth = 1 - np.exp(-1)
    # exponential times, censored at random, watched until 1: the mean of min(time, 1) is 1 - 1/e
    held = 0
    for _ in range(2000):
        times, ends = rng.exponential(1.0, 20), rng.uniform(0.8, 3.0, 20)
        found = restricted_mean(kaplan_meier(np.minimum(times, ends), times <= ends), 1.0)
        held += found.low <= truth <= found.high
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_what_never_arrives_has_the_horizon():
    found = restricted_mean(kaplan_meier([50.0, 60.0], [False, False]), 60.0)
    assert (found.n, found.reached, found.mean, found.low, found.notes) == (2, 0, 60.0, None, ())
    # a fast method whose runs ended sooner does not look fast
    found = restricted_mean(kaplan_meier([50.0, 60.0], [False, False]), 100.0)
    assert (found.mean, found.notes) == (100.0, ("no run lasted beyond 60: held flat from there to 100",))


def test_when_a_target_is_reached():
    times, values = [10.0, 20.0, 30.0, 40.0], [0.5, 0.8, 0.7, 0.9]
    assert time_to_target(times, values, 0.8) == TimeToTarget(20.0, True)
    assert time_to_target(times, values, 0.95) == TimeToTarget(40.0, False)
    assert time_to_target(times, [float("nan"), 3.0, 2.0, 1.0], 2.5, higher_is_better=False) == TimeToTarget(30.0, True)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: kaplan_meier([], []), "durations: expected one axis, at least 1 long, got shape (0,)"),
        (lambda: kaplan_meier([1.0], []), "reached: expected one for each of the 1 durations, got shape (0,)"),
        (lambda: kaplan_meier([-1.0], [True]), "durations: expected times from 0 on, got -1.0"),
        (
            lambda: restricted_mean(kaplan_meier([5.0], [True]), 0),
            "horizon: expected a positive time, got 0; the longest run took 5",
        ),
        (lambda: time_to_target([1.0], [1.0, 2.0], 1), "values: expected one for each of the 1 times, got shape (2,)"),
        (
            lambda: time_to_target([2.0, 1.0], [1.0, 2.0], 1),
            "times: expected ascending times, got one below its predecessor; add up what epochs took",
        ),
    ],
)
def test_what_has_no_curve(call, text):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text
