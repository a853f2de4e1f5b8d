"""The HDF5 file of a shard: contiguous, unfiltered, aligned datasets that any reader of files can read by offset."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SHARD_FORMAT = "normhpc-shard"
SHARD_FORMAT_VERSION = 1

_ALIGNED_FROM_BYTES = 65_536
_ALIGNMENT_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset to allocate: numpy type, shape with the number of rows first, attributes."""

    dtype: str
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def create_shard(path: Path, datasets: Mapping[str, Dataset], attributes: Mapping[str, Any]) -> dict[str, int]:
    """Make the file with all its datasets allocated and not yet filled; the byte at which each of them begins.

    Any process may then put rows at their place with ``os.pwrite``. The same arguments give the same bytes.
    Raises :class:`OSError` for a disk that is full.
    """
    import h5py

    offsets = {}
    headers = _SparseFile()
    with h5py.File(
        headers,
        "w",
        libver=("earliest", "v110"),
        alignment_threshold=_ALIGNED_FROM_BYTES,
        alignment_interval=_ALIGNMENT_BYTES,
    ) as file:
        for name, value in attributes.items():
            file.attrs[name] = _stored(value)
        for name, dataset in datasets.items():
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_layout(h5py.h5d.CONTIGUOUS)
            creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            creation.set_obj_track_times(False)
            kind = h5py.h5t.py_create(np.dtype(dataset.dtype))
            made = h5py.Dataset(
                h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(dataset.shape), creation)
            )
            for key, value in dataset.attributes.items():
                made.attrs[key] = _stored(value)
            offsets[name] = made.id.get_offset()
    headers.write_to(path)
    return offsets


class _SparseFile(io.RawIOBase):
    """A file in memory of which only what was written takes room: HDF5 writes its headers into it.

    HDF5 itself must not meet a full disk: it fails when it closes the file, or crashes. :meth:`write_to` may.
    """

    def __init__(self) -> None:
        self._written: list[tuple[int, bytes]] = []
        self._place = 0
        self._size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None) -> int:
        self._size = self._place if size is None else size
        return self._size

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._place))
        found = bytearray(wanted)
        for begin, data in self._written:
            first, last = max(begin, self._place), min(begin + len(data), self._place + wanted)
            if first < last:
                found[first - self._place : last - self._place] = data[first - begin : last - begin]
        buffer[:wanted] = found
        self._place += wanted
        return wanted

    def write(self, data: Any) -> int:
        self._written.append((self._place, bytes(data)))
        self._place += len(data)
        self._size = max(self._size, self._place)
        return len(data)

    def write_to(self, path: Path) -> None:
        """The same file on a disk, with holes where nothing was written."""
        with path.open("wb") as file:
            for begin, data in self._written:
                file.seek(begin)
                file.write(data)
            file.truncate(self._size)


def shard_facts(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Attributes of the file and the byte at which each dataset begins, as HDF5 finds them.

    Raises whatever h5py raises for a damaged file.
    """
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        attributes = {
            key: value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()
            for key, value in file.attrs.items()
        }
        datasets = {name: found for name, found in file.items() if isinstance(found, h5py.Dataset)}
        return attributes, {name: dataset.id.get_offset() for name, dataset in datasets.items()}


def _stored(value: Any) -> Any:
    """Text of fixed length: the variable kind of HDF5 lies elsewhere in the file, in a heap."""
    if isinstance(value, str):
        return np.bytes_(value.encode())
    if isinstance(value, tuple):
        return np.array([text.encode() for text in value])
    return np.int64(value)
