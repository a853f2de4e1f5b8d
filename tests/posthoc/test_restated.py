"""Corruptions restated as formulas, against the published steps written out in loops, pixel by pixel."""

import math

import numpy as np
import pytest

from normhpc.posthoc.corruption import SEVERITIES, corrupted
from normhpc.posthoc.restated import elastic_transform, fog, glass_blur, motion_blur, plasma, snow

SEVERE = range(5)


def images(count: int = 3, height: int = 9, width: int = 11, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((count, height, width, channels))


def smeared(image: np.ndarray, radius: float, deviation: float, degrees: float) -> np.ndarray:
    """ImageMagick's MotionBlurImage on (H, W, C), without its rounding."""
    width = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i * i) / (2 * deviation**2)) for i in range(width)]
    point = (width * math.sin(math.radians(degrees)), width * math.cos(math.radians(degrees)))
    result = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for i, weight in enumerate(weights):
                x = column + math.ceil(i * point[1] / math.hypot(*point) - 0.5)
                y = row + math.ceil(i * point[0] / math.hypot(*point) - 0.5)
                y, x = min(max(y, 0), image.shape[0] - 1), min(max(x, 0), image.shape[1] - 1)
                result[row, column] += weight / sum(weights) * image[y, x]
    return result


@pytest.mark.parametrize("severity", SEVERE)
def test_motion_blur_is_half_a_gaussian_along_a_line(severity: int) -> None:
    given, strength = images(), SEVERITIES["motion_blur"][severity]
    found = motion_blur(given, strength, np.random.default_rng(5))
    angles = np.random.default_rng(5).uniform(-45, 45, 3)
    for image, other, angle in zip(given, found, angles, strict=True):
        np.testing.assert_allclose(other, smeared(image, *strength, angle), atol=1e-12)


def bell(values: np.ndarray, deviation: float, mode: str, cut: float) -> np.ndarray:
    """A Gaussian over rows and columns of (H, W), cut at so many deviations; edges repeated or mirrored with the edge."""
    reach = int(cut * deviation + 0.5)
    weights = np.array([math.exp(-0.5 * (i / deviation) ** 2) if deviation else 1.0 for i in range(-reach, reach + 1)])
    weights /= weights.sum()
    for axis in (0, 1):
        values = np.apply_along_axis(
            lambda line: np.convolve(
                np.pad(line, reach, mode="edge" if mode == "nearest" else "symmetric"), weights, "valid"
            ),
            axis,
            values,
        )
    return values


@pytest.mark.parametrize("severity", SEVERE)
def test_glass_blur_copies_neighbours_between_two_gaussians(severity: int) -> None:
    given = images()
    deviation, times = SEVERITIES["glass_blur"][severity]
    found = glass_blur(given, (deviation, times), np.random.default_rng(5))
    draws = np.random.default_rng(5)
    for image, other in zip(given, found, strict=True):
        x = np.stack([bell(image[..., c], deviation, "nearest", 4) for c in range(3)], axis=-1)
        x = np.uint8(x * 255)
        for _ in range(times):
            for h in range(9 - 1, 1, -1):
                for w in range(11 - 1, 1, -1):
                    dx, dy = draws.integers(-1, 1, size=(2,))
                    # as published, where both sides are views
                    x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
        wanted = np.stack([bell(x[..., c] / 255, deviation, "nearest", 4) for c in range(3)], axis=-1)
        np.testing.assert_allclose(other, wanted, atol=1e-12)


def linear(image: np.ndarray, row: float, column: float, fold: bool) -> np.ndarray:
    """(C,) of (H, W, C) between four pixels; mirrored at the middle of the edge's pixels, or beyond them (``fold``)."""

    def inside(place: int, size: int) -> int:
        period = 2 * size if fold else 2 * size - 2
        place %= period
        return min(place, period - 1 - place if fold else period - place)

    top, left = math.floor(row), math.floor(column)
    total = np.zeros(image.shape[2])
    for y in (top, top + 1):
        for x in (left, left + 1):
            weight = (1 - abs(row - y)) * (1 - abs(column - x))
            total += weight * image[inside(y, image.shape[0]), inside(x, image.shape[1])]
    return total


@pytest.mark.parametrize("severity", SEVERE)
def test_elastic_transform_is_an_affine_map_and_a_smooth_field(severity: int) -> None:
    given = images(2, 12, 12)
    strength = SEVERITIES["elastic_transform"][severity]
    found = elastic_transform(given, strength, np.random.default_rng(5))
    draws = np.random.default_rng(5)
    distance, deviation, corners = (12 * part for part in strength)
    for image, other in zip(given, found, strict=True):
        pts1 = np.array([[6 + 4, 6 + 4], [6 - 4, 6 + 4], [6 - 4, 6 - 4]], float)  # row, column
        pts2 = pts1 + draws.uniform(-corners, corners, (3, 2))
        # forwards, and then its inverse, as OpenCV takes it
        forwards = np.linalg.solve(np.column_stack([pts1, np.ones(3)]), pts2).T
        turned = np.zeros_like(image)
        for row in range(12):
            for column in range(12):
                place = np.linalg.solve(forwards[:, :2], np.array([row, column]) - forwards[:, 2])
                turned[row, column] = linear(image, *place, fold=False)
        fields = draws.uniform(-1, 1, (2, 12, 12))
        across, down = (distance * bell(field, deviation, "reflect", 3) for field in fields)
        wanted = np.zeros_like(image)
        for row in range(12):
            for column in range(12):
                wanted[row, column] = linear(turned, row + down[row, column], column + across[row, column], fold=True)
        np.testing.assert_allclose(other, wanted, atol=1e-9)


