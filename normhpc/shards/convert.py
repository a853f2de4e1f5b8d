"""From a :class:`Job` to shards: resumable, in any number of processes and tasks, always to the same bytes."""

import contextlib
import csv
import io
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from normhpc.config.problems import shown
from normhpc.errors import DataError, InputError, NormhpcError, Problem
from normhpc.files import read_json, replace_file, replace_json, sync_directory
from normhpc.shards.build import Finished, allocate, finish_jpeg, finish_raw
from normhpc.shards.index import INDEX_NAME, Index, channels_of, read_index, write_index
from normhpc.shards.job import PLAN_NAME, SKIPPED_NAME, Id, check_job, ids_dtype, plan_of, plan_sha256
from normhpc.shards.job import ExtraField as ExtraField
from normhpc.shards.job import ImageField as ImageField
from normhpc.shards.job import Item as Item
from normhpc.shards.job import Job as Job
from normhpc.shards.job import LabelSpec as LabelSpec
from normhpc.shards.job import Options as Options
from normhpc.shards.job import Row as Row
from normhpc.shards.job import Unreadable as Unreadable
from normhpc.shards.locks import FolderLocks
from normhpc.shards.pool import Pool, open_pool
from normhpc.shards.rows import ChunkDone, NotWritten, Stored, Sums, statistics, write_rows, writing
from normhpc.shards.script import add_options as add_options
from normhpc.shards.script import parse_task as parse_task
from normhpc.shards.script import run as run
from normhpc.shards.show import counted
from normhpc.shards.sidecar import Sidecar, finished_shard, sidecar_path, write_sidecar

Advance = Callable[[int], None]
"""Told of every so many images that were read or skipped."""

