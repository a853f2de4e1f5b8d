"""Every check that shards can be put to: checksums, sizes, offsets, labels, statistics, and files that do not belong."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from normhpc.errors import DataError, Problem
from normhpc.shards.build import file_sha256
from normhpc.shards.index import INDEX_NAME, Field, Index, NewerFormat, ShardFile, read_index
from normhpc.shards.job import PLAN_NAME, SKIPPED_NAME
from normhpc.shards.layout import shard_facts
from normhpc.shards.locks import LOCK_NAME
from normhpc.shards.read import OpenShard, check_size, crc32_of, decoded
from normhpc.shards.rows import Sums, statistics, sums_of

_SHOWN_ROWS = 20
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """One check that does not hold; ``rows`` are those of the file that are damaged."""

    file: str
    message: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(slots=True)
class Verification:
    """What was found about a split: faults, and notes that are none."""

    folder: str
    split: str
    rows: int = 0
    shards: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self) | {"sound": not self.faults}


def split_folders(path: Path) -> list[Path]:
    """``path`` itself when it is a split, else the splits directly below it, complete or not.

    Raises :class:`~normhpc.errors.DataError` when there is none.
    """
    if not path.is_dir():
        raise DataError(Problem("no such folder; name the folder of a split, or one that holds splits", file=str(path)))
    folders = [path] if _is_split(path) else sorted(entry for entry in path.iterdir() if _is_split(entry))
    if not folders:
        raise DataError(
            Problem(f"no shards: neither it nor a folder in it has an {INDEX_NAME}; see docs/shards.md", file=str(path))
        )
    return folders


def verify_split(folder: Path, begin: Callable[[int], object], advance: Callable[[int], object]) -> Verification:
    """Check all that can be checked; ``begin`` is told the number of rows, ``advance`` of each that was read.

    Raises :class:`~normhpc.errors.DataError` for shards of a newer version alone.
    """
    found = Verification(str(folder), folder.name)
    if not (folder / INDEX_NAME).exists():
        found.faults.append(Fault(INDEX_NAME, "missing: the conversion is not complete; run it again"))
        return found
    try:
        index = read_index(folder)
    except NewerFormat:
        raise
    except DataError as error:
        found.faults += [Fault(INDEX_NAME, _without_file(problem)) for problem in error.problems]
        return found
    found.split, found.rows, found.shards = index.split, index.rows, len(index.shards)
    begin(index.rows)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        checked = list(threads.map(lambda shard: _check_shard(folder, index, shard, advance), index.shards))
    for shard in checked:
        found.faults += shard.faults
        found.notes += shard.notes
    found.faults += _check_whole(index, checked)
    _check_names(folder, index, found)
    return found


@dataclass(slots=True)
class _Checked:
    """What one shard gave; ``sums`` are absent when it could not be read to its end."""

    faults: list[Fault]
    notes: list[str] = field(default_factory=list)
    sums: dict[str, Sums] | None = None
    positives: Any = None
    ids: Any = None


def _check_shard(folder: Path, index: Index, shard: ShardFile, advance: Callable[[int], object]) -> _Checked:
    found = _Checked([])
    try:
        check_size(folder, shard)
        _read_shard(folder, index, shard, found, advance)
    except DataError as error:
        found.faults += [Fault(shard.file, _without_file(problem)) for problem in error.problems]
    except OSError as error:
        found.faults.append(Fault(shard.file, f"cannot be read: {error.strerror or error}; check the disk"))
    return found


def _read_shard(
    folder: Path, index: Index, shard: ShardFile, found: _Checked, advance: Callable[[int], object]
) -> None:
    path = folder / shard.file
    sha256 = file_sha256(path)
    found.faults += _check_structure(path, index, shard)
    # system calls and not a map: a disk that fails is to be an error with a name
    file = OpenShard(path, shard, index, "pread")
    try:
        damaged, sums = [], {spec.name: Sums() for spec in index.fields}
        not_finite: dict[str, list[int]] = {spec.name: [] for spec in index.fields}
        expected = file.crc32()
        for row in range(shard.rows):
            stored = file.row_bytes(row)
            if crc32_of(stored) != expected[row]:
                damaged.append(row)
            else:
                for name in _add_row(index, stored, sums):
                    not_finite[name].append(row)
            advance(1)
        labels = file.labels()
        found.ids = file.ids()
    finally:
        file.close()
    if damaged:
        found.faults.append(
            Fault(shard.file, f"{_rows(damaged)} damaged: other CRC-32 than when written; {_REPAIR}", tuple(damaged))
        )
    elif sha256 != shard.sha256:
        found.faults.append(
            Fault(
                shard.file,
                f"SHA-256 {sha256}, expected {shard.sha256}: bytes outside the images differ "
                f"(labels, ids, checksums or headers); {_REPAIR}",
            )
        )
    found.notes += [
        f"{shard.file}: {_rows(rows)} with values of {name} that are not finite: no run may use its bands"
        for name, rows in not_finite.items()
        if rows
    ]
    found.faults += _check_labels(index, shard, labels)
    if not found.faults:
        found.sums = sums
        found.positives = (
            np.bincount(labels, minlength=len(index.labels.classes))
            if index.labels.kind == "single"
            else labels.sum(axis=0, dtype=np.int64)
        )


def _add_row(index: Index, row: list[bytes], sums: dict[str, Sums]) -> Iterator[str]:
    """Add up the pixels of each field; names of the fields of which nothing was added, since some are not finite."""
    for spec, stored in zip(index.fields, row, strict=True):
        own = sums_of(_pixels(spec, stored, index), spec.layout)
        sums[spec.name].add(own)
        if not own.count:
            yield spec.name


def _pixels(spec: Field, stored: bytes, index: Index) -> Any:
    if index.encoding == "jpeg":
        return decoded(stored, len(spec.bands) or 3)
    return np.frombuffer(stored, spec.dtype).reshape(spec.shape)


def _check_structure(path: Path, index: Index, shard: ShardFile) -> Iterator[Fault]:
    """Whether HDF5 itself finds the shard that the index names, and its datasets where the index says."""
    try:
        attributes, offsets = shard_facts(path)
    except Exception as error:  # damaged headers make it fail in every way
        yield Fault(shard.file, f"HDF5 cannot open it: {error}; {_REPAIR}")
        return
    number = int(shard.file.removesuffix(".h5").rpartition("-")[2])
    asked = {"dataset": index.dataset, "split": index.split, "shard": number, "rows": shard.rows}
    differing = [
        f"{key} {attributes.get(key)!r}, expected {value!r}"
        for key, value in asked.items()
        if attributes.get(key) != value
    ]
    if differing:
        yield Fault(shard.file, f"a foreign shard: {'; '.join(differing)}; {_REPAIR}")
    if offsets != shard.offsets:
        yield Fault(shard.file, f"datasets begin at {offsets}, the index says {shard.offsets}; {_REPAIR}")


def _check_labels(index: Index, shard: ShardFile, labels: Any) -> Iterator[Fault]:
    classes = len(index.labels.classes)
    limit = classes if index.labels.kind == "single" else 2
    wrong = np.unique(np.nonzero((labels < 0) | (labels >= limit))[0]).tolist()
    if wrong:
        allowed = f"0 to {limit - 1}" if index.labels.kind == "single" else "0 or 1"
        yield Fault(shard.file, f"{_rows(wrong)} with labels other than {allowed}; {_REPAIR}", tuple(wrong))


def _check_whole(index: Index, shards: list[_Checked]) -> Iterator[Fault]:
    """What only all shards together can show; said only when each of them is sound."""
    if any(shard.sums is None for shard in shards):
        return
    for spec in index.fields:
        total = Sums()
        for shard in shards:
            total.add((shard.sums or {})[spec.name])
        given, sums = index.statistics_of(spec.name), statistics(total)
        if given is None or sums is None:  # floats that are not all finite
            continue
        name = f"{'float_stats' if spec.dtype == '<f4' else 'stats'}.{spec.name}"
        stored = given.model_dump(mode="json")
        for key, value in sums.items():
            if stored[key] != value:
                yield Fault(INDEX_NAME, f"{name}.{key}: expected {value}, got {stored[key]}; convert anew")
    positives = sum(shard.positives for shard in shards)
    if positives.tolist() != list(index.labels.positives):
        yield Fault(INDEX_NAME, "labels.positives: other numbers of images per class than in the shards; convert anew")
    ids = np.concatenate([shard.ids for shard in shards])
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        yield Fault(INDEX_NAME, f"id {unique[counts > 1][0]!r} appears more than once; convert anew")


def _check_names(folder: Path, index: Index, found: Verification) -> None:
    own = {shard.file for shard in index.shards} | {INDEX_NAME, LOCK_NAME, SKIPPED_NAME}
    for entry in sorted(folder.iterdir()):
        if entry.name in own:
            continue
        if entry.suffix == ".h5":
            found.faults.append(Fault(entry.name, "a foreign shard: the index does not name it; move it away"))
        elif entry.name == PLAN_NAME or entry.suffix in (".tmp", ".short", ".json"):
            found.notes.append(f"{entry.name}: left by a conversion; it may be deleted when none is running")
        else:
            found.notes.append(f"{entry.name}: not part of the shards")


_REPAIR = "delete the file and run the conversion again"


def _is_split(path: Path) -> bool:
    return (path / INDEX_NAME).is_file() or (path / PLAN_NAME).is_file()


def _without_file(problem: Problem) -> str:
    return f"{problem.path}: {problem.message}" if problem.path else problem.message


def _rows(rows: list[int]) -> str:
    listed = ", ".join(map(str, rows[:_SHOWN_ROWS]))
    more = f" and {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
    return f"row{'s' * (len(rows) > 1)} {listed}{more}"
