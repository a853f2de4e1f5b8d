import math
from itertools import pairwise, product

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from normhpc.errors import InputError
from normhpc.results.statistics.paired import (
    SignedRanks,
    detectable_difference,
    holm,
    median_difference,
    paired_difference,
    seeds_needed,
    signed_ranks,
)


def samples(n, correlation, seed=0):
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=n), rng.normal(size=n)
    return shared, correlation * shared + math.sqrt(1 - correlation**2) * own + 0.3


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_pairs_that_vary_together_are_paired(n):
    x, y = samples(n, 0.9)
    expected = scipy.stats.ttest_rel(x, y)
    interval = expected.confidence_interval(0.95)
    found = paired_difference(x, y)
    assert found.method == "paired t"
    assert (found.n, found.difference) == (n, pytest.approx((x - y).mean(), rel=1e-12))
    assert (found.low, found.high, found.p) == pytest.approx((*interval, expected.pvalue), rel=1e-9)
    assert found.correlation == pytest.approx(scipy.stats.pearsonr(x, y).statistic, rel=1e-9)


@pytest.mark.parametrize("n", [3, 5, 30])
def test_pairs_that_do_not_are_two_samples(n):
    x, y = samples(n, -0.99)
    expected = scipy.stats.ttest_ind(x, y, equal_var=False)
    found = paired_difference(x, y)
    assert found.method == "Welch t"
    assert found.correlation < 0
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((*interval, expected.pvalue), rel=1e-9)


