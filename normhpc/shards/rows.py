"""What a worker does: read images, check them, put their bytes at their place in the shard, add up their pixels."""

import contextlib
import errno
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normhpc.errors import DataError, Problem
from normhpc.shards.job import ExtraField, Id, ImageField, Item, Job, Row, Unreadable
from normhpc.shards.read import decoded

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NotWritten(Exception):  # noqa: N818  (what could not be)
    """The disk did not take what was written, for the reason given: told apart from a source that cannot be read."""

    def __init__(self, reason: str, for_room: bool) -> None:
        # both are arguments, with which a worker's error is made again in its parent
        super().__init__(reason, for_room)
        self.for_room = for_room
        """Whether there was too little room, and not another reason."""

    def __str__(self) -> str:
        return str(self.args[0])


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Raise :class:`NotWritten` for what the disk refuses meanwhile."""
    try:
        yield
    except OSError as error:
        raise NotWritten(error.strerror or str(error), error.errno in _NO_ROOM) from error


@dataclass(slots=True)
class Sums:
    """Exact sums over the pixels of each channel, in Python's integers: of floats in units that divide all of them."""

    count: int = 0
    sum: list[int] = field(default_factory=list)
    """In units of 2^-unit_bits."""
    sumsq: list[int] = field(default_factory=list)
    """In units of 4^-unit_bits."""
    min: list[int | float] = field(default_factory=list)
    max: list[int | float] = field(default_factory=list)
    unit_bits: int = 0

    def add(self, other: "Sums") -> None:
        """Add the pixels that ``other`` has seen."""
        if not self.count:
            self.sum, self.sumsq, self.min, self.max = other.sum, other.sumsq, other.min, other.max
            self.unit_bits = other.unit_bits
        elif other.count:
            self.sum = [a + b for a, b in zip(self.sum, other.sum, strict=True)]
            self.sumsq = [a + b for a, b in zip(self.sumsq, other.sumsq, strict=True)]
            self.min = [min(a, b) for a, b in zip(self.min, other.min, strict=True)]
            self.max = [max(a, b) for a, b in zip(self.max, other.max, strict=True)]
        self.count += other.count


