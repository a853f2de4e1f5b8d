"""What a script of ``data_prep/`` says about its data set: its images in order, how to read one, what labels mean."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from normhpc.errors import DataError, InputError, Problem
from normhpc.files import canonical_json

Id = int | str
Item = tuple[Id, Any]
"""Id of an image and what ``Job.read`` needs to read it: small, for it is sent to a worker process."""

ROWS_PER_SHARD = 4096
PLAN_NAME = "plan.json"
"""What is being converted; there until the index is."""
SKIPPED_NAME = "skipped.csv"
"""Every input that was left out, with its reason."""


class Unreadable(Exception):  # noqa: N818  (an image is, the program is not in error)
    """Raised by ``Job.read``: this input is skipped and reported with this reason."""


@dataclass(frozen=True, slots=True)
class ImageField:
    """Images stored under one name; ``shape`` is that of one image, ``()`` for packed JPEG.

    ``layout`` says where the channels are: ``NHWC`` last, ``NCHW`` first. ``bands`` names them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    bands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtraField:
    """A small array beside every image, from ``Row.extra``; ``shape`` is that of one image's."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """What the labels mean. ``extra`` goes into the index as it is (``category_ids``)."""

    kind: Literal["single", "multi"]
    classes: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One image as it is to be stored: an array for each field, or the bytes of a JPEG file.

    ``label`` is the number of its class, or 0 or 1 for each class.
    """

    images: Mapping[str, NDArray[Any]] | bytes
    label: int | Sequence[int] | NDArray[Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A split to convert. What is stored is a function of this alone.

    ``items`` are in their final order. ``read`` is a function of a module, or a :func:`functools.partial` of one, and
    raises :class:`Unreadable` for an input to skip. ``preprocessing`` and ``source`` go into the index as they are, so
    they hold neither paths nor times. ``skipped`` are inputs that were left out before, told with the others.
    """

    dataset: str
    split: str
    fields: tuple[ImageField, ...]
    encoding: Literal["raw", "jpeg"]
    labels: LabelSpec
    items: Sequence[Item]
    read: Callable[[Any], Row]
    extra_fields: tuple[ExtraField, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[tuple[Id, str]] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """Where to and how: into ``<out>/<split>``, this share (k of n, from 1) of the shards, in so many processes."""

    out: Path
    rows_per_shard: int = ROWS_PER_SHARD
    workers: int = 1
    task: tuple[int, int] = (1, 1)


_RAISE = "raise it or leave it out"

_RESERVED = {"labels", "ids", "crc32", "jpeg", "jpeg_offsets", "size"}


def check_job(job: Job, options: Options) -> None:
    """Raise :class:`~normhpc.errors.InputError` for what cannot be converted, :class:`DataError` for wrong ids."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", job.split) is None:
        raise InputError(f"split: expected letters, digits, '.', '_' and '-', got {job.split!r}")
    _check_counts(options)
    k, n = options.task
    if not 1 <= k <= n:
        raise InputError(f"task: expected K/N with K from 1 to N, got {k}/{n}")
    if not job.items:
        raise DataError(f"{job.dataset} {job.split}: no images to convert")
    if job.encoding == "jpeg" and [(spec.name, spec.shape) for spec in job.fields] != [("jpeg", ())]:
        raise InputError("fields: packed JPEG takes one field jpeg of shape ()")
    names = [spec.name for spec in job.fields] + [extra.name for extra in job.extra_fields]
    taken = (_RESERVED - {"jpeg"}) if job.encoding == "jpeg" else _RESERVED
    if len(set(names)) < len(names) or taken & set(names):
        raise InputError(
            f"fields: expected different names, none of {', '.join(sorted(taken))}; got {', '.join(names)}"
        )
    for spec in job.fields:
        if spec.dtype not in ("|u1", "<u2", "<f4") or spec.layout not in ("NHWC", "NCHW"):
            raise InputError(f"{spec.name}: expected |u1, <u2 or <f4, NHWC or NCHW; got {spec.dtype}, {spec.layout}")
    _check_ids(job)


def _check_counts(options: Options) -> None:
    problems = []
    if options.rows_per_shard < 1:
        problems.append(
            Problem(f"expected at least 1 image per file, got {options.rows_per_shard}; {_RAISE}", "rows_per_shard")
        )
    if options.workers < 1:
        problems.append(Problem(f"expected at least 1 process, got {options.workers}; {_RAISE}", "workers"))
    if problems:
        raise InputError(problems)


def ids_dtype(job: Job) -> str:
    """The stored type of the ids: of numbers, or of the longest text in UTF-8."""
    if isinstance(job.items[0][0], int):
        return "<i8"
    return f"|S{max(len(str(id).encode()) for id, _ in job.items)}"


def plan_of(job: Job, options: Options) -> dict[str, Any]:
    """Everything that the bytes of the split depend on besides the inputs themselves, as JSON."""
    ids = hashlib.sha256()
    for id, _ in job.items:
        ids.update(f"{id}\n".encode())
    plan = {
        "dataset": job.dataset,
        "split": job.split,
        "encoding": job.encoding,
        "rows_per_shard": options.rows_per_shard,
        "fields": [
            {"name": spec.name, "dtype": spec.dtype, "shape": spec.shape, "layout": spec.layout, "bands": spec.bands}
            for spec in job.fields
        ],
        "extra_fields": [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape} for spec in job.extra_fields],
        "ids_dtype": ids_dtype(job),
        "labels": {"kind": job.labels.kind, "classes": job.labels.classes, **job.labels.extra},
        "preprocessing": dict(job.preprocessing),
        "source": dict(job.source),
        "images": {"count": len(job.items), "ids_sha256": ids.hexdigest()},
    }
    try:
        read_back: dict[str, Any] = json.loads(canonical_json(plan))
    except (TypeError, ValueError) as error:
        raise InputError(f"preprocessing, source and labels: expected what JSON can hold ({error})") from None
    return read_back


def plan_sha256(plan: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a plan."""
    return hashlib.sha256(canonical_json(plan).encode()).hexdigest()


def stored_ids(ids: Sequence[Id], dtype: str) -> NDArray[Any]:
    """Ids as an array of the stored type."""
    return np.array([id if isinstance(id, int) else id.encode() for id in ids], dtype=dtype)


def _check_ids(job: Job) -> None:
    kind, seen = type(job.items[0][0]), set()
    for id, _ in job.items:
        if type(id) is not kind or kind not in (int, str):
            raise DataError(f"id {id!r}: expected all numbers or all texts, got {type(id).__name__}")
        if id == "" or (isinstance(id, str) and "\0" in id):
            raise DataError(f"id {id!r}: expected text without zero bytes")
        if id in seen:
            raise DataError(f"id {id!r} appears twice in {job.dataset} {job.split}; every image needs an id of its own")
        seen.add(id)
