import numpy as np
import pytest
from support.sharded import BANDS, DECIBELS, config, make_shards

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.posthoc.pictures import thumbnail, to_look_at


@pytest.mark.parametrize("residency", ["device", "mmap"])
def test_photographs_are_cut_as_for_evaluation(tmp_path, residency):
    for split in ("train", "test"):
        make_shards(tmp_path, 6, split)
    part = RunConfig.model_validate({"data": config(tmp_path, crop=7, residency=residency)}).data
    images = image_data.load(part)
    stored, _ = image_data.open_shards(tmp_path, "test")[:]
    found = to_look_at(images, part, images.test, np.array([4, 1]))
    assert np.array_equal(found, stored[[4, 1], 2:9, 1:8])


def test_satellite_images_are_red_green_and_blue_of_their_bands(tmp_path):
    named = tuple(
        field.__class__(field.name, field.dtype, field.shape, field.layout, bands)
        for field, bands in zip(BANDS, (("B02", "B03"), ("B04", "B05", "B06"), ("B01",)), strict=True)
    )
    for split in ("train", "test"):
        make_shards(tmp_path, 5, split, fields=named, multi=True)
    fields = {"height": 12, "width": 12, "multi_label": True, "bands": ["B01", "B02", "B03", "B04"], "channels": 4}
    part = RunConfig.model_validate({"data": config(tmp_path, **fields), "loss": "bce"}).data
    images = image_data.load(part)
    found = to_look_at(images, part, images.test, np.array([3]))
    stored, _ = image_data.open_shards(tmp_path, "test")[3:4]
    red = stored["s2_20m"][0, 0].astype(np.float64).repeat(2, 0).repeat(2, 1)
    blue = stored["s2_10m"][0, 0].astype(np.float64)
    for place, plane, channel in ((0, red, 3), (2, blue, 1)):
        white = 10_000 * (images.mean[channel] + 2 * images.std[channel])
        np.testing.assert_allclose(found[0, :, :, place], np.clip(plane / white, 0, 1) * 255, atol=0.51)
    assert found.shape == (1, 12, 12, 3)
    assert found.dtype == np.uint8


def test_decibels_are_shown_from_two_deviations_below_the_mean_to_two_above(tmp_path):
    for split in ("train", "test"):
        make_shards(tmp_path, 5, split, fields=(DECIBELS,))
    part = RunConfig.model_validate({"data": config(tmp_path, height=12, width=12, channels=2)}).data
    images = image_data.load(part)
    found = to_look_at(images, part, images.test, np.array([3]))
    stored = image_data.open_shards(tmp_path, "test")[3:4][0].astype(np.float64)
    every = image_data.open_shards(tmp_path, "train")[:][0].astype(np.float64)
    for channel in range(2):
        mean, std = every[:, channel].mean(), every[:, channel].std()
        expected = np.clip((stored[0, channel] - mean + 2 * std) / (4 * std), 0, 1) * 255
        np.testing.assert_allclose(found[0, :, :, channel], expected, atol=0.51)


def test_thumbnails_are_means_of_squares_and_small_images_stay():
    pixels = np.random.default_rng(0).integers(0, 255, (128, 64, 3)).astype(np.uint8)
    means = pixels.reshape(64, 2, 32, 2, 3).mean(axis=(1, 3))
    found = thumbnail(pixels, 64)
    assert found.shape == (64, 32, 3)
    np.testing.assert_allclose(found, means, atol=1)
    assert np.array_equal(thumbnail(pixels, 128), pixels)
    grey = thumbnail(pixels[:5, :7, :2], 64)
    assert np.array_equal(grey, np.repeat(np.round(pixels[:5, :7, :2].mean(axis=2))[:, :, None], 3, axis=2))
