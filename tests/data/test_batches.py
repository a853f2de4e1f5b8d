"""Batches against a slow reference that treats one image at a time."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from normhpc.config.training import NoAugment, StandardAugment
from normhpc.data import Batches, ImageSplit, draws, order, rank_share

MEAN, STD = (0.2, 0.5, 0.7), (0.25, 0.3, 0.1)
AUGMENTS = [
    None,
    NoAugment(),
    StandardAugment(),
    StandardAugment(flip=False, crop_padding=2),
    StandardAugment(crop_padding=0),
    StandardAugment(crop_padding=7),
]


def split_of(rows=40, height=8, width=7, channels=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, height, width, channels), dtype=torch.uint8, generator=generator)
    return ImageSplit(images, torch.arange(rows) % 10)


def batches_of(split, augment, mean=MEAN, std=STD, **options):
    channels = split.images.shape[-1]
    return Batches(split, mean[:channels], std[:channels], device="cpu", augment=augment, **{"seed": 1, **options})


def reference(split, augment, rows, epoch, seed):
    """Pixels (B, C, H, W) as integers, by Python loops and numpy's pad."""
    images = []
    for row in rows.tolist():
        image = split.images[row].numpy()
        height, width, _ = image.shape
        own = np.array([row])
        flip, top, left = (int(draws(seed, epoch, own, stream)[0]) for stream in range(3))
        if isinstance(augment, StandardAugment):
            padding = augment.crop_padding
            if padding:
                padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
                y, x = top % (2 * padding + 1), left % (2 * padding + 1)
                image = padded[y : y + height, x : x + width]
            if augment.flip and flip >= 2**63:
                image = image[:, ::-1]
        images.append(image.transpose(2, 0, 1))
    return np.stack(images)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_augmented_pixels_are_exactly_those_of_the_reference(augment, channels, channels_last):
    split = split_of(channels=channels)
    # With these statistics a normalized value is the pixel's number.
    batches = batches_of(split, augment, (0.0,) * 3, (1 / 255,) * 3, channels_last=channels_last)
    for epoch in (0, 3):
        rows = order(len(split), 5, epoch)[:33]
        x, y, targets = batches.train(rows, epoch)
        assert np.array_equal(x.numpy(), reference(split, augment, rows, epoch, seed=1))
        assert torch.equal(y, split.labels[torch.from_numpy(rows)])
        assert targets is y
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert x.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_evaluation_gives_the_rows_as_they_are(augment):
    split = split_of()
    batches = batches_of(split, augment)
    x, y = batches.evaluate(10, 25)
    pixels = split.images[10:25].permute(0, 3, 1, 2).double() / 255
    expected = (pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(y, split.labels[10:25])
    assert batches.shape == (3, 8, 7)
    assert len(batches) == 40


def test_the_padding_is_black():
    split = ImageSplit(torch.full((200, 4, 4, 1), 255, dtype=torch.uint8), torch.zeros(200, dtype=torch.int64))
    x, *_ = batches_of(split, StandardAugment(crop_padding=2), (0.5,), (0.5,)).train(np.arange(200), 0)
    assert set(x.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7, 8])
def test_an_image_is_the_same_on_every_rank_in_every_batch_and_after_resuming(world):
    split = split_of()
    whole, *_ = batches_of(split, StandardAugment()).train(np.arange(40), epoch=2)
    rows = order(40, 1, 2)
    seen = []
    for rank in range(world):
        batches = batches_of(split, StandardAugment())  # a fresh one, as after resuming in the middle of epoch 2
        for start in (32, 0, 16):
            global_batch = rows[start : start + 16]
            share = global_batch[rank_share(len(global_batch), rank, world)]
            x, *_ = batches.train(share, epoch=2)
            assert torch.equal(x, whole[torch.from_numpy(share)])
            seen.extend(share.tolist())
    assert sorted(seen) == list(range(40))


def test_seed_and_epoch_change_the_augmentation():
    split = split_of()
    rows = np.arange(40)
    drawn = [
        batches_of(split, StandardAugment(), seed=seed).train(rows, epoch)[0] for seed in (0, 1) for epoch in (0, 1)
    ]
    assert not any(torch.equal(a, b) for index, a in enumerate(drawn) for b in drawn[:index])


def test_every_place_and_both_sides_are_drawn_evenly():
    rows = np.arange(8100)
    pixel = torch.zeros(8100, 5, 5, 1, dtype=torch.uint8)
    pixel[:, 2, 1] = 1
    batches = batches_of(
        ImageSplit(pixel, torch.zeros(8100, dtype=torch.int64)), StandardAugment(crop_padding=1), (0.0,), (1 / 255,)
    )
    x, *_ = batches.train(rows, 0)
    places = x.sum(0).flatten()
    # 9 crops times 2 sides, each expected 450 times; columns 0 to 2 and, mirrored, 2 to 4, so 2 has both.
    expected = torch.tensor([[0, 0, 0, 0, 0], *[[1, 1, 2, 1, 1]] * 3, [0, 0, 0, 0, 0]]).flatten() * 450.0
    assert ((places - expected).abs() < 4 * expected.sqrt() + 1).all()


def test_no_rows_give_an_empty_batch():
    x, y, _ = batches_of(split_of(), StandardAugment()).train(np.arange(0), 0)
    assert x.shape == (0, 3, 8, 7)
    assert y.shape == (0,)


def test_a_constant_channel_does_not_divide_by_zero():
    split = ImageSplit(torch.full((4, 3, 3, 1), 51, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    x, _ = batches_of(split, None, (0.2,), (0.0,)).evaluate(0, 4)
    torch.testing.assert_close(x, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_rounded_once(dtype):
    split = split_of()
    exact, _ = batches_of(split, None, dtype=torch.float64).evaluate(0, 40)
    x, _ = batches_of(split, None, dtype=dtype).evaluate(0, 40)
    assert x.dtype == dtype
    torch.testing.assert_close(x, exact.to(dtype), rtol=2**-8 if dtype == torch.bfloat16 else 0, atol=0)


@pytest.mark.parametrize("side", [5, 21])
def test_resized_images_are_torchvisions(side):
    split = split_of()
    batches = batches_of(split, StandardAugment(), (0.0,) * 3, (1 / 255,) * 3, resize=side)
    plain = batches_of(split, StandardAugment(), (0.0,) * 3, (1 / 255,) * 3)
    rows = np.arange(30)
    for resized, stored in (
        (batches.train(rows, 2).images, plain.train(rows, 2).images),
        (batches.evaluate(3, 9)[0], plain.evaluate(3, 9)[0]),
    ):
        expected = functional.resize(stored.round().to(torch.uint8), [side, side], antialias=True).float()
        difference = (resized - expected).abs()
        assert difference.max() <= 1.001  # an exact half may be rounded either way
        assert (difference > 0.5).float().mean() < 0.02
