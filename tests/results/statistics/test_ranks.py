import math

import numpy as np
import pytest
import scipy.stats

from normhpc.errors import InputError
from normhpc.results.statistics.ranks import (
    block_ranks,
    blocks_needed,
    cliques,
    complete_blocks,
    critical_difference,
    friedman,
    nemenyi,
    wilcoxon_against,
    wilcoxon_holm,
)

# Demsar 2006, table 6: ranks of C4.5 with and without m and cf by AUC on 14 data sets
DEMSAR = np.array(
    [
        *([4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1]),
        *([2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3]),
        [3, 1, 4, 2],
    ]
)


def scores(blocks, methods, spread=1.0, seed=0):
    """Method k is better by k / 4 standard deviations than the one before it."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(blocks, 1)) + np.arange(methods) / 4 + rng.normal(0, spread, (blocks, methods))


def test_ranks_are_scipy_s():
    values = np.random.default_rng(0).integers(0, 5, (30, 8)).astype(float)
    assert np.array_equal(block_ranks(values), scipy.stats.rankdata(-values, axis=1))
    assert np.array_equal(block_ranks(values, higher_is_better=False), scipy.stats.rankdata(values, axis=1))


def test_rounding_makes_no_rank():
    assert block_ranks([[0.1 + 0.2, 0.3, 0.4]]).tolist() == [[2.5, 2.5, 1]]
    # a value that is far out does not make the others equal
    assert block_ranks([[1e30, 0.3, 0.4]]).tolist() == [[1, 3, 2]]


@pytest.mark.parametrize("ties", [True, False])
def test_friedman_is_scipy_s(ties):
    values = scores(12, 6)
    values = np.round(values) if ties else values
    found = friedman(block_ranks(values))
    expected = scipy.stats.friedmanchisquare(*values.T)
    assert (found.n, found.methods) == (12, 6)
    assert (found.chi_square, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    f = 11 * found.chi_square / (12 * 5 - found.chi_square)
    assert (found.f, found.f_p) == pytest.approx((f, scipy.stats.f.sf(f, 5, 55)), rel=1e-9)


def test_demsar_s_example():
    """chi^2 9.28 and F 3.69, without a correction for ties; critical difference 1.25, at 10 % 1.12."""
    assert np.round(DEMSAR.mean(axis=0), 3).tolist() == [3.143, 2.0, 2.893, 1.964]
    found = friedman(DEMSAR)
    ties = sum(count**3 - count for row in DEMSAR for count in np.unique(row, return_counts=True)[1])
    uncorrected = found.chi_square * (1 - ties / (14 * 4 * 15))
    assert round(uncorrected, 2) == 9.28
    assert round(13 * uncorrected / (14 * 3 - uncorrected), 2) == 3.69
    assert round(critical_difference(4, 14), 2) == 1.25
    assert round(critical_difference(4, 14, 0.10), 2) == 1.12
    # "two groups": C4.5 is worse than C4.5+m and C4.5+m+cf, to which of them C4.5+cf belongs cannot be told
    at_ten = nemenyi(DEMSAR, 0.10)
    assert at_ten.cliques == ((3, 1, 2), (2, 0))
    assert np.argwhere(np.triu(at_ten.p < 0.10)).tolist() == [[0, 1], [0, 3]]


def test_demsar_s_critical_values():
    """Table 5 a: q at 5 % and 10 % for 2 to 10 methods."""
    five = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    ten = [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]
    for alpha, quantiles in ((0.05, five), (0.10, ten)):
        found = [critical_difference(k, 6, alpha) / math.sqrt(k * (k + 1) / 36) for k in range(2, 11)]
        # the tables round the quantile of the range before they divide by the root of 2
        assert found == pytest.approx(quantiles, abs=0.0011)


@pytest.mark.parametrize(("blocks", "difference"), [(5, 13.3), (10, 9.4), (20, 6.6), (40, 4.7)])
def test_the_critical_difference_of_twenty_methods(blocks, difference):
    assert round(critical_difference(20, blocks), 1) == difference


def test_everything_equal_and_everything_in_one_order():
    equal = friedman(np.full((4, 3), 2.0))
    assert (equal.chi_square, equal.p, equal.f, equal.f_p) == (0.0, 1.0, 0.0, 1.0)
    clear = friedman(np.tile([1.0, 2, 3], (4, 1)))
    assert (clear.chi_square, clear.f, clear.f_p) == (8.0, math.inf, 0.0)


def test_nemenyi_is_that_of_scikit_posthocs():
    posthocs = pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is for this test alone")
    values = scores(15, 8)
    found = nemenyi(block_ranks(values))
    assert found.p == pytest.approx(posthocs.posthoc_nemenyi_friedman(values).to_numpy(), abs=1e-12)
    assert (found.n, found.alpha, found.method) == (15, 0.05, "Nemenyi")
    assert found.critical_difference == critical_difference(8, 15)


def test_wilcoxon_holm_is_that_of_scikit_posthocs():
    posthocs = pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is for this test alone")
    values = scores(15, 6)
    found = wilcoxon_holm(values)
    expected = posthocs.posthoc_wilcoxon([list(column) for column in values.T], p_adjust="holm", method="exact")
    assert found.p == pytest.approx(expected.to_numpy(), rel=1e-9)
    assert (found.n, found.alpha, found.critical_difference) == (15, 0.05, None)


def test_against_a_control():
    values = scores(12, 5)
    found = wilcoxon_against(values, 2)
    single = np.array([scipy.stats.wilcoxon(values[:, k], values[:, 2], method="exact").pvalue for k in (0, 1, 3, 4)])
    order = np.argsort(single)
    adjusted = np.maximum.accumulate(np.minimum(1, single[order] * [4, 3, 2, 1]))
    assert found.p[[0, 1, 3, 4]][order] == pytest.approx(adjusted, rel=1e-9)
    assert (found.p[2], found.n, found.control) == (1.0, 12, 2)


def test_too_few_blocks_are_refused():
    with pytest.raises(InputError) as caught:
        wilcoxon_holm(scores(12, 20))
    assert str(caught.value) == (
        "Wilcoxon-Holm of all pairs of 20 methods needs at least 13 blocks, got 12: no p value can be below "
        "2^-11 = 0.00049, and 0.05 / 190 = 0.00026 is asked of the smallest; compare with one control, or use Nemenyi"
    )
    with pytest.raises(InputError) as caught:
        wilcoxon_against(scores(9, 20), 0)
    assert str(caught.value) == (
        "Wilcoxon-Holm of one control of 20 methods needs at least 10 blocks, got 9: no p value can be below "
        "2^-8 = 0.0039, and 0.05 / 19 = 0.0026 is asked of the smallest; add blocks or leave out methods"
    )


def test_enough_blocks_are_enough():
    # all differences of one sign: the clearest pair there can be
    clear = np.arange(13)[:, None] + np.arange(20)[None] * np.linspace(1, 2, 13)[:, None]
    assert (wilcoxon_holm(clear).p[np.triu_indices(20, 1)] < 0.05).all()
    assert (wilcoxon_against(clear[:10], 3).p < 0.05).sum() == 19
    assert (blocks_needed(190), blocks_needed(19), blocks_needed(1), blocks_needed(136)) == (13, 10, 6, 13)


def test_cliques_of_a_rank_test_are_runs():
    found = nemenyi(block_ranks(scores(20, 10, seed=3)))
    means = block_ranks(scores(20, 10, seed=3)).mean(axis=0)
    order = np.argsort(means, kind="stable")
    # by going along the ranks
    runs, last = [], -1
    for start in range(10):
        end = max(e for e in range(start, 10) if means[order[e]] - means[order[start]] < found.critical_difference)
        if end > max(start, last):
            runs.append(tuple(order[start : end + 1]))
            last = end
    assert len(runs) > 2
    assert found.cliques == tuple(runs)


def test_cliques_may_overlap_and_have_holes():
    alike = np.eye(5, dtype=bool)
    for first, second in ((0, 1), (1, 2), (0, 3), (1, 3)):
        alike[first, second] = alike[second, first] = True
    assert cliques(alike, [3, 1, 0, 2, 4]) == ((3, 1, 0), (1, 2))
    assert cliques(np.eye(3), [0, 1, 2]) == ()
    assert cliques(np.ones((3, 3)), [2, 0, 1]) == ((2, 0, 1),)


def test_incomplete_blocks_are_named():
    values = np.ones((4, 3))
    values[1, 0] = values[3, 0] = values[3, 2] = np.nan
    found = complete_blocks(values)
    assert (found.kept, found.dropped, found.missing) == ((0, 2), (1, 3), (2, 0, 1))
    with pytest.raises(InputError, match=r"^scores: expected finite numbers, got 3 of 12 that are not; leave out"):
        block_ranks(values)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: block_ranks([[1.0], [2.0]]), "scores: expected at least 2 methods to compare, got 1"),
        (lambda: block_ranks([1.0, 2.0]), "scores: expected 2 axes, each at least 1 long, got shape (2,)"),
        (lambda: friedman([[1.0, 2.0]]), "ranks: expected 2 axes, each at least 2 long, got shape (1, 2)"),
        (lambda: wilcoxon_against(np.ones((9, 3)), 3), "control: expected the number of a method, 0 to 2, got 3"),
        (
            lambda: critical_difference(3, 3, 5),
            "alpha: expected a number between 0 and 1, got 5; both ends are excluded",
        ),
    ],
)
def test_what_cannot_be_ranked(call, text):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text