_CHUNK_ROWS = 64
_CHUNKS_AHEAD_PER_WORKER = 4
_PATIENCE_SECONDS = 1.0
_TOLD_SKIPS = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What one call of :func:`convert` did, or found done: images stored, inputs skipped with their reasons, shards.

    ``rows`` and ``skipped`` are those of this task's shards. ``complete`` tells that the split has its index.
    """

    rows: int
    skipped: tuple[tuple[Id, str], ...]
    shards_written: int
    shards_kept: int
    complete: bool


def convert(job: Job, options: Options, console: Console) -> Report:
    """Convert a split into ``<out>/<split>``; what is done already is not done again.

    Whichever task finds all shards there writes the index. Raises :class:`~normhpc.errors.InputError` when the folder
    holds another conversion or another process is making the same shards, :class:`~normhpc.errors.DataError` for
    images that are not what the job says, :class:`~normhpc.errors.NormhpcError` when the disk is full.
    """
    check_job(job, options)
    plan = plan_of(job, options)
    conversion = _Conversion(job, options, plan, plan_sha256(plan))
    with _told(conversion.folder, "the shards"), writing():
        conversion.folder.mkdir(parents=True, exist_ok=True)
        locks = FolderLocks(conversion.folder)
    began = time.monotonic()
    with locks:
        with locks.whole_folder():
            conversion.accept_plan()
            locks.claim(conversion.numbers)
        kept = {number: found for number in conversion.numbers if (found := conversion.finished(number))}
        made = conversion.make([number for number in conversion.numbers if number not in kept], console)
        with locks.whole_folder():
            complete = conversion.complete()
    return _tell(conversion, kept, made, complete, time.monotonic() - began, console)


class _Conversion:
    """What a call of :func:`convert` knows."""

    def __init__(self, job: Job, options: Options, plan: dict[str, Any], digest: str) -> None:
        self.job = job
        self.options = options
        self.plan = plan
        self.digest = digest
        self.folder = options.out / job.split
        self.index: Index | None = None
        self.shards = math.ceil(len(job.items) / options.rows_per_shard)
        k, n = options.task
        self.numbers = range(k - 1, self.shards, n)

    def shard_path(self, number: int) -> Path:
        """The final name of a shard."""
        return self.folder / f"{self.job.split}-{number:05d}.h5"

    def accept_plan(self) -> None:
        """Write down what is being converted, or make sure that it is what was begun or done here before."""
        if (self.folder / INDEX_NAME).exists():
            self.index = read_index(self.folder)
            if self.index.plan_sha256 == self.digest:
                return
            # numbers as JSON has them, as in the plan
            there = read_json(self.folder / INDEX_NAME)
            there["labels"].pop("positives", None)
            self._refuse(there)
        path = self.folder / PLAN_NAME
        try:
            there = read_json(path)
        except FileNotFoundError:
            with _told(path, "the plan"), writing():
                replace_json(path, self.plan)
            return
        except ValueError as error:
            raise DataError(
                Problem(f"not JSON ({error}); delete {self.folder} and run the conversion again", file=str(path))
            ) from None
        if plan_sha256(there) != self.digest:
            self._refuse(there)

    def _refuse(self, there: dict[str, Any]) -> None:
        differences = []
        for key, asked in self.plan.items():
            found = there.get(key)
            if key != "images" and found != asked:
                small = not isinstance(asked, dict | list)
                differences.append(f"{key} ({shown(found)} there, {shown(asked)} asked for)" if small else key)
        count, known = self.plan["images"]["count"], there.get("images")
        if known is not None and known != self.plan["images"]:
            differences.append(f"images ({known['count']} there, {count} asked for, or other ids)")
        elif known is None and (not differences or self._other_count(there["rows"])):
            # an index tells what is stored, without inputs that were skipped
            differences.append(f"images ({there['rows']} stored there, {count} asked for, or other ids)")
        raise InputError(
            f"{self.folder}: holds another conversion, which differs in {', '.join(differences)}; "
            "give another --out, or delete the folder to convert anew"
        )

    def _other_count(self, stored: int) -> bool:
        """Whether a complete split of so many rows cannot be that of the images asked for."""
        asked = len(self.job.items)
        return stored > asked or (stored < asked and not (self.folder / SKIPPED_NAME).exists())

    def finished(self, number: int) -> Sidecar | None:
        """What is known of a shard that is there, whole by its size."""
        path = self.shard_path(number)
        if self.index is None:
            return finished_shard(path, self.digest)
        known = next((shard for shard in self.index.shards if shard.file == path.name), None)
        rows, size, sha256 = (known.rows, known.bytes, known.sha256) if known else (0, 0, "")
        if known and (not path.exists() or path.stat().st_size != size):
            return None
        return Sidecar(
            plan_sha256=self.digest,
            file=path.name,
            rows=rows,
            bytes=size,
            sha256=sha256,
            offsets={},
            stats={},
            positives=(),
            skipped=(),
        )

    def make(self, numbers: Sequence[int], console: Console) -> dict[int, Sidecar]:
        """Make these shards; nothing half done stays behind, whatever happens."""
        if not numbers:
            return {}
        total = sum(len(self._items(number)) for number in numbers)
        bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        task = bar.add_task(f"{self.job.dataset} {self.job.split}", total=total)
        began, made = time.monotonic(), {}

        def advance(rows: int) -> None:
            bar.advance(task, rows)
            if not bar.live.is_started and time.monotonic() - began > _PATIENCE_SECONDS:
                bar.start()

        slim = replace(self.job, items=(), skipped=())
        pool = open_pool(slim, self.options.workers)
        line = _Line(slim, pool, ids_dtype(self.job), _CHUNKS_AHEAD_PER_WORKER * self.options.workers)
        try:
            for number in numbers:
                for shard, finished in line.take(number, self.shard_path(number), self._items(number), advance):
                    made[shard.number] = self._publish(shard, finished)
            for shard, finished in line.settle(0, advance):
                made[shard.number] = self._publish(shard, finished)
        except BrokenProcessPool:
            raise NormhpcError(
                f"{self.folder}: a worker process was killed, perhaps for want of memory; run the same command again, "
                "it goes on from here, with fewer --workers if it was memory"
            ) from None
        finally:
            bar.stop()
            pool.stop()
            line.clear()
        return made

    def complete(self) -> bool:
        """Write the index when every shard of every task is there, and clear away what led to it."""
        if self.index is not None or (self.folder / INDEX_NAME).exists():
            self._clear_away()
            return True
        paths = [self.shard_path(number) for number in range(self.shards)]
        sidecars = []
        for path in paths:
            sidecar = finished_shard(path, self.digest)
            if sidecar is None:
                return False
            sidecars.append(sidecar)
        skipped = [pair for sidecar in sidecars for pair in sidecar.skipped]
        if not any(sidecar.rows for sidecar in sidecars):
            first = f"; {skipped[0][0]!r}: {skipped[0][1]}"
            raise DataError(
                f"{self.job.dataset} {self.job.split}: none of {len(skipped):,} images could be read{first}; copy or "
                "download them again"
            )
        with _told(self.folder / INDEX_NAME, "the index"), writing():
            if every := [*self.job.skipped, *skipped]:
                _write_skipped(self.folder / SKIPPED_NAME, every)
            write_index(self.folder, _index(self.plan, self.digest, sidecars))
        self._clear_away()
        return True

    def _clear_away(self) -> None:
        for number in range(self.shards):
            sidecar_path(self.shard_path(number)).unlink(missing_ok=True)
        # what a kill left of files that were to take the place of others
        for path in (self.folder / PLAN_NAME, *self.folder.glob(".*.tmp")):
            path.unlink(missing_ok=True)
        sync_directory(self.folder)

    def _items(self, number: int) -> Sequence[Item]:
        first = number * self.options.rows_per_shard
        return self.job.items[first : first + self.options.rows_per_shard]

    def _publish(self, shard: "_Shard", finished: Finished) -> Sidecar:
        """Give a finished shard its name, then its sidecar."""
        sidecar = Sidecar(
            plan_sha256=self.digest,
            file=shard.path.name,
            rows=finished.rows,
            bytes=finished.bytes,
            sha256=finished.sha256,
            offsets=finished.offsets,
            stats=shard.sums,
            positives=tuple(shard.positives(self.job)),
            skipped=tuple((shard.items[position][0], reason) for position, reason in shard.skipped),
        )
        if self.index is not None:
            expected = next(known.sha256 for known in self.index.shards if known.file == shard.path.name)
            if finished.sha256 != expected:
                raise DataError(
                    Problem(
                        f"made again it has SHA-256 {finished.sha256}, the index says {expected}: the input or the "
                        f"programs that read it have changed; delete {self.folder} to convert anew",
                        file=str(shard.path),
                    )
                )
        with _told(shard.path, f"{finished.bytes:,} bytes"), writing():
            if finished.rows:
                shard.temporary.replace(shard.path)
                sync_directory(self.folder)
            if self.index is None:
                write_sidecar(shard.path, sidecar)
        return sidecar


@dataclass(slots=True, eq=False)
class _Shard:
    """A shard that is being made, under its temporary name."""

    number: int
    path: Path
    items: Sequence[Item]
    offsets: dict[str, int]
    chunks_left: int
    sums: dict[str, Sums]
    rows: list[Stored] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)

    @property
    def temporary(self) -> Path:
        return self.path.with_name(f"{self.path.name}.tmp")

    def add(self, done: ChunkDone) -> None:
        """Chunks come in the order in which they were given out."""
        self.chunks_left -= 1
        self.rows += done.rows
        self.skipped += done.skipped
        for name, sums in done.sums.items():
            self.sums[name].add(sums)

    def positives(self, job: Job) -> list[int]:
        """Images of each class."""
        counts = [0] * len(job.labels.classes)
        for row in self.rows:
            for number in (row.label,) if job.labels.kind == "single" else row.label.nonzero()[0]:
                counts[number] += 1
        return counts


class _Line:
    """Chunks of images given to the pool, a bounded number ahead of what is settled, across shards."""

    def __init__(self, job: Job, pool: Pool, dtype: str, ahead: int) -> None:
        self._job = job
        self._pool = pool
        self._dtype = dtype
        self._ahead = ahead
        self._waiting: deque[tuple[_Shard, Future[ChunkDone]]] = deque()
        self._finishing: list[tuple[_Shard, Future[Finished]]] = []
        self._open: list[_Shard] = []

    def take(
        self, number: int, path: Path, items: Sequence[Item], advance: Advance
    ) -> Iterator[tuple[_Shard, Finished]]:
        """Give out a shard, and yield those that are finished meanwhile."""
        chunks = range(0, len(items), _CHUNK_ROWS)
        shard = _Shard(number, path, items, {}, len(chunks), {spec.name: Sums() for spec in self._job.fields})
        self._open.append(shard)
        if self._job.encoding == "raw":
            with _told(shard.temporary, self._needed(shard)):
                shard.offsets = allocate(self._job, shard.temporary, number, len(items), self._dtype)
        for first in chunks:
            with _told(shard.temporary, self._needed(shard)):
                chunk = (shard.temporary, shard.offsets, first, items[first : first + _CHUNK_ROWS])
                self._waiting.append((shard, self._pool.submit(write_rows, *chunk)))
            yield from self.settle(self._ahead, advance)

    def settle(self, waiting: int, advance: Advance) -> Iterator[tuple[_Shard, Finished]]:
        """Wait until no more than so many chunks are under way, and yield the shards that are finished."""
        while len(self._waiting) > waiting:
            shard, future = self._waiting.popleft()
            with _told(shard.temporary, self._needed(shard)):
                done: ChunkDone = future.result()
                shard.add(done)
                if shard.chunks_left == 0:
                    self._finishing.append((shard, self._finish(shard)))
            advance(len(done.rows) + len(done.skipped))
            yield from self._finished(wait=False)
        if waiting == 0:
            yield from self._finished(wait=True)

    def _finished(self, *, wait: bool) -> Iterator[tuple[_Shard, Finished]]:
        for shard, future in [pair for pair in self._finishing if wait or pair[1].done()]:
            with _told(shard.temporary, self._needed(shard)):
                finished: Finished = future.result()
            yield shard, finished
            self._finishing.remove((shard, future))
            self._open.remove(shard)
            shard.temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what is under temporary names; no worker may be running any more."""
        for shard in self._open:
            for path in (shard.temporary, *shard.path.parent.glob(f".{shard.path.stem}.*.tmp")):
                path.unlink(missing_ok=True)

    def _finish(self, shard: _Shard) -> Future[Finished]:
        rows, shard_rows = shard.rows, len(shard.items)
        ids = [shard.items[row.position][0] for row in rows]
        future: Future[Finished] = Future()
        if not rows:
            future.set_result(Finished(0, 0, "", {}))
        elif self._job.encoding == "jpeg":
            # the bytes are here, sending them to a worker would take longer than writing them
            future.set_result(finish_jpeg(self._job, shard.temporary, shard.number, rows, ids, self._dtype))
        else:
            common = (shard.temporary, shard.number, shard_rows, shard.offsets, rows, ids, self._dtype)
            future = self._pool.submit(finish_raw, *common)
        return future

    def _needed(self, shard: _Shard) -> str:
        if self._job.encoding == "jpeg":
            size = sum(len(row.jpeg or b"") for row in shard.rows)
        else:
            size = len(shard.items) * sum(
                math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in self._job.fields
            )
        return f"a shard of {size:,} bytes"


