"""``index.json``: what a split holds and where. Written last, so its presence means that the split is complete."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, StringConstraints, ValidationError
from pydantic import Field as Constraint

from normhpc.config.base import NonNegativeInt, Part, PositiveInt
from normhpc.config.data import INDEX_NAME as INDEX_NAME
from normhpc.config.problems import dotted, findings_of
from normhpc.errors import DataError, Problem
from normhpc.files import canonical_json, replace_json

FORMAT = "normhpc-index"
FORMAT_VERSION = 1

_AGAIN = "run the conversion again"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Dtype = Literal["|u1", "<u2", "<f4"]
Layout = Literal["NHWC", "NCHW"]
Encoding = Literal["raw", "jpeg"]


class Field(Part):
    """Images of one kind, stored under one name: ``shape`` is that of a row, ``()`` for packed JPEG."""

    name: str
    dtype: Dtype
    shape: tuple[PositiveInt, ...]
    layout: Layout
    bands: tuple[str, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class ExtraField(Part):
    """A small array beside every image, such as its size before resizing; ``shape`` is that of a row."""

    name: str
    dtype: str
    shape: tuple[PositiveInt, ...] = ()


class Labels(Part):
    """What the labels mean; other keys than these are what the script of the data set adds (``category_ids``)."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["single", "multi"]
    """``single``: one class per image, int64 (N,). ``multi``: 0 or 1 for each class, uint8 (N, K)."""
    classes: tuple[str, ...]
    positives: tuple[NonNegativeInt, ...]
    """Images of each class."""

    @property
    def extra(self) -> Mapping[str, Any]:
        """What the script of the data set added."""
        return self.model_extra or {}


