import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from normhpc.config.data import Digits, Synthetic
from normhpc.data import READERS, ImageSplit, load
from normhpc.data.images import HELD_OUT_SEED, centre_and_scale, channel_statistics, digest_of, hold_out


def key(row):
    return row.tobytes()


def test_digits_are_the_bundled_ones_split_once():
    data = load(Digits(val_fraction=0.0))
    images, labels = load_digits(return_X_y=True)
    assert (len(data.train), len(data.val), len(data.test)) == (1437, 0, 360)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape[1:] == (8, 8, 1)
    assert data.train.labels.dtype == torch.int64
    both = torch.cat((data.train.images, data.test.images)).numpy() / 15
    found = sorted(zip(map(key, both.reshape(-1, 64)), torch.cat((data.train.labels, data.test.labels)), strict=True))
    assert found == sorted(zip(map(key, images), labels, strict=True))


def test_val_is_held_out_by_a_fixed_permutation_and_keeps_the_order():
    whole, data = load(Digits(val_fraction=0.0)), load(Digits(val_fraction=0.25))
    kept, held_out = hold_out(1437, 359, HELD_OUT_SEED)
    assert torch.equal(data.train.images, whole.train.images[torch.from_numpy(kept)])
    assert torch.equal(data.val.images, whole.train.images[torch.from_numpy(held_out)])
    assert torch.equal(data.val.labels, whole.train.labels[torch.from_numpy(held_out)])
    assert torch.equal(data.test.images, whole.test.images)
    assert np.array_equal(np.sort(np.concatenate((kept, held_out))), np.arange(1437))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    # A change of the permutation would mix results of before and after, so these are written down.
    assert held_out[:5].tolist() == HELD_OUT_DIGITS


HELD_OUT_DIGITS = [7, 12, 27, 31, 39]


def test_a_smaller_val_is_part_of_a_larger_one():
    small, large = (set(hold_out(1000, count, HELD_OUT_SEED)[1].tolist()) for count in (50, 200))
    assert small < large


def test_digest_names_the_images_whatever_is_held_out():
    digests = {load(Digits(val_fraction=fraction)).digest for fraction in (0.0, 0.1, 0.5)}
    assert len(digests) == 1
    split = ImageSplit(torch.zeros(2, 2, 2, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    changed = ImageSplit(split.images.clone(), split.labels.clone())
    changed.images[1, 1, 1, 0] = 1
    relabelled = ImageSplit(split.images, torch.tensor([0, 1]))
    reshaped = ImageSplit(split.images.view(2, 4, 1, 1), split.labels)
    assert len({digest_of(each) for each in (split, changed, relabelled, reshaped)}) == 4
    assert re.fullmatch("[0-9a-f]{32}", digest_of(split))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_statistics_are_exact(channels):
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, channels), dtype=np.uint8)
    mean, std = channel_statistics(torch.from_numpy(images))
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-13)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-13)
    shuffled = torch.from_numpy(np.random.default_rng(1).permutation(images))
    assert channel_statistics(shuffled) == (mean, std)


def test_statistics_do_not_overflow_on_white_images():
    assert channel_statistics(torch.full((3000, 64, 64, 1), 255, dtype=torch.uint8)) == ((1.0,), (0.0,))


def test_synthetic_images_are_a_function_of_the_row():
    small = load(Synthetic(images=10, test_images=4, channels=2, height=3, width=5, val_fraction=0.0))
    large = load(Synthetic(images=300, test_images=7, channels=2, height=3, width=5, val_fraction=0.0))
    assert small.train.images.shape == (10, 3, 5, 2)
    assert torch.equal(large.train.images[:10], small.train.images)
    assert torch.equal(large.train.labels[:10], small.train.labels)
    assert torch.equal(large.test.images[:4], small.test.images)
    rows = torch.cat((large.train.images, large.test.images)).flatten(1)
    assert len(rows.unique(dim=0)) == 307


def test_synthetic_images_of_several_labels():
    one = load(Synthetic(images=2000, num_classes=6))
    many = load(Synthetic(images=2000, num_classes=6, multi_label=True))
    labels = many.train.labels
    assert (labels.dtype, labels.shape) == (torch.uint8, (1800, 6))
    assert (len(many.val), len(many.test)) == (200, 256)
    assert torch.equal(many.train.images, one.train.images)
    assert set(labels.unique().tolist()) == {0, 1}
    # a quarter each, independent of one another
    assert (labels.double().mean(dim=0) - 0.25).abs().max() < 4 * (0.25 * 0.75 / 1800) ** 0.5
    assert np.abs(np.corrcoef(labels.numpy(), rowvar=False) - np.eye(6)).max() < 4 / 1800**0.5
    small = load(Synthetic(images=10, num_classes=4, multi_label=True, val_fraction=0.0))
    large = load(Synthetic(images=300, num_classes=6, multi_label=True, val_fraction=0.0))
    assert torch.equal(large.train.labels[:10, :4], small.train.labels)
    # written down: a change would mix results of before and after
    assert small.train.labels[:3].tolist() == FIRST_LABELS


FIRST_LABELS = [[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_several_labels_are_held_out_with_their_images_and_have_a_digest():
    whole = load(Synthetic(images=50, multi_label=True, val_fraction=0.0))
    data = load(Synthetic(images=50, multi_label=True, val_fraction=0.2))
    kept, held_out = hold_out(50, 10, HELD_OUT_SEED)
    assert torch.equal(data.train.labels, whole.train.labels[torch.from_numpy(kept)])
    assert torch.equal(data.val.labels, whole.train.labels[torch.from_numpy(held_out)])
    assert data.digest == whole.digest
    images = torch.zeros(2, 2, 2, 1, dtype=torch.uint8)
    splits = [
        ImageSplit(images, torch.tensor(labels, dtype=torch.uint8)) for labels in ([[0, 1], [0, 0]], [[0, 1, 0, 0]])
    ]
    splits.append(ImageSplit(images, torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)))
    assert len({digest_of(split) for split in splits}) == 3


def test_what_normalization_takes_from_the_images():
    data = load(Synthetic(images=20, channels=2))
    assert centre_and_scale(data, "channel") == (data.mean, data.std)
    assert centre_and_scale(data, "mean") == (data.mean, (1.0, 1.0))
    assert centre_and_scale(data, "half") == ((0.5, 0.5), (0.5, 0.5))


def test_synthetic_images_are_uniform_and_ignore_random_states():
    torch.manual_seed(1)
    data = load(Synthetic(images=1000, num_classes=4))
    torch.manual_seed(2)
    assert load(Synthetic(images=1000, num_classes=4)).digest == data.digest
    counts = torch.bincount(data.train.images.flatten().long(), minlength=256).double()
    expected = data.train.images.numel() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * 22.6
    assert (torch.bincount(data.train.labels, minlength=4) / 900 - 0.25).abs().max() < 0.06
    assert data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("config", READERS, ids=lambda config: config.__name__)
def test_configuration_and_reader_agree_on_names(config):
    assert config().classes() >= 2
    if config in (Digits, Synthetic):
        data = load(config())
        assert len(data.classes) == config().classes()
        height, width, channels = data.train.images.shape[1:]
        assert (channels, height, width) == config().stored_shape()
        assert data.name == config().name