def test_pairs_without_spread():
    found = paired_difference([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
    assert (found.difference, found.low, found.high, found.p, found.method) == (0.5, 0.5, 0.5, 0.0, "paired t")
    assert paired_difference([1.0, 1.0], [1.0, 1.0]).p == 1.0
    # one of them constant: nothing says that pairs are unlike
    found = paired_difference([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert (found.correlation, found.method) == (None, "paired t")


def all_signs(differences):
    """The two-sided p value by going through all signs of the ranks."""
    ranks = scipy.stats.rankdata(np.abs(differences))
    sums = np.array(
        [
            sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
            for signs in product((0, 1), repeat=len(ranks))
        ]
    )
    found = sum(rank for rank, difference in zip(ranks, differences, strict=True) if difference > 0)
    smaller = min(found, ranks.sum() - found)
    return smaller, min(1.0, 2 * np.mean(sums <= smaller + 1e-9))


@pytest.mark.parametrize("n", [1, 2, 5, 13, 40, 120])
def test_signed_ranks_are_scipy_s_exact_ones(n):
    x, y = samples(n, 0.5, seed=n)
    expected = scipy.stats.wilcoxon(x, y, method="exact")
    found = signed_ranks(x, y)
    assert (found.n, found.zeros, found.statistic) == (n, 0, expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_signed_ranks_are_exact_with_ties_and_zeros(seed):
    differences = np.random.default_rng(seed).integers(-3, 5, 12).astype(float)
    kept = differences[differences != 0]
    statistic, p = all_signs(kept)
    found = signed_ranks(differences, np.zeros(12))
    assert (found.n, found.zeros, found.statistic) == (len(kept), 12 - len(kept), statistic)
    assert found.p == pytest.approx(p, rel=1e-12)


def test_signed_ranks_by_hand():
    # Demsar 2006, table 2, AUC of C4.5 with m minus without, in thousandths: of twelve sizes 5, 5, 6, 7, 8 ... the
    # two negative ones, 5 and 8, have the ranks 1.5 and 5
    differences = np.array([5, -8, 17, 33, 6, -5, 7, 0, 63, 0, 22, 47, 9, 21]) / 1000
    assert signed_ranks(differences, np.zeros(14)).statistic == 1.5 + 5
    assert signed_ranks(np.zeros(4), np.zeros(4)) == SignedRanks(0, 4, 0.0, 1.0)
    assert signed_ranks(np.arange(1, 14), np.zeros(13)).p == 2.0**-12


def test_rounding_makes_no_rank():
    x = np.array([0.1 + 0.2, 0.7, 0.5, 0.1 * 3])
    y = np.array([0.3, 0.6, 0.6, 0.1])
    # 0.1 + 0.2 is 0.3; 0.7 - 0.6 and 0.6 - 0.5 are as large as each other
    found = signed_ranks(x, y)
    assert (found.n, found.zeros, found.statistic) == (3, 1, 1.5)


@pytest.mark.parametrize("n", [6, 9, 30])
def test_the_interval_of_a_median_is_the_sign_test_s(n):
    x, y = samples(n, 0.5)
    differences = np.sort(x - y)
    found = median_difference(x, y)
    assert (found.value, found.n, found.method) == (np.median(differences), n, "median, interval of the sign test")
    expected = scipy.stats.quantile_test(differences, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_few_differences_have_no_interval():
    found = median_difference([1.0, 2, 4, 8, 16], np.zeros(5))
    assert (found.value, found.low, found.high, found.n) == (4.0, None, None, 5)


def test_holm_by_hand_and_by_others():
    # R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert holm([0.04, 0.01, 0.05, 0.03, 0.02]) == pytest.approx([0.09, 0.05, 0.09, 0.09, 0.08])
    assert holm([0.9, 0.6, 0.5]).tolist() == [1.0, 1.0, 1.0]
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels comes with scikit-posthocs")
    p = np.random.default_rng(0).random(50) ** 4
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1], rel=1e-12)


@pytest.mark.parametrize(("n", "difference"), [(3, 3.07), (5, 2.02), (10, 1.32), (20, 0.91)])
def test_the_detectable_difference_is_the_known_one(n, difference):
    found = detectable_difference(n)
    assert round(found.difference, 2) == difference
    assert detectable_difference(n, 0.01).difference == pytest.approx(0.01 * found.difference, rel=1e-12)
    assert (found.n, found.alpha, found.power, found.method) == (n, 0.05, 0.8, "two-sample t")


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50])
@pytest.mark.parametrize("paired", [True, False])
def test_its_power_is_that_of_the_noncentral_t(n, paired):
    found = detectable_difference(n, paired=paired, power=0.9, alpha=0.01, comparisons=2)
    freedom = n - 1 if paired else 2 * n - 2
    shift = found.difference * math.sqrt(n if paired else n / 2)
    critical = scipy.stats.t.ppf(1 - 0.0025, freedom)

    def missed(chi):
        """Of both tails, at a spread of the sample of chi / sqrt(freedom)."""
        s = chi / math.sqrt(freedom)
        return float(scipy.stats.norm.cdf(critical * s - shift) - scipy.stats.norm.cdf(-critical * s - shift))

    # where the integrand turns from 0 to 1
    turn = [(shift + side) / critical * math.sqrt(freedom) for side in (-6, 0, 6)]
    points = sorted({0.0, *(max(0.0, place) for place in turn), *range(1, 25)})
    chi = scipy.stats.chi(freedom)
    pieces = [
        scipy.integrate.quad(lambda x: chi.pdf(x) * missed(x), low, high, epsabs=1e-12)[0]
        for low, high in pairwise(points)
    ]
    power = 1 - sum(pieces)
    assert power == pytest.approx(0.9, abs=1e-7)


@pytest.mark.parametrize(("n", "comparisons"), [(3, 1), (5, 1), (5, 190), (10, 190)])
def test_the_detectable_difference_is_detected(n, comparisons):
    """In 80 % of 2,000 studies, 3 % more or less."""
    difference = detectable_difference(n, 0.02, comparisons=comparisons).difference
    rng = np.random.default_rng(n)
    p = scipy.stats.ttest_ind(rng.normal(0.9, 0.02, (n, 2000)), rng.normal(0.9 + difference, 0.02, (n, 2000))).pvalue
    assert np.mean(p < 0.05 / comparisons) == pytest.approx(0.8, abs=0.03)


def test_the_paired_one_as_well():
    difference = detectable_difference(5, 0.02, paired=True).difference
    drawn = np.random.default_rng(0).normal(difference, 0.02, (5, 2000))
    assert np.mean(scipy.stats.ttest_1samp(drawn, 0).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


def test_seeds_that_are_needed():
    # Cohen 1988: 17 in each group for d = 1, 26 for 0.8, 64 for 0.5, 394 for 0.2 (393.4)
    assert [seeds_needed(d, 1.0) for d in (1.0, 0.8, 0.5, 0.2)] == [17, 26, 64, 394]
    for n in (2, 3, 8, 100):
        difference = detectable_difference(n, 0.5, comparisons=10).difference
        assert seeds_needed(difference * (1 + 1e-9), 0.5, comparisons=10) == n
        assert seeds_needed(difference * (1 - 1e-6), 0.5, comparisons=10) == n + 1
    assert seeds_needed(0.1, 0.0) == 2


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: detectable_difference(1),
            "n: expected at least 2 seeds, got 1; one run shows no spread, so no difference can be judged",
        ),
        (lambda: detectable_difference(3, -1.0), "std: expected a number from 0 on, got -1.0"),
        (lambda: detectable_difference(3, comparisons=0), "comparisons: expected a positive integer, got 0"),
        (
            lambda: detectable_difference(3, power=1.0),
            "power: expected a number between 0 and 1, got 1.0; both ends are excluded",
        ),
        (
            lambda: detectable_difference(3, power=0.04),
            "power: expected more than the 0.05 that no difference at all reaches, got 0.04",
        ),
        (lambda: seeds_needed(0.0, 1.0), "difference: expected a positive number, got 0.0"),
        (lambda: seeds_needed(1e-6, 1.0), "difference: 1e-06 of a std of 1.0 needs more than 1000000 seeds"),
        (
            lambda: signed_ranks([1, 2], [1]),
            "second: expected 2 values, one for each of the first, got 1; pairs must be whole",
        ),
        (lambda: paired_difference([1], [1]), "first: expected one axis, at least 2 long, got shape (1,)"),
    ],
)
def test_what_cannot_be_compared(call, text):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text
