"""How an image of any size becomes a square: three ways, all with Pillow's own resampling."""

from typing import Literal, get_args

from PIL import Image

Way = Literal["squash", "crop", "letterbox"]
"""``squash`` changes the aspect, ``crop`` cuts off what is too long, ``letterbox`` fills what is too short."""

Filter = Literal["bilinear", "bicubic", "lanczos"]
"""Filters of Pillow, all of which average over the pixels that one of the smaller image covers."""

WAYS: tuple[Way, ...] = get_args(Way)
FILTERS: tuple[Filter, ...] = get_args(Filter)


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
    shorter, longer = sorted(image.size)
    if way == "crop":
        long = size * longer // shorter
        wide = image.width > image.height
        scaled = image.resize((long, size) if wide else (size, long), resampling)
        left, top = round((scaled.width - size) / 2), round((scaled.height - size) / 2)
        return scaled.crop((left, top, left + size, top + size))
    scaled = image.resize((_scaled(image.width, size, longer), _scaled(image.height, size, longer)), resampling)
    square = Image.new(image.mode, (size, size))
    square.paste(scaled, (round((size - scaled.width) / 2), round((size - scaled.height) / 2)))
    return square


def _scaled(side: int, size: int, longer: int) -> int:
    """A side of an image whose ``longer`` one becomes ``size``; a line of pixels stays one."""
    return max(1, round(side / longer * size))
