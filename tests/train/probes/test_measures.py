"""Each number against a direct float64 formula."""

import numpy as np
import pytest
import torch

from normhpc.train.probes import measures

CHANCE = np.random.default_rng(4)

IMAGES = {
    "normal": CHANCE.normal(size=(6, 5, 3, 4)),
    "relu": np.maximum(CHANCE.normal(size=(40, 3, 4, 4)), 0),
    "large mean": CHANCE.normal(size=(7, 2, 3, 3)) + 1000,
    "one image": CHANCE.normal(size=(1, 3, 4, 4)),
    "two images": CHANCE.normal(size=(2, 3, 1, 1)),
    "some zero samples": CHANCE.normal(size=(5, 2, 2, 2)) * np.array([1, 0, 1, 0, 1]).reshape(-1, 1, 1, 1),
    "one sample not zero": CHANCE.normal(size=(4, 2, 2, 2)) * np.array([0, 0, 1, 0]).reshape(-1, 1, 1, 1),
    "equal samples": np.tile(CHANCE.normal(size=(1, 2, 3, 3)), (6, 1, 1, 1)),
    "opposite samples": np.concatenate([np.ones((1, 2, 2, 2)), -np.ones((1, 2, 2, 2))]),
    "orthogonal samples": np.eye(12).reshape(12, 3, 2, 2),
    "many samples of few numbers": CHANCE.normal(size=(200, 2, 1, 1)),
    "dense spectrum": np.tanh(CHANCE.normal(size=(128, 8, 16, 16))),
    "constant channels": np.stack([np.full((3, 2, 2), value) for value in (2.0, -1.0, 0.0)], axis=1),
}


def cosine_and_rank(x):
    """In words of the definition: unit rows, their products, the mean off the diagonal, trace over largest eigenvalue."""
    rows = [row / np.sqrt((row**2).sum()) for row in x.reshape(len(x), -1) if (row != 0).any()]
    if not rows:
        return np.nan, 0.0
    k = np.array([[a @ b for b in rows] for a in rows])
    n = len(rows)
    cosine = np.mean([(k[i].sum() - 1) / (n - 1) for i in range(n)]) if n > 1 else np.nan
    return cosine, np.trace(k) / np.linalg.svd(k, compute_uv=False)[0]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_moments_and_dead_channels(name, dtype, layout):
    x = torch.tensor(IMAGES[name]).to(dtype).contiguous(memory_format=layout)
    exactly = x.double().numpy()
    mean, variance = measures.channel_moments(x)
    assert mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    values = [exactly[:, channel].ravel() for channel in range(x.shape[1])]
    np.testing.assert_allclose(mean, [v.mean() for v in values], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, [((v - v.mean()) ** 2).sum() / (len(v) - 1) for v in values], 1e-4, 1e-9)
    dead = [not (v > 0).any() or len(set(v)) == 1 for v in values]
    assert measures.dead_share(x).item() == pytest.approx(np.mean(dead))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_dead_channels_by_hand(layout):
    assert measures.dead_share(torch.tensor(IMAGES["constant channels"]).contiguous(memory_format=layout)) == 1
    x = torch.zeros(4, 4, 2, 2).contiguous(memory_format=layout)
    x[0, 1, 0, 0], x[:, 2], x[1, 3] = 1e-30, 7.0, -1.0
    assert measures.dead_share(x) == 0.75


@pytest.mark.parametrize(("channels", "side"), [(3, 5), (16, 4), (600, 3)])
def test_dead_channels_of_many_and_few(channels, side):
    x = torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(0))
    x[:, ::3] = -x[:, ::3].abs()
    x[4, 0, -1, -1] = 1.0
    expected = (len(range(0, channels, 3)) - 1) / channels
    assert measures.dead_share(x).item() == pytest.approx(expected)
    assert measures.dead_share(x.contiguous(memory_format=torch.channels_last)).item() == pytest.approx(expected)


def test_a_variance_of_one_value_is_none():
    mean, variance = measures.channel_moments(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1))
    assert mean.tolist() == [3, 4]
    assert variance.isnan().all()


@pytest.mark.parametrize("name", IMAGES)
def test_cosine_and_rank(name):
    x = IMAGES[name]
    unit, count = measures.unit_grams(measures.gram(torch.tensor(x, dtype=torch.float32).flatten(1)).unsqueeze(0))
    cosine, rank = cosine_and_rank(x)
    np.testing.assert_allclose(measures.mean_cosines(unit, count)[0], cosine, rtol=1e-4, atol=1e-6)
    largest = measures.largest_eigenvalues(measures.krylov_coefficients(unit))[0]
    np.testing.assert_allclose(count[0] / largest, rank, rtol=2e-5)


def test_zeros_alone_have_no_cosine_and_no_eigenvalue():
    unit, count = measures.unit_grams(torch.zeros(1, 5, 5))
    assert count.tolist() == [0]
    assert measures.mean_cosines(unit, count).isnan().all()
    assert measures.largest_eigenvalues(measures.krylov_coefficients(unit)).tolist() == [0]


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_no_number_shows(odd):
    x = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    x[1, 2, 3] = odd
    unit, count = measures.unit_grams(torch.stack([measures.gram(rows) for rows in x]))
    assert measures.mean_cosines(unit, count).isnan().tolist() == [False, True]
    found = measures.largest_eigenvalues(measures.krylov_coefficients(unit))
    assert found.isnan().tolist() == [False, True]


def test_eigenvalues_of_many_matrices_of_all_kinds_at_once():
    chance = torch.Generator().manual_seed(1)
    rows = torch.stack(
        [
            torch.randn(60, 500, generator=chance),
            torch.randn(60, 500, generator=chance).relu(),
            torch.ones(60, 500),
            torch.eye(60, 500),
            torch.randn(60, 2, generator=chance) @ torch.randn(2, 500, generator=chance),
        ]
    )
    unit, _ = measures.unit_grams(torch.stack([measures.gram(one) for one in rows]))
    found = measures.largest_eigenvalues(measures.krylov_coefficients(unit))
    np.testing.assert_allclose(found, np.linalg.eigvalsh(unit.double().numpy())[:, -1], rtol=2e-5)