_LINES_IN_32_BITS = 65_536


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of one row after its pixels were written; ``jpeg`` are the bytes that the parent stores."""

    position: int
    crc32: int
    label: Any
    extra: tuple[Any, ...]
    jpeg: bytes | None = None
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """Some images of a shard: those stored, those skipped with position and reason, and the sums by field."""

    rows: list[Stored]
    skipped: list[tuple[int, str]]
    sums: dict[str, Sums]


def sums_of(pixels: NDArray[Any], layout: str) -> Sums:
    """Exact sums of one image, (H, W, C) or (C, H, W), of unsigned integers of at most 16 bits or of floats of 32.

    Nothing is added up, not even counted, of floats that are not all finite.
    """
    if pixels.dtype.kind == "f":
        planar = pixels if layout == "NCHW" else np.moveaxis(pixels, -1, 0)
        return _float_sums(planar.reshape(len(planar), -1))
    # einsum casts a few numbers at a time: a whole image of wider ones would cost more memory traffic than the sums
    if layout == "NCHW":
        channels = pixels.shape[0]
        lines = pixels.reshape(channels, -1)
        squares = np.einsum("ij,ij->i", lines, lines, dtype=np.uint64)
        sums = lines.sum(axis=1, dtype=np.uint64)
        low, high = lines.min(axis=1), lines.max(axis=1)
    else:
        # line by line, so that numpy adds long rows of numbers and not triples
        channels = pixels.shape[-1]
        lines = pixels.reshape(pixels.shape[0], -1)
        # 65,536 squared bytes fit 32 bits, which is three times as fast
        added = np.uint32 if pixels.itemsize == 1 and len(lines) <= _LINES_IN_32_BITS else np.uint64
        squares = np.einsum("ij,ij->j", lines, lines, dtype=added)
        squares = squares.reshape(-1, channels).sum(axis=0, dtype=np.uint64)
        sums = lines.sum(axis=0, dtype=added).reshape(-1, channels).sum(axis=0, dtype=np.uint64)
        low = lines.min(axis=0).reshape(-1, channels).min(axis=0)
        high = lines.max(axis=0).reshape(-1, channels).max(axis=0)
    return Sums(pixels.size // channels, sums.tolist(), squares.tolist(), low.tolist(), high.tolist())


def _float_sums(planes: NDArray[np.float32]) -> Sums:
    """Of (C, P) floats, each a whole number of 2^-149: m 2^s with m below 2^24 in magnitude, added up by s.

    Sums in float64 of products of halves of m, 12 bits each, are exact up to 2^28 pixels.
    """
    channels, pixels = planes.shape
    bits = np.ascontiguousarray(planes, "<f4").view("<i4")
    exponents = bits >> 23 & 0xFF
    if exponents.max() == 0xFF:
        return Sums()
    mantissas = bits & 0x7FFFFF
    mantissas[exponents > 0] |= 0x800000
    high, low = (half.astype(np.float64) for half in (mantissas >> 12, mantissas & 0xFFF))
    signed = np.where(bits < 0, -mantissas, mantissas).astype(np.float64)
    # a bin for each s of each channel
    bins = np.maximum(exponents, 1) - 1 + 256 * np.arange(channels)[:, None]

    def binned(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.bincount(bins.ravel(), values.ravel(), 256 * channels)
        return found.reshape(channels, 256).astype(np.float64, copy=False)

    first, second = binned(signed), [binned(product) for product in (high * high, high * low, low * low)]
    sums, squares = [0] * channels, [0] * channels
    for channel, s in np.argwhere(second[0] + second[2]).tolist():
        a, b, c = (int(parts[channel, s]) for parts in second)
        sums[channel] += int(first[channel, s]) << s
        squares[channel] += (a << 24) + (b << 13) + c << 2 * s
    # plus zero: -0.0 is 0.0 whichever of the two was found
    low, high = planes.min(axis=1) + np.float32(0), planes.max(axis=1) + np.float32(0)
    return Sums(pixels, sums, squares, low.tolist(), high.tolist(), 149)


def statistics(sums: Sums) -> dict[str, Any] | None:
    """Sums as the index holds them, with mean = sum / count and std = sqrt(sumsq / count - mean^2), from integers.

    Sums of floats are rounded once, to float64. None where nothing was added up.
    """
    count, unit = sums.count, 1 << sums.unit_bits
    if not count:
        return None
    return {
        "count": count,
        "sum": [float(Fraction(total, unit)) for total in sums.sum] if sums.unit_bits else sums.sum,
        "sumsq": [float(Fraction(total, unit**2)) for total in sums.sumsq] if sums.unit_bits else sums.sumsq,
        "min": sums.min,
        "max": sums.max,
        "mean": [float(Fraction(total, count * unit)) for total in sums.sum],
        "std": [
            math.sqrt(Fraction(count * squares - total * total, (count * unit) ** 2))
            for total, squares in zip(sums.sum, sums.sumsq, strict=True)
        ],
    }


def write_rows(job: Job, path: Path, offsets: Mapping[str, int], first: int, items: Sequence[Item]) -> ChunkDone:
    """Read ``items`` and write them as rows ``first``, ``first + 1`` ... of the allocated shard at ``path``.

    A skipped image leaves its row as it is; JPEG files are handed back instead of written. While one image is decoded a
    thread writes the one before. Raises :class:`~normhpc.errors.DataError` that names the id of an image that is not what
    the job says.
    """
    done = ChunkDone([], [], {spec.name: Sums() for spec in job.fields})
    with writing():
        descriptor = -1 if job.encoding == "jpeg" else os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    before: Future[Stored] | None = None
    try:
        with ThreadPoolExecutor(1) as beside:
            for position, (id, payload) in enumerate(items, first):
                row, reason = _read(job, id, payload)
                if before:
                    done.rows.append(before.result())
                    before = None
                if row is None:
                    done.skipped.append((position, reason))
                else:
                    before = beside.submit(_store, job, descriptor, offsets, position, id, row, done.sums)
            if before:
                done.rows.append(before.result())
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return done


def _read(job: Job, id: Id, payload: Any) -> tuple[Row | None, str]:
    """The image, or why it is left out."""
    try:
        return job.read(payload), ""
    except Unreadable as reason:
        return None, str(reason)
    except OSError as error:
        raise DataError(f"image {id!r}: cannot be read: {error}") from error
    except Exception as error:
        error.add_note(f"while reading image {id!r}")
        raise


def _store(
    job: Job, descriptor: int, offsets: Mapping[str, int], position: int, id: Id, row: Row, sums: Mapping[str, Sums]
) -> Stored:
    """Write the pixels of one image to its row, and add them to ``sums``."""
    label, extra = _label(job, id, row), tuple(_extra(spec, id, row) for spec in job.extra_fields)
    if job.encoding == "jpeg":
        return _keep_jpeg(job.fields[0], position, id, row, label, extra, sums)
    crc = 0
    for spec in job.fields:
        pixels = _pixels(spec, id, row)
        crc = zlib.crc32(pixels.data, crc)
        write_at(descriptor, pixels.data.cast("B"), offsets[spec.name] + position * pixels.nbytes)
        sums[spec.name].add(sums_of(pixels, spec.layout))
    return Stored(position, crc, label, extra)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at byte ``offset`` of a file. Raises :class:`NotWritten`."""
    while data:
        with writing():
            written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def read_at(descriptor: int, size: int, offset: int, file: Path) -> bytearray:
    """All ``size`` bytes from byte ``offset`` of ``file``, which may give them in several parts.

    Raises :class:`~normhpc.errors.DataError` where the file ends before.
    """
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        got = os.preadv(descriptor, [rest], offset)
        if not got:
            text = f"ends at byte {offset}, in a row that was written; run the same command again"
            raise DataError(Problem(text, file=str(file)))
        rest, offset = rest[got:], offset + got
    return data


