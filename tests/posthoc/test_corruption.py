"""Corruptions of images against their formulas, written out with loops and numpy."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom
from sklearn.metrics import average_precision_score

from normhpc.posthoc.corruption import (
    CORRUPTIONS,
    EXTRA,
    SEVERITIES,
    corrupted,
    corruptions_of,
    error_of,
    impulse_noise,
    shot_noise,
)
from normhpc.posthoc.subject import SEED


def pixels(count: int = 3, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 9, 11, channels), dtype=np.uint8)


def in_bytes(values: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(values, 0, 1) * 255)


def assert_bytes(found: np.ndarray, values: np.ndarray) -> None:
    """Equal to ``values`` in 0..1 as bytes; where a value is a byte up to rounding, that or the one before."""
    np.testing.assert_allclose(found, np.clip(values, 0, 1) * 255 - 0.5, atol=0.5 + 1e-9)


def test_strengths_are_those_of_cifar_10_c() -> None:
    # make_cifar_c.py of the authors
    assert SEVERITIES == {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        # of (deviation, distance, times), where distance is always 1
        "glass_blur": ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
        "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    }
    assert SEVERITIES.keys() == CORRUPTIONS.keys() > set(EXTRA)
    assert len(set(CORRUPTIONS) - set(EXTRA)) == 14


def test_a_jpeg_has_one_or_three_channels() -> None:
    assert corruptions_of(3) == corruptions_of(1) == list(CORRUPTIONS)
    assert set(CORRUPTIONS) - set(corruptions_of(12)) == {"jpeg_compression"}
    for name in corruptions_of(12):
        assert corrupted(pixels(channels=12), name, 5).shape == (3, 9, 11, 12)


def test_contrast_is_drawn_to_the_mean_of_each_channel() -> None:
    given = pixels()
    found = corrupted(given, "contrast", 3)
    for image, other in zip(given / 255, found, strict=True):
        for channel in range(3):
            x = image[:, :, channel]
            wanted = in_bytes(x.mean() + 0.4 * (x - x.mean()))
            np.testing.assert_allclose(other[:, :, channel], wanted, atol=0)


def test_brightness_is_added_to_the_value_of_a_colour() -> None:
    given = pixels()
    given[0, 0, 0] = 0
    found = corrupted(given, "brightness", 4)
    for colour, other in zip(given.reshape(-1, 3) / 255, found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))) * 255
        np.testing.assert_allclose(other, wanted, atol=1.0001)
    grey = corrupted(np.full((1, 2, 2, 1), 100, np.uint8), "brightness", 5)
    assert set(grey.flatten().tolist()) == {int((100 / 255 + 0.3) * 255)}


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_saturation_is_that_of_a_colour(severity: int) -> None:
    given = pixels()
    given[0, 0, :2] = [[0, 0, 0], [77, 77, 77]]
    found = corrupted(given, "saturate", severity)
    factor, added = SEVERITIES["saturate"][severity - 1]
    for colour, other in zip(given.reshape(-1, 3) / 255, found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        wanted = colorsys.hsv_to_rgb(hue, min(max(saturation * factor + added, 0), 1), value)
        assert_bytes(other, np.array(wanted))
    grey = pixels(channels=1)
    np.testing.assert_allclose(corrupted(grey, "saturate", severity), grey, atol=0)


def test_gaussian_blur_is_a_gaussian_of_height_and_width_alone() -> None:
    given = np.zeros((1, 9, 9, 2), np.uint8)
    given[0, 4, 4, 0] = 255
    found = corrupted(given, "gaussian_blur", 5)
    offsets = np.arange(-4, 5)
    bell = np.exp(-(offsets**2) / 2)
    bell /= bell.sum()
    assert np.array_equal(found[0, :, :, 0], np.floor(np.outer(bell, bell) * 255))
    assert not found[0, :, :, 1].any()


@pytest.mark.parametrize("severity", range(1, 6))
def test_defocus_blur_is_a_smoothed_disk(severity: int) -> None:
    given = pixels()
    radius, smoothing = SEVERITIES["defocus_blur"][severity - 1]
    disk = np.array([[float(x * x + y * y <= radius**2) for x in range(-8, 9)] for y in range(-8, 9)])
    disk /= disk.sum()
    bell = np.array([np.exp(-x * x / (2 * smoothing**2)) for x in (-1, 0, 1)])
    bell /= bell.sum()
    kernel = np.zeros((17, 17))
    for y in range(1, 16):
        for x in range(1, 16):
            kernel[y, x] = sum(bell[i] * bell[j] * disk[y + i - 1, x + j - 1] for i in range(3) for j in range(3))
    assert kernel.sum() == pytest.approx(1)
    padded = np.pad(given / 255, ((0, 0), (8, 8), (8, 8), (0, 0)), mode="reflect")
    wanted = sum(kernel[y, x] * padded[:, y : y + 9, x : x + 11] for y in range(17) for x in range(17) if kernel[y, x])
    assert_bytes(corrupted(given, "defocus_blur", severity), wanted)


@pytest.mark.parametrize(("severity", "steps"), [(1, 7), (2, 12), (3, 16), (5, 26)])
def test_zoom_blur_is_the_mean_of_enlargements(severity: int, steps: int) -> None:
    given = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)  # as the authors write it
    assert len(factors) == steps
    found = corrupted(given, "zoom_blur", severity)
    for image, other in zip(given / 255, found, strict=True):
        total = image.copy()
        for factor in factors:
            size = int(np.ceil(32 / factor))
            first = (32 - size) // 2
            large = zoom(image[first : first + size, first : first + size], (factor, factor, 1), order=1)
            cut = (len(large) - 32) // 2
            total += large[cut : cut + 32, cut : cut + 32]
        assert_bytes(other, total / (len(factors) + 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_and_jpeg_are_pillow_s(channels: int) -> None:
    given = np.random.default_rng(2).integers(0, 256, (2, 32, 30, channels), dtype=np.uint8)
    for image, coarse, packed in zip(
        given, corrupted(given, "pixelate", 4), corrupted(given, "jpeg_compression", 2), strict=True
    ):
        picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
        small = picture.resize((22, 24), Image.Resampling.BOX)
        assert np.array_equal(coarse.squeeze(), np.asarray(small.resize((30, 32), Image.Resampling.BOX)))
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=65)
        assert np.array_equal(packed.squeeze(), np.asarray(Image.open(content)))


def test_gaussian_and_speckle_noise_are_those_of_numpy_s_draws() -> None:
    given = pixels()
    drawn = np.random.default_rng([SEED, 4]).standard_normal(given.shape)
    x = given / 255
    assert np.array_equal(corrupted(given, "gaussian_noise", 4), in_bytes(x + 0.09 * drawn))
    assert_bytes(corrupted(given, "speckle_noise", 4), x + x * 0.16 * drawn)


def test_shot_noise_counts_photons() -> None:
    generator = np.random.default_rng(1)
    found = shot_noise(np.full((200, 8, 8, 1), 0.4), 50, generator)
    counts = found * 50
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    # mean and variance of a Poisson distribution of 20
    assert counts.mean() == pytest.approx(20, rel=0.01)
    assert counts.var() == pytest.approx(20, rel=0.03)
    given = pixels()
    wanted = np.random.default_rng([SEED, 5]).poisson(given / 255 * 50) / 50
    assert_bytes(corrupted(given, "shot_noise", 5), wanted)


def test_impulse_noise_is_salt_and_pepper_on_a_share_of_the_values() -> None:
    found = impulse_noise(np.full((300, 8, 8, 3), 0.4), 0.07, np.random.default_rng(1))
    shares = [(found == value).mean() for value in (0.0, 0.4, 1.0)]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([0.035, 0.93, 0.035], rel=0.05)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_row_becomes_the_same_whatever_comes_after_it(name: str) -> None:
    given = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    found = corrupted(given, name, 4)
    assert not np.array_equal(found, given)
    assert np.array_equal(found, corrupted(given, name, 4))
    assert np.array_equal(found[:7], corrupted(given[:7], name, 4))
    assert not np.array_equal(found, corrupted(given, name, 5))


def test_errors() -> None:
    assert error_of(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1])) == 0.5
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((50, 3)), generator.integers(0, 2, (50, 3))
    labels[:, 1] = 0
    wanted = 1 - np.mean([average_precision_score(labels[:, k], logits[:, k]) for k in (0, 2)])
    assert error_of(logits, labels) == pytest.approx(wanted)
