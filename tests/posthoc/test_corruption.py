"""Corruptions of images against their formulas."""

import colorsys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from normhpc.posthoc.corruption import CORRUPTIONS, SEVERITIES, corrupted, error_of


def pixels(count: int = 3, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 9, 11, channels), dtype=np.uint8)


def test_strengths_are_those_of_cifar_10_c() -> None:
    assert SEVERITIES["gaussian_noise"][4] == 0.10
    assert SEVERITIES.keys() == CORRUPTIONS.keys()
    assert all(len(strengths) == 5 for strengths in SEVERITIES.values())


def test_contrast_is_drawn_to_the_mean_of_each_channel() -> None:
    given = pixels()
    found = corrupted(given, "contrast", 3)
    for image, other in zip(given / 255, found, strict=True):
        for channel in range(3):
            x = image[:, :, channel]
            wanted = np.floor(np.clip(x.mean() + 0.4 * (x - x.mean()), 0, 1) * 255)
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


def test_blur_is_a_gaussian_of_height_and_width_alone() -> None:
    given = np.zeros((1, 9, 9, 2), np.uint8)
    given[0, 4, 4, 0] = 255
    found = corrupted(given, "gaussian_blur", 5)
    offsets = np.arange(-4, 5)
    bell = np.exp(-(offsets**2) / 2)
    bell /= bell.sum()
    assert np.array_equal(found[0, :, :, 0], np.floor(np.outer(bell, bell) * 255))
    assert not found[0, :, :, 1].any()


def test_noise_has_its_deviation_and_is_the_same_for_the_same_rows() -> None:
    given = np.full((500, 8, 8, 1), 128, np.uint8)
    found = corrupted(given, "gaussian_noise", 2)
    assert found.std() / 255 == pytest.approx(0.06, rel=0.02)
    assert np.array_equal(found, corrupted(given, "gaussian_noise", 2))
    assert np.array_equal(found[:7], corrupted(given[:7], "gaussian_noise", 2))
    assert not np.array_equal(found, corrupted(given, "gaussian_noise", 3))


def test_errors() -> None:
    assert error_of(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1])) == 0.5
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((50, 3)), generator.integers(0, 2, (50, 3))
    labels[:, 1] = 0
    wanted = 1 - np.mean([average_precision_score(labels[:, k], logits[:, k]) for k in (0, 2)])
    assert error_of(logits, labels) == pytest.approx(wanted)