def _keep_jpeg(
    spec: ImageField, position: int, id: Id, row: Row, label: Any, extra: tuple[Any, ...], sums: Mapping[str, Sums]
) -> Stored:
    if not isinstance(row.images, bytes):
        raise DataError(f"image {id!r}: expected the bytes of a JPEG file, got {type(row.images).__name__}")
    try:
        pixels = decoded(row.images, len(spec.bands) or 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"image {id!r}: expected a JPEG file that can be decoded: {error}") from None
    sums[spec.name].add(sums_of(pixels, "NHWC"))
    height, width = pixels.shape[:2]
    return Stored(position, zlib.crc32(row.images), label, extra, row.images, (height, width))


def _pixels(spec: ImageField, id: Id, row: Row) -> NDArray[Any]:
    given = None if isinstance(row.images, bytes) else row.images.get(spec.name)
    if given is None:
        raise DataError(f"image {id!r}: expected an array {spec.name}, got none")
    if given.dtype != np.dtype(spec.dtype) or given.shape != spec.shape:
        raise DataError(
            f"image {id!r}: {spec.name}: expected {spec.dtype} {spec.shape}, got {given.dtype.str} {given.shape}"
        )
    return np.ascontiguousarray(given)


def _label(job: Job, id: Id, row: Row) -> Any:
    classes = len(job.labels.classes)
    if job.labels.kind == "single":
        if not isinstance(row.label, int | np.integer) or not 0 <= row.label < classes:
            raise DataError(f"image {id!r}: label: expected a class from 0 to {classes - 1}, got {row.label!r}")
        return int(row.label)
    label = np.asarray(row.label)
    if label.shape != (classes,) or not np.isin(label, (0, 1)).all():
        raise DataError(f"image {id!r}: label: expected {classes} numbers 0 or 1, got {row.label!r}")
    return label.astype(np.uint8)


def _extra(spec: ExtraField, id: Id, row: Row) -> NDArray[Any]:
    if spec.name not in row.extra:
        raise DataError(f"image {id!r}: expected an extra field {spec.name}, got {', '.join(row.extra) or 'none'}")
    given = np.asarray(row.extra[spec.name])
    stored = given.astype(spec.dtype)
    if given.shape != spec.shape or not np.array_equal(stored, given):
        raise DataError(f"image {id!r}: {spec.name}: expected {spec.dtype} {spec.shape}, got {row.extra[spec.name]!r}")
    return stored
