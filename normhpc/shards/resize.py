"""How an image of any size becomes a square: three ways, all with Pillow's own resampling."""

from typing import Literal, NamedTuple, get_args

from PIL import Image

Way = Literal["squash", "crop", "letterbox"]
"""``squash`` changes the aspect, ``crop`` cuts off what is too long, ``letterbox`` fills what is too short."""

Filter = Literal["bilinear", "bicubic", "lanczos"]
"""Filters of Pillow, all of which average over the pixels that one of the smaller image covers."""

WAYS: tuple[Way, ...] = get_args(Way)
FILTERS: tuple[Filter, ...] = get_args(Filter)


class Placed(NamedTuple):
    """Width and height that an image is resampled to, and where its left upper corner then lies in the square."""

    width: int
    height: int
    left: int
    top: int


def placed(width: int, height: int, size: int, way: Way = "squash") -> Placed:
    """Where :func:`resized` puts an image of ``width`` x ``height``; a corner is negative where something is cut off."""
    if way == "squash" or width == height:
        return Placed(size, size, 0, 0)
    shorter, longer = sorted((width, height))
    if way == "crop":
        long = size * longer // shorter
        wide, high = (long, size) if width > height else (size, long)
        return Placed(wide, high, -round((wide - size) / 2), -round((high - size) / 2))
    wide, high = _scaled(width, size, longer), _scaled(height, size, longer)
    return Placed(wide, high, round((size - wide) / 2), round((size - high) / 2))


def resized(image: Image.Image, size: int, way: Way = "squash", filter: Filter = "bicubic") -> Image.Image:
    """``image`` as ``size`` x ``size`` pixels.

    - squash: width and height to ``size``.
    - crop: the shorter side to ``size``, the longer to floor(``size`` * longer / shorter), then the middle of it, whose
      left (upper) edge is at round((longer - ``size``) / 2), halves to the even: Resize and CenterCrop of torchvision.
    - letterbox: the longer side to ``size``, the shorter to round(``size`` * shorter / longer), at least 1, and black
      around it, the image at round((``size`` - shorter) / 2): ``ImageOps.pad`` of Pillow.

    An image that has the size already comes back as it is: resampling to the same size changes no pixel.
    """
    resampling = Image.Resampling[filter.upper()]
    if way == "squash" or image.width == image.height:
        return image.resize((size, size), resampling)
    wide, high, left, top = placed(image.width, image.height, size, way)
    scaled = image.resize((wide, high), resampling)
    if way == "crop":
        return scaled.crop((-left, -top, size - left, size - top))
    square = Image.new(image.mode, (size, size))
    square.paste(scaled, (left, top))
    return square


def _scaled(side: int, size: int, longer: int) -> int:
    """A side of an image whose ``longer`` one becomes ``size``; a line of pixels stays one."""
    return max(1, round(side / longer * size))
