"""One shard file: allocated, filled by row, shortened where images were skipped, sealed with its checksum."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normhpc.shards.job import Id, Job, stored_ids
from normhpc.shards.layout import SHARD_FORMAT, SHARD_FORMAT_VERSION, Dataset, create_shard
from normhpc.shards.rows import Stored, read_at, write_at, writing

_HASHED_AT_ONCE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Finished:
    """A complete shard file, still under its temporary name."""

    rows: int
    bytes: int
    sha256: str
    offsets: dict[str, int]


def allocate(job: Job, path: Path, number: int, rows: int, ids_dtype: str, jpeg_bytes: int = 0) -> dict[str, int]:
    """Make the file of shard ``number`` with room for ``rows``; the byte at which each dataset begins."""
    datasets: dict[str, Dataset] = {}
    for spec in job.fields:
        attributes: dict[str, Any] = {"layout": spec.layout} | ({"bands": spec.bands} if spec.bands else {})
        shape = (jpeg_bytes,) if job.encoding == "jpeg" else (rows, *spec.shape)
        datasets[spec.name] = Dataset(spec.dtype, shape, attributes)
    if job.encoding == "jpeg":
        datasets["jpeg_offsets"] = Dataset("<u8", (rows + 1,))
        datasets["size"] = Dataset("<u2", (rows, 2))
    for extra in job.extra_fields:
        datasets[extra.name] = Dataset(extra.dtype, (rows, *extra.shape))
    labels = ("<i8", (rows,)) if job.labels.kind == "single" else ("|u1", (rows, len(job.labels.classes)))
    datasets |= {
        "labels": Dataset(*labels),
        "ids": Dataset(ids_dtype, (rows,)),
        "crc32": Dataset("<u4", (rows,)),
    }
    about = {
        "format": SHARD_FORMAT,
        "format_version": SHARD_FORMAT_VERSION,
        "dataset": job.dataset,
        "split": job.split,
        "shard": number,
        "rows": rows,
        "created_by": "normhpc",
    }
    with writing():
        return create_shard(path, datasets, about)


def finish_raw(
    job: Job,
    path: Path,
    number: int,
    allocated: int,
    offsets: dict[str, int],
    rows: Sequence[Stored],
    ids: Sequence[Id],
    ids_dtype: str,
) -> Finished:
    """Write what is not pixels, leave out the rows that were skipped, and bring the file to the disk."""
    if len(rows) < allocated:
        short = path.with_name(f"{path.name}.short")
        try:
            kept = allocate(job, short, number, len(rows), ids_dtype)
            _copy_rows(job, path, offsets, short, kept, rows)
            short.replace(path)
        finally:
            short.unlink(missing_ok=True)
        offsets = kept
    return _seal(path, offsets, _columns(job, rows, ids, ids_dtype), len(rows))


def finish_jpeg(
    job: Job, path: Path, number: int, rows: Sequence[Stored], ids: Sequence[Id], ids_dtype: str
) -> Finished:
    """Write the JPEG files of a shard one after the other, with what belongs to them."""
    encoded = [row.jpeg or b"" for row in rows]
    ends = np.cumsum([0, *map(len, encoded)], dtype="<u8")
    offsets = allocate(job, path, number, len(rows), ids_dtype, int(ends[-1]))
    columns = _columns(job, rows, ids, ids_dtype) | {
        "jpeg_offsets": ends,
        "size": np.array([row.size for row in rows], "<u2"),
        "jpeg": np.frombuffer(b"".join(encoded), np.uint8),
    }
    return _seal(path, offsets, columns, len(rows))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_HASHED_AT_ONCE_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _columns(job: Job, rows: Sequence[Stored], ids: Sequence[Id], ids_dtype: str) -> dict[str, NDArray[Any]]:
    columns = {
        "labels": np.array([row.label for row in rows], "<i8" if job.labels.kind == "single" else "|u1"),
        "ids": stored_ids(ids, ids_dtype),
        "crc32": np.array([row.crc32 for row in rows], "<u4"),
    }
    for place, extra in enumerate(job.extra_fields):
        columns[extra.name] = np.array([row.extra[place] for row in rows], extra.dtype)
    return columns


def _copy_rows(
    job: Job,
    source: Path,
    from_offsets: dict[str, int],
    target: Path,
    to_offsets: dict[str, int],
    rows: Sequence[Stored],
) -> None:
    reading, writing = os.open(source, os.O_RDONLY | os.O_CLOEXEC), os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for spec in job.fields:
            size = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
            for row, stored in enumerate(rows):
                data = read_at(reading, size, from_offsets[spec.name] + stored.position * size, source)
                write_at(writing, memoryview(data), to_offsets[spec.name] + row * size)
    finally:
        os.close(reading)
        os.close(writing)


def _seal(path: Path, offsets: dict[str, int], columns: dict[str, NDArray[Any]], rows: int) -> Finished:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for name, column in columns.items():
            write_at(descriptor, np.ascontiguousarray(column).data.cast("B"), offsets[name])
        with writing():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Finished(rows, path.stat().st_size, file_sha256(path), offsets)