@contextlib.contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Turn what the disk refuses into an error that names the file and what it needs."""
    try:
        yield
    except NotWritten as error:
        cure = f"it needs room for {what}; make room" if error.for_room else "mend that"
        raise NormhpcError(
            f"{path}: cannot be written ({error}); {cure} or give another --out, then run the same command again: it "
            "goes on from here"
        ) from None


def _tell(
    conversion: _Conversion,
    kept: dict[int, Sidecar],
    made: dict[int, Sidecar],
    complete: bool,
    seconds: float,
    console: Console,
) -> Report:
    job, mine = conversion.job, [sidecar for _, sidecar in sorted((kept | made).items())]
    rows = sum(sidecar.rows for sidecar in mine)
    read = sum(sidecar.rows + len(sidecar.skipped) for sidecar in made.values())
    skipped = [*job.skipped, *(pair for sidecar in mine for pair in sidecar.skipped)]
    speed = f", {read / max(seconds, 1e-9):,.0f} images/s" if made else ""
    was = f" ({len(kept)} there before)" if kept else ""
    console.print(f"{job.dataset} {job.split}: {counted(rows, 'image')} in {counted(len(mine), 'shard')}{was}{speed}")
    if conversion.index is None:
        for id, reason in skipped[:_TOLD_SKIPS]:
            console.print(f"skipped {id}: {reason}")
        if len(skipped) > _TOLD_SKIPS:
            place = f"all in {conversion.folder / SKIPPED_NAME}" if complete else f"all in {SKIPPED_NAME} at the end"
            console.print(f"skipped {len(skipped) - _TOLD_SKIPS:,} more, {place}")
    if not complete:
        console.print(f"{conversion.folder}: the index is written when the other tasks have made their shards")
    return Report(rows, tuple(skipped), len(made), len(kept), complete)


def _write_skipped(path: Path, skipped: Sequence[tuple[Id, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "reason"])
    writer.writerows(skipped)
    replace_file(path, lambda file: file.write(text.getvalue().encode()))


def _index(plan: dict[str, Any], digest: str, sidecars: Sequence[Sidecar]) -> dict[str, Any]:
    """The content of the index, in the order in which people read it."""
    shards: list[dict[str, Any]] = []
    stats = {spec["name"]: Sums() for spec in plan["fields"]}
    positives, row_start = [0] * len(plan["labels"]["classes"]), 0
    for sidecar in sidecars:
        for name, sums in sidecar.stats.items():
            stats[name].add(sums)
        positives = [a + b for a, b in zip(positives, sidecar.positives, strict=True)]
        if sidecar.rows:
            shards.append(
                {
                    "file": sidecar.file,
                    "rows": sidecar.rows,
                    "row_start": row_start,
                    "bytes": sidecar.bytes,
                    "sha256": sidecar.sha256,
                    "offsets": sidecar.offsets,
                }
            )
        row_start += sidecar.rows
    floats = {spec["name"]: spec for spec in plan["fields"] if spec["dtype"] == "<f4"}
    float_stats = {
        name: statistics(stats[name])
        for name, spec in floats.items()
        # fewer were added up where some are not finite
        if stats[name].count == row_start * math.prod(spec["shape"]) // channels_of(spec["shape"], spec["layout"])
    }
    labels = {"kind": plan["labels"]["kind"], "classes": plan["labels"]["classes"], "positives": positives}
    return {
        **{key: plan[key] for key in ("dataset", "split", "encoding")},
        "rows": row_start,
        **{key: plan[key] for key in ("rows_per_shard", "fields", "extra_fields", "ids_dtype")},
        "labels": labels | plan["labels"],
        "stats": {name: None if name in floats else statistics(sums) for name, sums in stats.items()},
        **({"float_stats": float_stats} if float_stats else {}),
        "shards": shards,
        "preprocessing": plan["preprocessing"],
        "source": plan["source"],
        "plan_sha256": digest,
    }
