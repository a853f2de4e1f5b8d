import numpy as np
import pytest
from PIL import Image, ImageOps
from support.pictures import picture
from torchvision.transforms import v2

from normhpc.shards.resize import FILTERS, resized

SIDES = [(64, 48), (48, 64), (40, 40), (7, 100), (33, 32), (97, 31), (640, 427)]


def equal(first, second):
    return first.mode == second.mode and np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("size", [32, 50])
def test_squash_is_one_call_of_pillow(sides, size, filter):
    image = picture(*sides)
    expected = image.resize((size, size), getattr(Image.Resampling, filter.upper()))
    assert equal(resized(image, size, "squash", filter), expected)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("size", [32, 51])
def test_crop_is_resize_and_center_crop_of_torchvision(sides, size):
    image = picture(*sides)
    bicubic = v2.InterpolationMode.BICUBIC
    expected = v2.CenterCrop(size)(v2.Resize(size, bicubic)(image))
    assert equal(resized(image, size, "crop"), expected)


def test_crop_by_hand():
    """8 x 4 to 4 x 4: nothing is resampled, columns 2 to 5 are left."""
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    assert np.array_equal(np.asarray(resized(Image.fromarray(pixels), 4, "crop")), pixels[:, 2:6])


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("size", [32, 51])
def test_letterbox_is_pad_of_pillow(sides, size, filter):
    image = picture(*sides)
    expected = ImageOps.pad(image, (size, size), getattr(Image.Resampling, filter.upper()), color=(0, 0, 0))
    assert equal(resized(image, size, "letterbox", filter), expected)


def test_letterbox_keeps_a_line_where_rounding_leaves_none():
    image = Image.new("RGB", (400, 1), (9, 8, 7))
    pixels = np.asarray(resized(image, 20, "letterbox"))
    assert pixels.any(axis=(1, 2)).nonzero()[0].tolist() == [10]
    assert (pixels[10] == (9, 8, 7)).all()


@pytest.mark.parametrize("way", ["squash", "crop", "letterbox"])
def test_an_image_of_the_size_comes_back_as_it_is(way):
    image = picture(24, 24)
    assert equal(resized(image, 24, way), image)
