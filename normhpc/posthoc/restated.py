"""Corruptions of CIFAR-10-C that its authors made with other programs or draws, restated as formulas of NumPy.

Strengths and steps are those of their ``make_cifar_c.py`` (Hendrycks and Dietterich 2019, arXiv:1903.12261); the draws are
other ones, and ImageMagick and OpenCV round on the way, so that no image has the bytes of the published set. Of the 15
corruptions only frost is left, which needs their photographs.

As in :mod:`normhpc.posthoc.corruption` all take (N, H, W, C) values in 0..1, a strength and a generator, and draw image
by image.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

_GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a colour (ITU-R BT.601), as OpenCV has them."""


def motion_blur(
    values: NDArray[np.float64], strength: tuple[float, ...], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Each image smeared along a line at its own angle of -45 to 45 degrees; ``strength`` is (radius, deviation) in pixels.

    As ImageMagick does it, see :func:`along_lines`, without its rounding: not equal to the published tool's bytes.
    """
    radius, deviation = strength
    return along_lines(values, radius, deviation, generator.uniform(-45, 45, len(values)))


def along_lines(
    values: NDArray[np.float64], radius: float, deviation: float, degrees: NDArray[np.float64]
) -> NDArray[np.float64]:
    """sum_i w_i x(row + ceil(i sin a - 1/2), column + ceil(i cos a - 1/2)), i = 0 .. 2 radius, edges repeated.

    w_i = exp(-i^2 / (2 deviation^2)) over their sum, a the angle of each image in ``degrees`` (N,).
    """
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    weights /= weights.sum()
    angles = np.deg2rad(degrees)[:, None]
    down, across = (np.ceil(steps * part - 0.5).astype(np.int64) for part in (np.sin(angles), np.cos(angles)))
    height, width = values.shape[1:3]
    image = np.arange(len(values))[:, None, None]
    blurred = np.zeros_like(values)
    for step, weight in enumerate(weights):
        rows = np.clip(np.arange(height) + down[:, step, None], 0, height - 1)[:, :, None]
        columns = np.clip(np.arange(width) + across[:, step, None], 0, width - 1)[:, None, :]
        blurred += weight * values[image, rows, columns]
    return blurred


def glass_blur(
    values: NDArray[np.float64], strength: tuple[float, ...], generator: np.random.Generator
) -> NDArray[np.float64]:
    """A Gaussian, pixels taken from neighbours at random, a Gaussian; ``strength`` is (deviation, times).

    Each time a pixel with row and column of 2 or more takes the colour of one that is 0 or 1 pixel above and 0 or 1 to the
    left of it. That is what the published exchange of two pixels does: NumPy's are views, so that one is copied only. The
    draws are others than the published tool's.
    """
    deviation, times = strength
    shuffled = np.floor(np.clip(_smoothed(values, deviation), 0, 1) * 255) / 255
    height, width = values.shape[1:3]
    # their loops run from the last row and column to the third, so that a neighbour is never one that was changed
    rows, columns = np.arange(height - 1, 1, -1), np.arange(width - 1, 1, -1)
    drawn = generator.integers(-1, 1, (len(values), int(times), len(rows), len(columns), 2))
    image = np.arange(len(values))[:, None, None]
    for time in range(int(times)):
        across, down = drawn[:, time, :, :, 0], drawn[:, time, :, :, 1]
        taken = shuffled[image, rows[:, None] + down, columns + across]
        shuffled[:, rows[:, None], columns] = taken
    return _smoothed(shuffled, deviation)


def elastic_transform(
    values: NDArray[np.float64], strength: tuple[float, ...], generator: np.random.Generator
) -> NDArray[np.float64]:
    """A random affine map, then every pixel from a place beside its own; ``strength`` is (distance, deviation, corners).

    All in shares of the shorter side. The affine map moves three corners of a square around the middle, a third of the
    side away from it, by up to ``corners`` either way. Pixels move by a smooth random field: a uniform one on -1..1,
    smoothed by a Gaussian of ``deviation`` cut at 3 of them, times ``distance``. Values between pixels are linear; edges are
    mirrored. OpenCV's places are rounded to 1/32 pixel, these are not: not equal to the published tool's bytes.
    """
    height, width = values.shape[1:3]
    distance, deviation, corners = (min(height, width) * part for part in strength)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    middle, reach = np.array([height // 2, width // 2]), max(1, min(height, width) // 3)
    square = middle + reach * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = np.empty_like(values)
    for number, image in enumerate(values):
        places = square + generator.uniform(-corners, corners, (3, 2))
        # the place in the image of what comes to a place in the result
        back = np.linalg.solve(np.column_stack([places, np.ones(3)]), square)
        turned = _at(image, np.stack([rows, columns, np.ones_like(rows)], axis=-1) @ back, "mirror")
        fields = generator.uniform(-1, 1, (2, height, width))
        across, down = (
            distance * gaussian_filter(field, deviation, mode="reflect", truncate=3) if distance else 0 * field
            for field in fields
        )
        moved[number] = _at(turned, np.stack([rows + down, columns + across], axis=-1), "reflect")
    return moved


def fog(
    values: NDArray[np.float64], strength: tuple[float, ...], generator: np.random.Generator
) -> NDArray[np.float64]:
    """(x + c p) m / (m + c), p a random :func:`plasma` and m the largest value of an image; ``strength`` is (c, decay).

    The formula is the published one, the draws are not.
    """
    amount, decay = strength
    height, width = values.shape[1:3]
    veil = plasma(len(values), max(height, width), decay, generator)[:, :height, :width, None]
    largest = values.max(axis=(1, 2, 3), keepdims=True)
    veiled: NDArray[np.float64] = (values + amount * veil) * largest / (largest + amount)
    return veiled


def plasma(count: int, side: int, decay: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """(count, S, S) fractal fields from 0 to 1, by diamonds and squares; S the next power of two from ``side``, at least 2.

    From one point, round a torus: the middle of every square becomes the mean of its corners plus u w^2, then the
    middles of sides the mean of four neighbours plus u w^2, u uniform on -1..1; w is 100 at first, and each time the squares
    halve w is divided by ``decay``.
    """
    size = max(2, 1 << (side - 1).bit_length())
    drawn = generator.uniform(-1, 1, (count, size * size - 1))
    field = np.zeros((count, size, size))
    used, step, spread = 0, size, 100.0

    def disturbed(total: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal used
        amount = total[0].size
        part = drawn[:, used : used + amount].reshape(total.shape)
        used += amount
        return total / 4 + spread**2 * part

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        field[:, half::step, half::step] = disturbed(pairs + np.roll(pairs, -1, axis=2))
        middles = field[:, half::step, half::step]
        corners = field[:, ::step, ::step]
        beside = middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        field[:, ::step, half::step] = disturbed(beside)
        above = middles + np.roll(middles, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        field[:, half::step, ::step] = disturbed(above)
        step, spread = half, spread / decay
    field -= field.min(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float64] = field / field.max(axis=(1, 2), keepdims=True)
    return scaled


def snow(
    values: NDArray[np.float64], strength: tuple[float, ...], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Paler images under flakes that fall at an angle; ``strength`` is (mean, deviation, zoom, least, radius, smear, share).

    Flakes: normal draws of each pixel, enlarged by zoom, those below least 0, rounded down to bytes, blurred by
    :func:`along_lines` with (radius, smear) at an angle of -135 to -45 degrees. The image becomes share x + (1 - share)
    max(x, 1.5 g + 0.5), g its brightness, plus the flakes, plus the flakes turned by half a turn. ImageMagick's rounding is
    not there: not equal to the published tool's bytes.
    """
    mean, deviation, factor, least, radius, smear, share = strength
    height, width = values.shape[1:3]
    drawn = [(generator.normal(mean, deviation, (height, width)), generator.uniform(-135, -45)) for _ in values]
    flakes = np.stack([flake for flake, _ in drawn])
    flakes = np.einsum("ih,nhw,jw->nij", enlarging(height, factor), flakes, enlarging(width, factor), optimize=True)
    flakes = np.floor(np.clip(np.where(flakes < least, 0, flakes), 0, 1) * 255) / 255
    fallen = along_lines(flakes[..., None], radius, smear, np.array([angle for _, angle in drawn]))
    colours = values.shape[3] == 3
    grey = (values @ np.array(_GREY))[..., None] if colours else values.mean(axis=3, keepdims=True)
    paler = share * values + (1 - share) * np.maximum(values, 1.5 * grey + 0.5)
    found: NDArray[np.float64] = paler + fallen + fallen[:, ::-1, ::-1]
    return found


def enlarging(size: int, factor: float) -> NDArray[np.float64]:
    """(size, size): takes a line of pixels to its middle, enlarged by ``factor`` and cut to ``size``, linearly interpolated."""
    taken = int(np.ceil(size / factor))
    first = (size - taken) // 2
    enlarged = zoom(np.eye(size)[first : first + taken], (factor, 1), order=1)
    cut = (len(enlarged) - size) // 2
    found: NDArray[np.float64] = enlarged[cut : cut + size]
    return found


def _smoothed(values: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """A Gaussian over height and width, cut at 4 deviations, edges repeated."""
    found: NDArray[np.float64] = gaussian_filter(values, (0, deviation, deviation, 0), mode="nearest", truncate=4.0)
    return found


def _at(image: NDArray[np.float64], places: NDArray[np.float64], mode: str) -> NDArray[np.float64]:
    """(H, W, C): ``image`` (H, W, C) at the rows and columns ``places`` (H, W, 2), linear between pixels."""
    where = np.moveaxis(places, -1, 0)
    planes = [map_coordinates(image[..., plane], where, order=1, mode=mode) for plane in range(image.shape[2])]
    return np.stack(planes, axis=-1)