def diamonds_and_squares(size: int, decay: float, draws: np.random.Generator) -> np.ndarray:
    """The published plasma of one image, point by point on a torus."""
    field, step, spread = np.zeros((size, size)), size, 100.0
    while step >= 2:
        half = step // 2
        grid = range(0, size, step)
        for y in grid:
            for x in grid:
                corners = [field[a % size, b % size] for a in (y, y + step) for b in (x, x + step)]
                field[y + half, x + half] = sum(corners) / 4 + spread * draws.uniform(-1, 1) * spread
        for middle in ((0, half), (half, 0)):
            for y in grid:
                for x in grid:
                    at = (y + middle[0], x + middle[1])
                    near = [(at[0] + dy, at[1] + dx) for dy, dx in ((half, 0), (-half, 0), (0, half), (0, -half))]
                    mean = sum(field[a % size, b % size] for a, b in near) / 4
                    field[at] = mean + spread * draws.uniform(-1, 1) * spread
        step, spread = half, spread / decay
    return (field - field.min()) / (field - field.min()).max()


@pytest.mark.parametrize(("side", "size"), [(1, 2), (8, 8), (11, 16)])
def test_plasma_is_made_of_diamonds_and_squares(side: int, size: int) -> None:
    found = plasma(3, side, 2.5, np.random.default_rng(5))
    assert found.shape == (3, size, size)
    draws = np.random.default_rng(5)
    for field in found:
        np.testing.assert_allclose(field, diamonds_and_squares(size, 2.5, draws), atol=1e-12)
    np.testing.assert_allclose([found.min(), found.max()], [0, 1], atol=1e-15)


@pytest.mark.parametrize("severity", SEVERE)
def test_fog_keeps_the_largest_value_of_an_image(severity: int) -> None:
    given = images()
    amount, decay = SEVERITIES["fog"][severity]
    found = fog(given, (amount, decay), np.random.default_rng(5))
    draws = np.random.default_rng(5)
    for image, other in zip(given, found, strict=True):
        veil = diamonds_and_squares(16, decay, draws)[:9, :11, None]
        wanted = (image + amount * veil) * image.max() / (image.max() + amount)
        np.testing.assert_allclose(other, wanted, atol=1e-12)
        assert other.max() <= image.max() + 1e-12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", SEVERE)
def test_snow_is_flakes_that_fall_on_a_paler_image(severity: int, channels: int) -> None:
    given = images(2, 16, 16, channels)
    mean, deviation, factor, least, radius, smear, share = SEVERITIES["snow"][severity]
    found = snow(given, SEVERITIES["snow"][severity], np.random.default_rng(5))
    draws = np.random.default_rng(5)
    for image, other in zip(given, found, strict=True):
        layer, angle = draws.normal(mean, deviation, (16, 16)), draws.uniform(-135, -45)
        taken = math.ceil(16 / factor)
        first = (16 - taken) // 2
        size = round(taken * factor)
        cut = (size - 16) // 2
        flakes = np.zeros((16, 16))
        for row in range(16):
            for column in range(16):
                # the ends of the part lie on the ends of its enlargement
                y, x = ((at + cut) * (taken - 1) / (size - 1) for at in (row, column))
                part = layer[first : first + taken, first : first + taken, None]
                flakes[row, column] = linear(part, y, x, fold=False)[0]
        flakes = np.floor(np.clip(np.where(flakes < least, 0, flakes), 0, 1) * 255) / 255
        fallen = smeared(flakes[..., None], radius, smear, angle)
        grey = image[..., :1] if channels == 1 else (image * [0.299, 0.587, 0.114]).sum(axis=2, keepdims=True)
        wanted = share * image + (1 - share) * np.maximum(image, 1.5 * grey + 0.5)
        wanted = wanted + fallen + np.rot90(fallen, 2)
        np.testing.assert_allclose(other, wanted, atol=1e-9)


@pytest.mark.parametrize("name", ["motion_blur", "glass_blur", "elastic_transform", "fog", "snow"])
@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (2, 2, 5, 1), (1, 8, 8, 12)])
def test_any_size_and_number_of_channels(name: str, shape: tuple[int, ...]) -> None:
    given = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for severity in (1, 5):
        assert corrupted(given, name, severity).shape == shape
    black = np.zeros(shape, np.uint8)
    assert np.isfinite(corrupted(black, name, 5)).all()
