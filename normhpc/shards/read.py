"""Rows of shards by number, at the speed of memory: no HDF5 library, no lock, safe after fork and in threads."""

import collections
import contextlib
import ctypes
import errno
import io
import itertools
import math
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from normhpc.errors import DataError, InputError, Problem, did_you_mean
from normhpc.shards.adjacent import Stretch, adjacent, can_be_adjacent
from normhpc.shards.index import INDEX_NAME, Field, Index, ShardFile, read_index

Access = Literal["mmap", "pread"]
Images = NDArray[Any] | dict[str, NDArray[Any]] | list[NDArray[Any]]

_AGAIN = "run the conversion again"


def open_shards(path: str | Path, split: str, *, access: Access = "mmap") -> "Shards":
    """The shards of ``<path>/<split>``, every file of which must be there with its size.

    ``access="mmap"`` maps the files into memory (one copy for all processes of a machine); ``"pread"`` reads each row
    with a system call, the right one for network file systems: a failing disk is an error there, not a signal.
    Raises :class:`~normhpc.errors.DataError` for missing, truncated and damaged files.
    """
    root = Path(path).expanduser()
    folder = root / split
    if not (folder / INDEX_NAME).is_file() and not folder.is_dir():
        there = split_names(root)
        known = f"; there are: {', '.join(there)}" if there else "; it holds no split with an index.json"
        raise DataError(Problem(f"no split {split!r}{did_you_mean(split, there)}{known}", file=str(root)))
    return Shards(folder, read_index(folder), access)


def split_names(root: Path) -> list[str]:
    """Names of the complete splits below ``root``."""
    return sorted(found.parent.name for found in root.glob(f"*/{INDEX_NAME}"))


