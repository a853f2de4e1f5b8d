"""Changes of a whole batch against torchvision's of one image at a time."""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, RandomPerspective, functional

from normhpc.config.training import StandardAugment
from normhpc.data import draws, order, uniform
from normhpc.data.augment import draw_corners, grayscale, perspective, rotate, warped
from normhpc.data.order import Stream

SIZES = [(32, 32), (8, 7), (5, 12), (2, 3)]
SPECIAL = [0, 90, -90, 180, -180, 45, -45, 30, 60, 135, 7, 15]


def random_pixels(rows, height, width, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, channels, height, width), dtype=torch.uint8, generator=generator)


def whole_corners(height, width):
    return [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]


def test_grayscale_is_torchvisions():
    pixels = random_pixels(50, 8, 7)
    assert torch.equal(grayscale(pixels), functional.rgb_to_grayscale(pixels, 3))


@pytest.mark.parametrize("size", [*SIZES, (1, 1)])
@pytest.mark.parametrize("fill", [0, 1, 255])
def test_rotation_is_torchvisions(size, fill):
    degrees = np.concatenate((np.random.default_rng(0).uniform(-180, 180, 88), SPECIAL))
    pixels = random_pixels(100, *size)
    expected = [
        functional.rotate(image, float(angle), InterpolationMode.NEAREST, fill=[float(fill)])
        for image, angle in zip(pixels, degrees, strict=True)
    ]
    assert torch.equal(rotate(pixels, degrees, fill), torch.stack(expected))


def test_a_quarter_turn_is_counter_clockwise():
    pixels = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    assert rotate(pixels, np.array([90.0]), 0).tolist() == [[[[2, 4], [1, 3]]]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("distortion", [0.3, 0.9])
def test_perspective_is_torchvisions(size, distortion):
    pixels = random_pixels(100, *size)
    corners = draw_corners(1, 2, np.arange(100), *size, distortion)
    expected = [
        functional.perspective(image, whole_corners(*size), places.tolist())
        for image, places in zip(pixels, corners, strict=True)
    ]
    difference = (perspective(pixels, corners).int() - torch.stack(expected).int()).abs()
    # a value half-way between two integers may be rounded to the other one
    assert difference.max() <= 1
    assert difference.float().mean() < 1e-3


def test_corners_that_stay_leave_the_image_as_it_is():
    pixels = random_pixels(4, 9, 6)
    assert torch.equal(perspective(pixels, np.tile(whole_corners(9, 6), (4, 1, 1))), pixels)


def test_an_image_seen_edge_on_is_black_and_the_others_are_as_they_are():
    """torchvision raises an error for the first of these."""
    pixels = random_pixels(3, 4, 4) | 1
    corners = np.array([[[2, 2]] * 4, whole_corners(4, 4), [[1, 0], [1, 0], [1, 3], [1, 3]]])
    found = perspective(pixels, corners)
    assert not found[[0, 2]].any()
    assert torch.equal(found[1], pixels[1])


@pytest.mark.parametrize("size", [(32, 32), (8, 11)])
@pytest.mark.parametrize("distortion", [0.3, 0.5, 1.0])
def test_corners_are_drawn_evenly_over_the_places_of_random_perspective(size, distortion):
    height, width = size
    corners = draw_corners(0, 0, np.arange(4000), height, width, distortion)
    torch.manual_seed(0)
    theirs = np.array([RandomPerspective.get_params(width, height, distortion)[1] for _ in range(2000)])
    for corner in range(4):
        for axis in range(2):
            own = corners[:, corner, axis]
            places, counts = np.unique(own, return_counts=True)
            assert places.tolist() == np.unique(theirs[:, corner, axis]).tolist()
            expected = 4000 / len(places)
            assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    correlation = np.corrcoef(corners.reshape(4000, 8), rowvar=False) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize(
    "augment",
    [
        StandardAugment(grayscale_probability=0.4),
        StandardAugment(rotation_degrees=30, rotation_fill=9),
        StandardAugment(perspective_probability=0.6, perspective_distortion=0.4),
        StandardAugment(
            grayscale_probability=0.4, rotation_degrees=180, perspective_probability=1, perspective_distortion=0.9
        ),
    ],
    ids=str,
)
def test_what_is_drawn_for_each_image_and_in_which_order_it_is_done(augment):
    rows = order(60, 1, 0)[:50]
    pixels = random_pixels(50, 12, 10)
    expected = pixels.clone()
    for place, row in enumerate(rows):
        own, image = np.array([row]), pixels[place]

        def drawn(stream, own=own):
            return int(draws(7, 3, own, stream)[0] >> np.uint64(11)) / 2**53

        if drawn(3) < augment.grayscale_probability:
            image = functional.rgb_to_grayscale(image, 3)
        if augment.rotation_degrees:
            angle = (2 * drawn(4) - 1) * augment.rotation_degrees
            image = functional.rotate(image, angle, fill=[float(augment.rotation_fill)])
        if drawn(5) < augment.perspective_probability:
            most = [int(augment.perspective_distortion * (side // 2)) + 1 for side in (10, 12)]
            moves = [int(draws(7, 3, own, 16 + number)[0]) % most[number % 2] for number in range(8)]
            corners = [
                [x + dx if x == 0 else x - dx, y + dy if y == 0 else y - dy]
                for (x, y), dx, dy in zip(whole_corners(12, 10), moves[::2], moves[1::2], strict=True)
            ]
            image = functional.perspective(image, whole_corners(12, 10), corners)
        expected[place] = image
    found = warped(pixels.clone(), rows, 3, 7, augment)
    assert found.dtype == torch.uint8
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 1e-3
    assert not torch.equal(found, pixels)


def test_uniform_draws_are_even_and_below_one():
    values = uniform(3, 1, np.arange(10_000), Stream.ANGLE)
    assert ((values >= 0) & (values < 1)).all()
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 19 + 5 * np.sqrt(38)
    bits = int(draws(3, 1, np.array([5]), Stream.ANGLE)[0])
    assert values[5] == (bits >> 11) / 2**53


def test_streams_are_what_they_were():
    """A stream's number decides what every image of every recorded run looked like."""
    assert {stream.name: int(stream) for stream in Stream} == {
        "FLIP": 0,
        "TOP": 1,
        "LEFT": 2,
        "GRAYSCALE": 3,
        "ANGLE": 4,
        "PERSPECTIVE": 5,
        "PARTNER": 6,
        "MIXED": 7,
        "CUT": 8,
        "SHARE": 9,
        "BOX_ROW": 10,
        "BOX_COLUMN": 11,
        "CORNERS": 16,
    }
