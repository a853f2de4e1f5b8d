"""Image files of any size and kind, as rows of shards: what the scripts for COCO and for folders of classes share.

Orientation marks (EXIF) are ignored, as by torchvision's readers of both: pixels are stored as they lie in the file.
"""

import argparse
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features

from normhpc.errors import DataError, InputError, Problem
from normhpc.shards.convert import ExtraField, ImageField, Row, Unreadable
from normhpc.shards.resize import FILTERS, WAYS, Filter, Way, resized

JPEG_QUALITY = 95
"""Of what ``--encoding jpeg`` writes."""

MOST_PIXELS = 65_535
"""The longest side that ``orig_size`` can hold, and a JPEG file."""

ORIG_SIZE = ExtraField("orig_size", "<u2", (2,))
"""Height and width of the file."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to images before they are stored."""

    size: int
    """Height and width in pixels; 0 leaves images as they are."""
    resize: Way = "squash"
    filter: Filter = "bicubic"
    encoding: Literal["raw", "jpeg"] = "raw"

    def fields(self, shape: tuple[int, int] | None = None) -> tuple[ImageField, ...]:
        """The one field of images; ``shape`` is the height and width of raw ones that are left as they are."""
        if self.encoding == "jpeg":
            return (ImageField("jpeg", "|u1", (), "NHWC"),)
        return (ImageField("images", "|u1", (*(shape or (self.size, self.size)), 3), "NHWC"),)

    def preprocessing(self) -> dict[str, Any]:
        """What was done to the pixels and by which versions, for the index."""
        done: dict[str, Any] = {"size": self.size}
        if self.size:
            done |= {"resize": self.resize, "filter": self.filter}
        if self.encoding == "jpeg":
            done |= {"quality": JPEG_QUALITY}
        return done | {"mode": "RGB", "pillow": PIL.__version__, "libjpeg": _libjpeg()}


def _libjpeg() -> str:
    """Version of the library that decodes: a distribution's Pillow may have another one than the wheel."""
    return features.version_feature("libjpeg_turbo") or features.version("jpg") or "unknown"


def add_options(parser: argparse.ArgumentParser, *, size: int | None, zero: str) -> None:
    """``--size --resize --filter --encoding``; no default ``size`` makes it required, ``zero`` says what 0 means."""
    parser.add_argument(
        "--size",
        type=int,
        default=size,
        required=size is None,
        metavar="PIXELS",
        help=f"height and width of stored images{f' (default {size})' if size else ''}; 0: {zero}",
    )
    parser.add_argument(
        "--resize",
        choices=WAYS,
        default="squash",
        help="squash: change the aspect (default); crop: shorter side to the size, then its middle; "
        "letterbox: longer side to the size, black around it",
    )
    parser.add_argument("--filter", choices=FILTERS, default="bicubic", help="of Pillow (default bicubic)")
    parser.add_argument(
        "--encoding",
        choices=("raw", "jpeg"),
        default="raw",
        help=f"raw: pixels, read at the speed of memory (default); jpeg: a seventh of the space, quality {JPEG_QUALITY}",
    )


def preparation_of(given: argparse.Namespace) -> Preparation:
    """The options of :func:`add_options`. Raises :class:`InputError` for a size that no image has."""
    if not 0 <= given.size <= MOST_PIXELS:
        text = f"expected pixels from 1 to {MOST_PIXELS:,}, or 0 for images as they are, got {given.size}"
        raise InputError(Problem(text, path="--size"))
    return Preparation(given.size, given.resize, given.filter, given.encoding)


Place = tuple[tuple[str, ...], int | tuple[int, ...]]
"""Paths of which the first that exists is the image, and its label."""


def read(place: Place, *, preparation: Preparation, shape: tuple[int, int] | None = None) -> Row:
    """The image at ``place`` as it is stored, with its own height and width beside it.

    ``shape`` (height, width) is what every raw image must have where images are left as they are. Raises
    :class:`Unreadable` for a file that is missing, or no whole image; :class:`DataError` for one that cannot be read
    though it is there, since reading it again may go well, and for another shape than ``shape``.
    """
    paths, label = place
    path, content = _content(paths)
    image = decoded(content)
    extra = {"orig_size": (image.height, image.width)}
    if preparation.size:
        pixels = resized(_rgb(image), preparation.size, preparation.resize, preparation.filter)
        return Row(_jpeg(pixels) if preparation.encoding == "jpeg" else {"images": np.asarray(pixels)}, label, extra)
    if preparation.encoding == "jpeg":
        return Row(content if image.format == "JPEG" else _jpeg(_rgb(image)), label, extra)
    if shape is not None and (image.height, image.width) != shape:
        text = (
            f"expected {shape[0]} x {shape[1]} pixels (height x width) like the first image, "
            f"got {image.height} x {image.width}; give --size to bring all to one"
        )
        raise DataError(Problem(text, file=path))
    return Row({"images": np.asarray(_rgb(image))}, label, extra)


def decoded(content: bytes) -> Image.Image:
    """The image in a file's ``content``, all its pixels read. Raises :class:`Unreadable`."""
    if not content:
        raise Unreadable("empty file")
    try:
        with warnings.catch_warnings():
            # of odd metadata, and of images of more than 89 million pixels; twice that is an error
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            image.load()
    except UnidentifiedImageError:  # its text holds an address in memory
        raise Unreadable("not an image") from None
    except _FAULTS as error:
        raise Unreadable(f"not a whole image: {error}") from None
    if max(image.size) > MOST_PIXELS:
        raise Unreadable(f"{image.height} x {image.width} pixels, more than {MOST_PIXELS:,} in a row or column")
    if image.mode.startswith(("I", "F")):
        raise Unreadable(f"more than 8 bits a channel (Pillow's mode {image.mode})")
    return image


_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files of its many kinds."""


def _content(paths: tuple[str, ...]) -> tuple[str, bytes]:
    for path in paths:
        try:
            return path, Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            text = f"cannot be read: {error.strerror}; mend it or take it out, then run the conversion again"
            raise DataError(Problem(text, file=path)) from None
    raise Unreadable("missing")


def _rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits: grey three times, CMYK by Pillow's formula, transparency dropped."""
    if "transparency" in image.info:
        image = image.convert("RGBA")  # of which Pillow makes RGB without a warning
    return image if image.mode == "RGB" else image.convert("RGB")


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