class Shards:
    """A split: ``len``, ``[i]`` and ``[a:b]`` give ``(images, labels)`` as they are stored."""

    def __init__(self, folder: Path, index: Index, access: Access = "mmap") -> None:
        self.folder = folder
        self.index = index
        self.access = access
        self._starts = np.array([shard.row_start for shard in index.shards], dtype=np.int64)
        self._stored: dict[str, NDArray[Any] | _FieldByFile] = {}
        self._fields = {field.name: field for field in index.fields}
        for shard in index.shards:
            check_size(folder, shard)
        self._files: list[OpenShard] = []
        try:
            for shard in index.shards:
                self._files.append(OpenShard(folder / shard.file, shard, index, access))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self.index.rows

    def __getitem__(self, rows: int | slice) -> tuple[Images, Any]:
        if isinstance(rows, slice):
            return self._get(np.arange(*rows.indices(len(self)), dtype=np.int64))
        row = rows + len(self) if rows < 0 else rows
        if not 0 <= row < len(self):
            raise IndexError(f"row {rows} of {len(self)}")
        images, labels = self._get(np.array([row], dtype=np.int64))
        one = {name: array[0] for name, array in images.items()} if isinstance(images, dict) else images[0]
        return one, labels[0]

    def labels(self) -> NDArray[Any]:
        """Labels of all rows: int64 (N,), or uint8 (N, K) of 0 and 1."""
        return np.concatenate([file.labels() for file in self._files])

    def ids(self) -> NDArray[Any]:
        """Ids of all rows, as the source gives them: int64, or bytes of UTF-8."""
        return np.concatenate([file.ids() for file in self._files])

    def extra(self, name: str) -> NDArray[Any]:
        """All rows of an extra field of the index, such as ``orig_size``; of packed JPEG also ``size``."""
        fields = {extra.name: (extra.dtype, extra.shape) for extra in self.index.extra_fields}
        if self.index.encoding == "jpeg":
            fields["size"] = ("<u2", (2,))
        if name not in fields:
            raise InputError(
                f"no extra field {name!r}{did_you_mean(name, fields)}; there are: {', '.join(fields) or 'none'}"
            )
        return np.concatenate([file.column(name, *fields[name]) for file in self._files])

    def read_rows(self, field: str, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy ``rows`` (any order, repeats allowed) of an image field of fixed size into ``out[:len(rows)]``.

        ``out`` is C-contiguous, of the field's type and row shape. Several threads may call this at once: the copies
        release the interpreter's lock. Raises :class:`IndexError` for rows that are not there.
        """
        spec = self._fields[field]
        if self.index.encoding == "jpeg":
            raise ValueError("packed JPEG has rows of different sizes; use encoded() or shards[i]")
        if out.dtype != np.dtype(spec.dtype) or out.shape[1:] != spec.shape or not out.flags.c_contiguous:
            raise ValueError(
                f"{field}: expected a contiguous array of {spec.dtype} and rows {spec.shape}, got {out.dtype} {out.shape}"
            )
        if not len(rows):
            return
        if self.access == "pread":
            for file, local, places in self._by_file(rows):
                file.read(spec, local, out, places)
            return
        self._check_range(rows)
        stored = self._stored_rows(spec)
        if isinstance(stored, np.ndarray):
            # with "clip" numpy writes straight into out; the rows are known to be in range
            np.take(stored, rows, axis=0, out=out[: len(rows)], mode="clip")
            return
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        size = spec.row_bytes
        sources = stored.addresses[numbers] + (rows - self._starts[numbers]) * size
        targets = out.ctypes.data + np.arange(len(rows)) * size
        # numpy takes rows from one array at a time; a loop in C over single copies is twice as fast as one in Python
        collections.deque(map(ctypes.memmove, targets.tolist(), sources.tolist(), itertools.repeat(size)), maxlen=0)

    def encoded(self, row: int) -> bytes:
        """The JPEG file of one row of packed JPEG."""
        file, local = self._file_of(row)
        return file.encoded(local)

    def check_rows(self, rows: NDArray[np.int64]) -> None:
        """Compare the CRC-32 of these rows' image bytes with what was written.

        Raises :class:`~normhpc.errors.DataError` that names the file and the row of the first that differs.
        """
        for row in rows:
            file, local = self._file_of(int(row))
            expected, found = int(file.crc32()[local]), crc32_of(file.row_bytes(local))
            if found != expected:
                raise DataError(
                    Problem(
                        f"row {local} (row {row} of the split) is damaged: expected CRC-32 {expected:08x}, "
                        f"got {found:08x}; delete the file and {_AGAIN}",
                        file=str(file.path),
                    )
                )

    def close(self) -> None:
        """Let go of the files; arrays that were given out stay valid, they are copies.

        May raise :class:`BufferError` while a thread is in :meth:`read_rows`.
        """
        self._stored.clear()
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, rows: NDArray[np.int64]) -> tuple[Images, NDArray[Any]]:
        columns = [(places, file.labels()[local]) for file, local, places in self._by_file(rows)]
        some = self._files[0].labels()
        labels = np.empty((len(rows), *some.shape[1:]), some.dtype)
        for places, values in columns:
            labels[places] = values
        if self.index.encoding == "jpeg":
            images = [self._decoded(int(row)) for row in rows]
            return (np.stack(images) if len({image.shape for image in images}) == 1 else images), labels
        stored = {}
        for field in self.index.fields:
            stored[field.name] = np.empty((len(rows), *field.shape), field.dtype)
            self.read_rows(field.name, rows, stored[field.name])
        return (stored if len(stored) > 1 else next(iter(stored.values()))), labels

    def _decoded(self, row: int) -> NDArray[np.uint8]:
        """Pixels of one row of packed JPEG."""
        encoded = self.encoded(row)
        try:
            return decoded(encoded, len(self.index.fields[0].bands) or 3)
        # what Pillow raises for content that it cannot read
        except (OSError, SyntaxError, ValueError) as error:
            self.check_rows(np.array([row]))
            file, local = self._file_of(row)
            message = (
                f"row {local} (row {row} of the split) cannot be decoded: {error}; "
                "its bytes are as they were written: check the installation of Pillow"
            )
            raise DataError(Problem(message, file=str(file.path))) from error

    def _file_of(self, row: int) -> "tuple[OpenShard, int]":
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._files[number], row - int(self._starts[number])

    def _check_range(self, rows: NDArray[np.int64]) -> None:
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= len(self):
            raise IndexError(f"rows {low} to {high} of {len(self)}")

    def _stored_rows(self, field: Field) -> "NDArray[Any] | _FieldByFile":
        found = self._stored.get(field.name)
        if found is None:
            # of two threads that map it at once the first wins
            found = self._stored.setdefault(field.name, self._mapped(field))
        return found

    def _mapped(self, field: Field) -> "NDArray[Any] | _FieldByFile":
        stretches = [file.stretch(field) for file in self._files]
        if can_be_adjacent(stretches):
            # refused where a process may not have so many maps; then there are those of the files
            with contextlib.suppress(OSError):
                return adjacent(stretches).view(field.dtype).reshape(-1, *field.shape)
        views = tuple(file.view(field) for file in self._files)
        return _FieldByFile(views, np.array([view.ctypes.data for view in views], dtype=np.int64))

    def _by_file(self, rows: NDArray[np.int64]) -> "Iterator[tuple[OpenShard, NDArray[np.int64], Any]]":
        """Rows of each file, counted within it, and where they stand in ``rows`` (a slice when they are all)."""
        if not len(rows):
            return
        self._check_range(rows)
        if len(self._files) == 1:
            yield self._files[0], rows, slice(0, len(rows))
            return
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        by_number = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers))
        for number in np.flatnonzero(np.diff(ends, prepend=0)).tolist():
            places = by_number[ends[number - 1] if number else 0 : ends[number]]
            local = rows[places] - self._starts[number]
            yield self._files[number], local, places if len(places) < len(rows) else slice(0, len(rows))


class _FieldByFile(NamedTuple):
    """A field in every file, and where in memory each begins. The views keep the files from being unmapped."""

    views: tuple[NDArray[Any], ...]
    addresses: NDArray[np.int64]


class OpenShard:
    """One open file of rows, which are counted from 0 here."""

    def __init__(self, path: Path, shard: ShardFile, index: Index, access: Access) -> None:
        self.path = path
        self.shard = shard
        self._index = index
        self._descriptor = -1
        self._map: mmap.mmap | None = None
        self._columns: dict[str, NDArray[Any]] = {}
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if access == "mmap":
                self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._not_opened(error) from error
        finally:
            if access == "mmap":
                # the map has a descriptor of its own
                self._close_descriptor()

    def read(self, field: Field, rows: NDArray[np.int64], out: NDArray[Any], places: NDArray[np.int64] | slice) -> None:
        """Copy rows of an image field to ``places`` of ``out``, one place for each row, by system calls."""
        begin = self.shard.offsets[field.name]
        positions = np.arange(len(rows)) if isinstance(places, slice) else places
        # rows that follow one another in the file and in the batch come in one call, as those of an evaluation do
        follows = (np.diff(rows) == 1) & (np.diff(positions) == 1)
        ends = [*(np.flatnonzero(~follows) + 1).tolist(), len(rows)]
        for first, end in zip([0, *ends], ends, strict=False):
            row, last, place = int(rows[first]), int(rows[end - 1]), int(positions[first])
            what = f"row {row} of {field.name}" if row == last else f"rows {row} to {last} of {field.name}"
            self._fill(out[place : place + end - first].data.cast("B"), begin + row * field.row_bytes, what)

    def stretch(self, field: Field) -> Stretch:
        """Where all rows of an image field lie in the file."""
        return Stretch(self.path, self.shard.offsets[field.name], self.shard.rows * field.row_bytes)

    def view(self, field: Field) -> NDArray[Any]:
        """All rows of an image field, in the mapped file."""
        # a plain array, not np.memmap, whose every view costs more than a small row
        return np.ndarray((self.shard.rows, *field.shape), field.dtype, self._map, self.shard.offsets[field.name])

    def labels(self) -> NDArray[Any]:
        """Labels of all rows."""
        labels = self._index.labels
        return (
            self.column("labels", "<i8")
            if labels.kind == "single"
            else self.column("labels", "|u1", (len(labels.classes),))
        )

    def ids(self) -> NDArray[Any]:
        """Ids of all rows."""
        return self.column("ids", self._index.ids_dtype)

    def crc32(self) -> NDArray[Any]:
        """CRC-32 of the image bytes of all rows, as they were written."""
        return self.column("crc32", "<u4")

    def column(self, name: str, dtype: str, shape: tuple[int, ...] = (), rows: int | None = None) -> NDArray[Any]:
        """A whole small dataset of ``rows`` (by default those of the shard), read once."""
        found = self._columns.get(name)
        if found is None:
            rows = self.shard.rows if rows is None else rows
            size = rows * math.prod(shape) * np.dtype(dtype).itemsize
            found = np.frombuffer(self.bytes_at(self.shard.offsets[name], size, name), dtype).reshape((rows, *shape))
            self._columns[name] = found
        return found

    def encoded(self, row: int) -> bytes:
        """The JPEG file of a row of packed JPEG."""
        begin, end = map(int, self.column("jpeg_offsets", "<u8", (), self.shard.rows + 1)[row : row + 2])
        return self.bytes_at(self.shard.offsets["jpeg"] + begin, end - begin, f"row {row} of jpeg")

    def row_bytes(self, row: int) -> list[bytes]:
        """The stored image bytes of a row, field by field."""
        if self._index.encoding == "jpeg":
            return [self.encoded(row)]
        return [
            self.bytes_at(
                self.shard.offsets[field.name] + row * field.row_bytes, field.row_bytes, f"row {row} of {field.name}"
            )
            for field in self._index.fields
        ]

    def bytes_at(self, begin: int, size: int, what: str) -> bytes:
        """``size`` bytes from byte ``begin`` of the file, which hold ``what``."""
        if self._map is not None:
            return self._map[begin : begin + size]
        buffer = bytearray(size)
        self._fill(memoryview(buffer), begin, what)
        return bytes(buffer)

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            self._map.close()
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _not_opened(self, error: OSError) -> DataError:
        advice = "check that it can be read"
        if error.errno == errno.EMFILE:
            advice = "a run holds every shard open: raise the limit (ulimit -n), or convert with more --rows-per-shard"
        return DataError(Problem(f"cannot be opened: {error.strerror or error}; {advice}", file=str(self.path)))

    def _fill(self, buffer: memoryview, begin: int, what: str) -> None:
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._descriptor, [buffer[done:]], begin + done)
            except OSError as error:
                raise self._failed(what, error.strerror or str(error)) from error
            if got == 0:
                raise self._failed(what, "the file ends before it")
            done += got

    def _failed(self, what: str, reason: str) -> DataError:
        return DataError(
            Problem(f"{what} cannot be read: {reason}; check the disk, or copy the file again", file=str(self.path))
        )


def crc32_of(fields: Iterable[bytes]) -> int:
    """CRC-32 of the stored image bytes of a row, one field after the other."""
    crc = 0
    for stored in fields:
        crc = zlib.crc32(stored, crc)
    return crc


def check_size(folder: Path, shard: ShardFile) -> None:
    """Raise :class:`~normhpc.errors.DataError` unless the file is there with the size that the index says."""
    path = folder / shard.file
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(
            Problem(f"missing, with {shard.rows} rows and {shard.bytes} bytes; {_AGAIN}", file=str(path))
        ) from None
    if size != shard.bytes:
        kind = "truncated" if size < shard.bytes else "too long"
        raise DataError(Problem(f"{kind}: expected {shard.bytes} bytes, got {size}; {_AGAIN}", file=str(path)))


def decoded(encoded: bytes, channels: int) -> NDArray[np.uint8]:
    """Pixels (H, W, C) of a JPEG file: grey for one channel, else RGB. Raises what PIL raises for damaged ones."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels
