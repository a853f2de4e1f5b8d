"""Mixup and cutmix: what is drawn, and what becomes of images and labels."""

import numpy as np
import pytest
import torch
from scipy import stats

from normhpc.config.training import StandardAugment
from normhpc.data import Batches, ImageSplit, order, rank_share
from normhpc.data.mixing import beta, draw_mix

PLAIN = {"flip": False, "crop_padding": 0}
MIXUP = StandardAugment(**PLAIN, mixup_alpha=0.4)
CUTMIX = StandardAugment(**PLAIN, cutmix_alpha=1.0)


def split_of(rows=40, height=8, width=7, labels=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, height, width, 3), dtype=torch.uint8, generator=generator)
    return ImageSplit(images, torch.arange(rows) % 10 if labels is None else labels)


def batches_of(split, augment, **options):
    """With these statistics a normalized value is the pixel's number."""
    return Batches(split, (0.0,) * 3, (1 / 255,) * 3, device="cpu", augment=augment, seed=1, **options)


def drawn(augment, step=0, rows=None, epoch=0, size=(8, 7), seed=1):
    rows = order(40, 5, epoch)[:16] if rows is None else rows
    return draw_mix(augment, rows, seed=seed, epoch=epoch, step=step, size=size)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_have_the_beta_distribution(alpha):
    augment = StandardAugment(mixup_alpha=alpha)
    shares = [drawn(augment, step).share for step in range(2000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert beta(1.0, 0.375) == pytest.approx(0.375, rel=1e-12)
    assert beta(2.0, 0.5) == pytest.approx(0.5, rel=1e-12)


def test_partners_are_a_random_permutation_of_the_batch():
    rows = order(40, 5, 0)[:16]
    mix = drawn(MIXUP, rows=rows)
    assert sorted(mix.partners.tolist()) == sorted(rows.tolist())
    assert drawn(MIXUP, rows=rows, step=5).partners.tolist() == mix.partners.tolist()
    assert len({tuple(drawn(MIXUP, rows=rows, epoch=epoch).partners) for epoch in range(20)}) == 20
    # every image meets every image of its batch, itself among them
    met = np.zeros(16)
    for epoch in range(1600):
        met[np.flatnonzero(rows == drawn(MIXUP, rows=rows, epoch=epoch).partners[0])] += 1
    assert (np.abs(met - 100) < 50).all()


def test_a_batch_draws_its_own_share_from_seed_epoch_and_step():
    shares = {
        drawn(MIXUP, step, epoch=epoch, seed=seed).share for seed in (0, 1) for epoch in (0, 1) for step in range(5)
    }
    assert len(shares) == 20


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_how_often_and_which_kind(probability):
    both = StandardAugment(mixup_alpha=1.0, cutmix_alpha=1.0, mix_probability=probability)
    mixes = [drawn(both, step) for step in range(2000)]
    mixed = [mix for mix in mixes if mix is not None]
    assert len(mixed) == pytest.approx(2000 * probability, abs=5 * np.sqrt(2000) / 2 * (0 < probability < 1))
    cut = sum(mix.box is not None for mix in mixed)
    assert abs(cut - len(mixed) / 2) <= 5 * np.sqrt(len(mixed)) / 2


def test_boxes_are_those_of_yun_et_al():
    """Their rand_bbox, with the share recomputed from the pixels that are left."""
    height, width = 24, 40
    for step in range(300):
        mix = drawn(StandardAugment(cutmix_alpha=1.0), step, size=(height, width))
        rows, columns = mix.box
        left = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        assert mix.share == left
        before = drawn(StandardAugment(mixup_alpha=1.0), step).share  # the draw from Beta(1, 1) of the same step
        halves = [int(side * np.sqrt(1 - before)) // 2 for side in (height, width)]
        for box, side, half in zip((rows, columns), (height, width), halves, strict=True):
            centres = [c for c in range(side) if (max(0, c - half), min(side, c + half)) == (box.start, box.stop)]
            assert centres
            assert 0 <= box.start <= box.stop <= side


def expected_targets(labels, others, share):
    one_hot = np.eye(10)
    return share * one_hot[labels] + (1 - share) * one_hot[others]


@pytest.mark.parametrize("channels_last", [False, True])
def test_mixup_by_hand(channels_last):
    split = split_of()
    rows = order(40, 5, 2)[:16]
    mix = drawn(MIXUP, 3, rows, epoch=2)
    images, labels, targets = batches_of(split, MIXUP, channels_last=channels_last).train(rows, 2, 3)
    pixels = split.images.permute(0, 3, 1, 2).double().numpy()
    expected = mix.share * pixels[rows] + (1 - mix.share) * pixels[mix.partners]
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-4)
    assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(labels, split.labels[torch.from_numpy(rows)])
    assert targets.dtype == torch.float32
    np.testing.assert_allclose(targets, expected_targets(rows % 10, mix.partners % 10, mix.share), rtol=1e-6, atol=1e-7)


def test_cutmix_by_hand():
    split = split_of()
    batches = batches_of(split, CUTMIX)
    rows = order(40, 5, 2)[:16]
    pixels = split.images.permute(0, 3, 1, 2).float()
    for step in range(20):
        mix = drawn(CUTMIX, step, rows, epoch=2)
        images, _, targets = batches.train(rows, 2, step)
        expected = pixels[torch.from_numpy(rows)]
        for place, partner in enumerate(mix.partners):
            for y in range(*mix.box[0].indices(8)):
                for x in range(*mix.box[1].indices(7)):
                    expected[place, :, y, x] = pixels[partner, :, y, x]
        torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-4)
        np.testing.assert_allclose(targets, expected_targets(rows % 10, mix.partners % 10, mix.share), atol=1e-7)


def test_many_labels_are_mixed_like_one():
    labels = (torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.3).to(torch.uint8)
    rows = order(40, 5, 2)[:16]
    mix = drawn(MIXUP, 3, rows, epoch=2)
    _, own, targets = batches_of(split_of(labels=labels), MIXUP).train(rows, 2, 3)
    assert torch.equal(own, labels[torch.from_numpy(rows)])
    expected = mix.share * labels.numpy()[rows] + (1 - mix.share) * labels.numpy()[mix.partners]
    np.testing.assert_allclose(targets, expected, rtol=1e-6, atol=1e-7)


def test_batches_that_are_left_alone_have_weights_as_targets_all_the_same():
    seldom = StandardAugment(**PLAIN, mixup_alpha=1.0, mix_probability=0.01)
    rows = np.arange(16)
    assert drawn(seldom, 0, rows) is None
    images, labels, targets = batches_of(split_of(), seldom).train(rows, 0, 0)
    assert torch.equal(images, batches_of(split_of(), None).train(rows, 0).images)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 10).float())


@pytest.mark.parametrize("world", [2, 3, 7])
def test_parts_of_a_batch_are_the_same_at_any_number_of_ranks(world):
    everything = StandardAugment(
        grayscale_probability=0.3,
        rotation_degrees=20,
        perspective_probability=0.4,
        mixup_alpha=0.5,
        cutmix_alpha=0.5,
        mix_probability=0.8,
    )
    split = split_of()
    for step in range(6):
        rows = order(40, 5, 1)[step : step + 20]
        whole = batches_of(split, everything).train(rows, 1, step)
        parts = [
            batches_of(split, everything).train(rows, 1, step, rank_share(20, rank, world)) for rank in range(world)
        ]
        for name in whole._fields:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
