"""Single-page GeoTIFF files of one band, read in one piece; what is compressed or tiled goes to tifffile."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normhpc.errors import DataError, Problem
from normhpc.shards.convert import Unreadable

WIDTH, HEIGHT, BITS, COMPRESSION, FILL_ORDER = 256, 257, 258, 259, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 277, 278, 279
PREDICTOR, TILE_WIDTH, SAMPLE_FORMAT = 317, 322, 339
"""Tags of the TIFF 6.0 specification."""

_DEFAULTS = {BITS: 1, COMPRESSION: 1, FILL_ORDER: 1, SAMPLES: 1, PREDICTOR: 1, SAMPLE_FORMAT: 1}
_NUMBERS = {1: "B", 3: "H", 4: "I"}
_KINDS = {1: "u", 2: "i", 3: "f"}

Tags = dict[int, tuple[int, ...]]


def read_geotiff(file: Path) -> NDArray[Any]:
    """The stored values of the only band in ``file``, (height, width), little-endian.

    Raises :class:`~normhpc.shards.convert.Unreadable` for a file that is missing or damaged, and
    :class:`~normhpc.errors.DataError` for one that needs tifffile where that is not installed.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"no file {file.name}") from None
    try:
        byte_order, tags, needs = _header(content)
        needs = needs or _beyond_strips(tags)
        return _with_tifffile(file, needs) if needs else _strips(content, byte_order, tags)
    except struct.error:
        raise Unreadable(f"{file.name}: ends within its header ({len(content):,} bytes)") from None
    except _DamagedError as error:
        raise Unreadable(f"{file.name}: {error} ({len(content):,} bytes)") from None


class _DamagedError(Exception):
    """What is wrong with the content of a file."""


def _header(content: bytes) -> tuple[str, Tags, str]:
    """Byte order as struct and numpy write it, the first page's tags that are whole numbers, and why this is not all."""
    byte_order = {b"II": "<", b"MM": ">"}.get(content[:2])
    version = struct.unpack_from(f"{byte_order}H", content, 2)[0] if byte_order else 0
    if version not in (42, 43):
        raise _DamagedError("not a TIFF file")
    if version == 43:
        return byte_order or "", {}, "a BigTIFF"
    (start,) = struct.unpack_from(f"{byte_order}I", content, 4)
    (count,) = struct.unpack_from(f"{byte_order}H", content, start)
    tags: Tags = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{byte_order}HHI", content, entry)
        if kind in _NUMBERS:
            form = f"{byte_order}{values}{_NUMBERS[kind]}"
            inline = struct.calcsize(form) <= 4
            place = entry + 8 if inline else struct.unpack_from(f"{byte_order}I", content, entry + 8)[0]
            tags[tag] = struct.unpack_from(form, content, place)
    (following,) = struct.unpack_from(f"{byte_order}I", content, start + 2 + 12 * count)
    return byte_order or "", tags, "of several pages" if following else ""


def _beyond_strips(tags: Tags) -> str:
    """What makes a page more than plain strips of one band; empty for a plain one."""
    found = {tag: tags.get(tag, (default,)) for tag, default in _DEFAULTS.items()}
    if TILE_WIDTH in tags:
        return "tiled"
    if found[COMPRESSION] != (1,) or found[PREDICTOR] != (1,):
        return f"compressed (method {found[COMPRESSION][0]})"
    if found[SAMPLES] != (1,) or found[FILL_ORDER] != (1,) or _dtype("<", tags) is None:
        return "of an unusual kind of values"
    return ""


def _dtype(byte_order: str, tags: Tags) -> np.dtype[Any] | None:
    kind = _KINDS.get(tags.get(SAMPLE_FORMAT, (1,))[0])
    bits = tags.get(BITS, (1,))[0]
    known = (kind in ("u", "i") and bits in (8, 16, 32)) or (kind == "f" and bits in (32, 64))
    return np.dtype(f"{byte_order}{kind}{bits // 8}") if known else None


def _strips(content: bytes, byte_order: str, tags: Tags) -> NDArray[Any]:
    """The strips of a plain file, one under the other."""
    if missing := [tag for tag in (WIDTH, HEIGHT, STRIP_OFFSETS, STRIP_BYTES) if tag not in tags]:
        raise _DamagedError(f"no tag {missing[0]}")
    dtype = _dtype(byte_order, tags)
    assert dtype is not None
    (width,), (height,), offsets, found = (tags[tag] for tag in (WIDTH, HEIGHT, STRIP_OFFSETS, STRIP_BYTES))
    rows = min(tags.get(ROWS_PER_STRIP, (height,))[0], height)
    if not rows or not width or len(offsets) != -(-height // rows):
        raise _DamagedError(
            f"expected strips of {height}x{width} values in {rows} rows each, found {len(offsets)} strips"
        )
    expected = tuple(min(rows, height - top) * width * dtype.itemsize for top in range(0, height, rows))
    if found != expected:
        raise _DamagedError(f"expected strips of {expected} bytes for {height}x{width}, found {found}")
    end = max(offset + size for offset, size in zip(offsets, expected, strict=True))
    if end > len(content):
        raise _DamagedError(f"expected {end:,} bytes")
    # strips of one file almost always lie one after the other
    joined = all(left + size == right for left, size, right in zip(offsets, expected, offsets[1:], strict=False))
    strips = zip(offsets, expected, strict=True)
    values = content if joined else b"".join(content[offset : offset + size] for offset, size in strips)
    image = np.frombuffer(values, dtype, height * width, offsets[0] if joined else 0).reshape(height, width)
    return image.astype(dtype.newbyteorder("<"), copy=False)


def _with_tifffile(file: Path, needs: str) -> NDArray[Any]:
    try:
        import tifffile
    except ImportError:
        message = f"expected plain uncompressed strips, found a file that is {needs}; install tifffile to read it"
        raise DataError(Problem(f"{message} (pip install tifffile)", file=str(file))) from None
    try:
        image = np.asarray(tifffile.imread(file))
    except Exception as error:  # a damaged file can fail in any way
        raise _DamagedError(f"tifffile cannot read it: {error}") from error
    return image.astype(image.dtype.newbyteorder("<"), copy=False)