class FieldStats(Part):
    """Exact sums over all pixels of each channel, and from them mean and biased standard deviation in stored units."""

    count: NonNegativeInt
    """Pixels of one channel, over all rows."""
    sum: tuple[NonNegativeInt, ...]
    sumsq: tuple[NonNegativeInt, ...]
    min: tuple[NonNegativeInt, ...]
    max: tuple[NonNegativeInt, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class FloatStats(Part):
    """What :class:`FieldStats` has, of floats: each number is the exact one, rounded once to float64."""

    count: NonNegativeInt
    """Pixels of one channel, over all rows."""
    sum: tuple[float, ...]
    sumsq: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ShardFile(Part):
    """One file of rows ``row_start`` to ``row_start + rows``, and the byte at which each of its datasets begins."""

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*-[0-9]{5,}\.h5$")]
    rows: PositiveInt
    row_start: NonNegativeInt
    bytes: PositiveInt
    sha256: Sha256
    offsets: dict[str, NonNegativeInt]


class Index(Part):
    """Everything a reader needs to know of a split, without HDF5."""

    format: Literal["normhpc-index"]
    format_version: Literal[1]
    dataset: str
    split: str
    encoding: Encoding
    rows: PositiveInt
    rows_per_shard: PositiveInt
    fields: Annotated[tuple[Field, ...], Constraint(min_length=1)]
    extra_fields: tuple[ExtraField, ...]
    ids_dtype: Annotated[str, StringConstraints(pattern=r"^(<i8|\|S[1-9][0-9]*)$")]
    labels: Labels
    stats: dict[str, FieldStats | None]
    """By field; null for one of floats."""
    float_stats: dict[str, FloatStats] = Constraint(default={})
    """By field of floats, without those of which a value is not finite. Shards without floats do not have the key."""
    shards: Annotated[tuple[ShardFile, ...], Constraint(min_length=1)]
    preprocessing: dict[str, Any]
    source: dict[str, Any]
    plan_sha256: Sha256
    """Of what was asked for: a conversion of anything else into the same folder is refused."""
    index_sha256: Sha256
    """Of the canonical JSON (sorted keys, no blanks) of everything but this key."""

    def statistics_of(self, field: str) -> FieldStats | FloatStats | None:
        """What is known of the pixels of a field; None for floats without."""
        return self.float_stats.get(field) or self.stats[field]


class NewerFormat(DataError):  # noqa: N818  (not in error itself)
    """Shards of a format that this version cannot read."""


def read_index(folder: Path) -> Index:
    """``index.json`` in the folder of a split.

    Raises :class:`~normhpc.errors.DataError` that names the file and the place in it.
    """
    path = folder / INDEX_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            Problem(
                f"no {INDEX_NAME} in it: not a folder of shards, or its conversion is not complete", file=str(folder)
            )
        ) from None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _damaged(path, f"not JSON ({error}); {_AGAIN}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _damaged(path, f"expected the index of shards, with format {FORMAT!r}")
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        message = f"expected {FORMAT_VERSION}, got {version}: written by a newer version; update normhpc"
        raise NewerFormat(Problem(message, "format_version", str(path)))
    try:
        index = Index.model_validate_json(text)
    except ValidationError as error:
        raise DataError(
            Problem(f"{finding.message}; {_AGAIN}", dotted(finding.path), str(path))
            for finding in findings_of(error, Index)
        ) from None
    expected = index_sha256(content)
    if index.index_sha256 != expected:
        raise _damaged(
            path, f"expected {expected}, got {index.index_sha256}: the index was changed; {_AGAIN}", "index_sha256"
        )
    for place, message in _contradictions(index):
        raise _damaged(path, f"{message}; {_AGAIN}", place)
    return index


def write_index(folder: Path, content: Mapping[str, Any]) -> Index:
    """Write ``content``, to which format and checksum are added, as the index of ``folder``, and return it read."""
    complete = {"format": FORMAT, "format_version": FORMAT_VERSION, **content}
    complete["index_sha256"] = index_sha256(complete)
    replace_json(folder / INDEX_NAME, complete)
    return read_index(folder)


def index_sha256(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of an index without its own ``index_sha256``."""
    rest = {key: value for key, value in content.items() if key != "index_sha256"}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def _damaged(path: Path, message: str, place: str = "") -> DataError:
    return DataError(Problem(message, place, str(path)))


def _contradictions(index: Index) -> list[tuple[str, str]]:
    """Where what the index says at one place denies what it says at another."""
    found = []
    row, needed = 0, dataset_row_bytes(index)
    for number, shard in enumerate(index.shards):
        here = f"shards[{number}]"
        if shard.row_start != row:
            found.append((f"{here}.row_start", f"expected {row}, got {shard.row_start}"))
        row += shard.rows
        for name, row_bytes in needed.items():
            if name not in shard.offsets:
                found.append((f"{here}.offsets", f"expected a byte for {name}, got {', '.join(shard.offsets)}"))
            elif shard.offsets[name] + shard.rows * row_bytes > shard.bytes:
                found.append((f"{here}.offsets.{name}", f"{shard.rows} rows from there pass the end of the file"))
    if row != index.rows:
        found.append(("rows", f"expected {row} as in the shards, got {index.rows}"))
    if index.encoding == "jpeg" and [field.shape for field in index.fields] != [()]:
        found.append(("fields", "expected one field of shape () for packed JPEG"))
    for field in index.fields:
        if field.name not in index.stats:
            found.append(("stats", f"expected those of {field.name}, got {', '.join(index.stats)}"))
        elif (index.stats[field.name] is None) != (field.dtype == "<f4"):
            found.append(
                (f"stats.{field.name}", f"expected sums of integers and null of floats, the field is {field.dtype}")
            )
    odd = index.float_stats.keys() - {field.name for field in index.fields if field.dtype == "<f4"}
    if odd:
        found.append(("float_stats", f"expected those of fields of floats, got {', '.join(sorted(odd))}"))
    if len(index.labels.positives) != len(index.labels.classes):
        expected, got = len(index.labels.classes), len(index.labels.positives)
        found.append(("labels.positives", f"expected {expected} numbers, one per class, got {got}"))
    return found


def channels_of(shape: Sequence[int], layout: Layout) -> int:
    """Channels of images of this ``shape``."""
    return shape[-1] if layout == "NHWC" else shape[0]


def dataset_row_bytes(index: Index) -> dict[str, int]:
    """Bytes of a row of every dataset whose rows are all of one size."""
    labels = 8 if index.labels.kind == "single" else len(index.labels.classes)
    sizes = {"labels": labels, "ids": np.dtype(index.ids_dtype).itemsize, "crc32": 4}
    for extra in index.extra_fields:
        sizes[extra.name] = math.prod(extra.shape) * np.dtype(extra.dtype).itemsize
    if index.encoding == "jpeg":
        return sizes | {"jpeg": 0, "jpeg_offsets": 8, "size": 4}
    return sizes | {field.name: field.row_bytes for field in index.fields}
