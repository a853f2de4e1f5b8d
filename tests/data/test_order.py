import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normhpc.data import draws, order, rank_share
from normhpc.data.order import mix

MASK = 2**64 - 1


def splitmix64(z):
    """Steele, Lea and Flood 2014, figure 17, in Python's integers."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix_is_splitmix64():
    # The first outputs of the published generator for seed 0 are mix(0), mix(increment), ...
    assert mix(np.zeros(1, np.uint64))[0] == 0xE220A8397B1DCDAF
    values = [0, 1, 2**32, 2**63, MASK]
    assert mix(np.array(values, np.uint64)).tolist() == [splitmix64(value) for value in values]


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, [2, 5, 8, 9, 1, 4, 6, 0, 3, 7]), (1, [4, 8, 2, 0, 7, 1, 3, 9, 6, 5])]
)
def test_golden_orders(epoch, expected):
    found = order(10, 1, epoch)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@given(rows=st.integers(0, 2000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6))
def test_an_order_is_a_permutation(rows, seed, epoch):
    assert np.array_equal(np.sort(order(rows, seed, epoch)), np.arange(rows))


def test_seeds_and_epochs_change_the_order():
    orders = {tuple(order(50, seed, epoch)) for seed in (0, 1, 2**63 - 1) for epoch in range(5)}
    assert len(orders) == 15


def test_first_places_are_uniform():
    firsts = np.array([order(10, seed, 0) for seed in range(3000)])
    counts = np.stack([np.bincount(firsts[:, place], minlength=10) for place in range(10)])
    # Pearson's statistic of the 10x10 table; its mean is 81, its standard deviation 12.7.
    assert ((counts - 300) ** 2 / 300).sum() < 81 + 4 * 12.7


@settings(max_examples=50)
@given(length=st.integers(0, 500))
@pytest.mark.parametrize("world", [1, 2, 3, 4, 7, 8])
def test_shares_cover_everything_once_in_order(world, length):
    items = order(length, 3, 0)
    shares = [items[rank_share(length, rank, world)] for rank in range(world)]
    assert np.array_equal(np.concatenate(shares), items)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_draws_depend_on_each_row_alone():
    rows = np.array([5, 900, 0, 7])
    together = draws(1, 2, rows, 3)
    assert together.dtype == np.uint64
    assert [int(draws(1, 2, rows[place : place + 1], 3)[0]) for place in range(4)] == together.tolist()


def test_draws_differ_by_seed_epoch_row_and_stream():
    rows = np.arange(100)
    values = np.concatenate(
        [draws(seed, epoch, rows, stream) for seed in range(3) for epoch in range(3) for stream in range(3)]
    )
    assert len(np.unique(values)) == 2700


def test_draws_of_two_streams_and_the_order_are_uncorrelated():
    rows = np.arange(20_000)
    place = np.empty(20_000)
    place[order(20_000, 0, 0)] = np.arange(20_000)
    columns = np.stack([place, *(draws(0, 0, rows, stream) / 2.0**64 for stream in range(3))])
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(20_000)
