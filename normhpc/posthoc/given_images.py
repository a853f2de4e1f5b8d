"""Images that a user gives: the rows of a CSV file, or the PNG and JPEG files of a folder. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.console import Console

from normhpc.errors import DataError, InputError, Problem
from normhpc.posthoc.progress import with_bar

SUFFIXES = (".jpeg", ".jpg", ".png")
"""Files of a folder that are images."""

_MODES = {1: ("L", "grey"), 3: ("RGB", "RGB")}
"""Pillow's name and a person's of 8-bit images with so many channels."""

_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class GivenImages:
    """Stored values of images, and the column that tells them apart in what is written about them."""

    pixels: NDArray[np.uint8]
    """(N, H, W, C)."""
    key: str
    """``row`` or ``file``."""
    names: Sequence[str]
    """Number of each row, from 0, or name of each file."""

    def __len__(self) -> int:
        return len(self.pixels)

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Stored values (N, H, W, C) of all images: here all at once."""
        yield self.pixels


def read_given(place: Path, shape: tuple[int, int, int], console: Console) -> GivenImages:
    """The images at ``place``, each of ``shape`` (channels, height, width).

    Raises :class:`DataError` with everything that is wrong with them, each with its place.
    """
    if place.is_dir():
        return _read_folder(place, shape, console)
    if not place.is_file():
        raise InputError(Problem("there is no such file or folder", path="--images", file=str(place)))
    return _read_csv(place, shape, console)


def _read_csv(file: Path, shape: tuple[int, int, int], console: Console) -> GivenImages:
    """A row an image: C x H x W whole numbers from 0 to 255, channel by channel, no header."""
    channels, height, width = shape
    rows: list[bytes] = []
    problems: list[Problem] = []
    try:
        with file.open("rb") as lines:
            shown = with_bar(lines, f"reading {file.name}", file.stat().st_size, console, size=len)
            for number, line in enumerate(shown, start=1):
                if number == 1:
                    _check_text(file, line)
                    line = line.removeprefix(b"\xef\xbb\xbf")  # the mark that spreadsheets begin a file with
                row = _row(line.rstrip(b"\r\n"), shape)
                if isinstance(row, bytes):
                    rows.append(row)
                else:
                    problems += [Problem(row, file=str(file), line=number)]
                if len(problems) == _MOST_TOLD:
                    break
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", path="--images", file=str(file))) from None
    if problems:
        raise DataError(problems)
    if not rows:
        raise DataError(f"{file}: expected a row for each image, got an empty file")
    planar = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, channels, height, width)
    pixels = planar.transpose(0, 2, 3, 1).copy()
    return GivenImages(pixels, "row", [str(row) for row in range(len(rows))])


def _check_text(file: Path, line: bytes) -> None:
    if b"\0" in line or (not line.isascii() and not line.startswith(b"\xef\xbb\xbf")):
        raise _not_images(file)


def _row(line: bytes, shape: tuple[int, int, int]) -> bytes | str:
    """The values of a row as bytes, or what is wrong with it."""
    channels, height, width = shape
    wanted = channels * height * width
    fields = line.split(b",") if line.strip() else []
    if len(fields) != wanted:
        return (
            f"expected {wanted:,} values, the {channels} x {height} x {width} of an image channel by channel, "
            f"got {len(fields):,}"
        )
    if b"_" not in line:  # which Python, but nobody else, takes for part of a number
        try:
            return bytes(map(int, fields))
        except ValueError:
            pass
    values = [_value(field) for field in fields]
    if None in values:
        column = values.index(None)
        given = fields[column].decode(errors="replace").strip()
        return f"value {column + 1:,}: expected a whole number from 0 to 255, got {given[:40]!r}"
    return bytes(value for value in values if value is not None)


def _value(field: bytes) -> int | None:
    """0 to 255, also where it is written as 255.0; None for anything else."""
    try:
        value = float(field)
    except ValueError:
        return None
    return int(value) if 0 <= value <= 255 and value.is_integer() and b"_" not in field else None


def _read_folder(folder: Path, shape: tuple[int, int, int], console: Console) -> GivenImages:
    """The PNG and JPEG files directly in ``folder``, by name."""
    entries = sorted(folder.iterdir())
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    if not files:
        raise DataError(f"{folder}: expected PNG or JPEG images ({', '.join(SUFFIXES)}) in it, got none")
    images: list[NDArray[np.uint8]] = []
    problems: list[Problem] = []
    for file in with_bar(files, f"reading {folder.name}", len(files), console):
        image = _read_image(file, shape)
        if isinstance(image, str):
            problems.append(Problem(image, file=str(file)))
        else:
            images.append(image)
        if len(problems) == _MOST_TOLD:
            break
    if problems:
        raise DataError(problems)
    return GivenImages(np.stack(images), "file", [file.name for file in files])


def _read_image(file: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8] | str:
    """(H, W, C) of an image file, or what is wrong with it."""
    channels, height, width = shape
    if channels not in _MODES:
        return f"the run's images have {channels} channels, which no PNG or JPEG has; give them as a CSV file"
    mode, kind = _MODES[channels]
    try:
        with Image.open(file) as image:
            if (image.mode, image.size) != (mode, (width, height)):
                given = {"L": "grey"}.get(image.mode, image.mode)
                return (
                    f"expected an image of {height} x {width} pixels (height x width), {kind} as the run's, "
                    f"got {image.height} x {image.width}, {given}; convert it first"
                )
            return np.asarray(image).reshape(height, width, channels)
    except UnidentifiedImageError:
        return "cannot be read as an image: not PNG or JPEG; mend it or take it out of the folder"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read as an image: {error}; mend it or take it out of the folder"


def _not_images(place: Path) -> InputError:
    text = "not a CSV file, a folder of images or a split of shards"
    return InputError(Problem(text, path="--images", file=str(place)))
