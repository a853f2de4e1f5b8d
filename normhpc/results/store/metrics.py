"""The lines of every run's ``metrics.jsonl`` as columns: read once, and again when the file changed.

What was read in one go is a segment: a file of lines and a file of values, written once. The manifest says which part
of which segment is a run's. A run that grew is read whole again, into a new segment: its file is small, and an offset to
go on from would need proof that what lies before it is the same. When a fifth of the values belongs to nobody any more,
or there are many segments, all is put into one.
"""

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from normhpc.results.store.folder import CacheFolder, Mark
from normhpc.results.store.lines import LINE, Extent, Parsed, Shapes
from normhpc.results.store.reading import read_files

_MANIFEST = "metrics"
_SEGMENT = "segment-"
_MOST_SEGMENTS = 32
_MOST_DEAD = 0.2
_VALUE = np.dtype("<f8")


class Wanted(NamedTuple):
    """A run whose lines are wanted: its path in the folder of records, its ``metrics.jsonl``, and that one's mark."""

    name: str
    path: str
    mark: Mark | None


class Segment(NamedTuple):
    """The name of a segment, how many lines and values it has, and the checksums of its two files."""

    name: str
    lines: int
    values: int
    lines_checksum: int
    values_checksum: int


class Entry(NamedTuple):
    """A run in the cache: the mark of its file, where its lines and values begin in which segment, and how many they are.

    Flat, because ten thousand are made of what the manifest says whenever somebody looks.
    """

    name: str
    size: int
    modified_ns: int
    inode: int
    segment: str
    line: int
    value: int
    lines: int
    values: int
    torn: int
    keyless: int

    @property
    def mark(self) -> Mark:
        """The mark of the file that was read."""
        return self[1:4]

    @property
    def extent(self) -> Extent:
        """How much the run has."""
        return Extent(*self[7:])


@dataclass(frozen=True, slots=True)
class Measured:
    """The lines and values of runs, one run after the other, and how many each of them has."""

    lines: NDArray[np.void]
    values: NDArray[np.float64]
    extents: list[Extent]
    shapes: list[tuple[str, tuple[str, ...]]]


class MetricCache:
    """The metric lines of the runs in one folder."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._found = folder.read_head(_MANIFEST)
        self._segments: dict[str, Segment] = {}
        self._entries: dict[str, Entry] = {}
        self._loaded: dict[str, Parsed] = {}
        self.shapes = Shapes()
        if self._found:
            try:
                self._read(self._found)
            except (ValueError, TypeError, KeyError, IndexError):
                self._segments, self._entries, self.shapes = {}, {}, Shapes()

    def extents(self, runs: Sequence[Wanted], directory: str) -> list[Extent]:
        """How much each run has; what is new or changed is read and kept."""
        self._update(runs, directory, with_numbers=False)
        return [self._entries[run.name].extent if run.mark else Extent(0, 0, 0, 0) for run in runs]

    def measured(self, runs: Sequence[Wanted], directory: str) -> Measured:
        """The lines and values of ``runs`` in their order; what is new or changed is read and kept."""
        self._update(runs, directory, with_numbers=True)
        entries = [self._entries[run.name] if run.mark else None for run in runs]
        extents = [entry.extent if entry else Extent(0, 0, 0, 0) for entry in entries]
        lines, values = self._gathered([entry for entry in entries if entry])
        return Measured(lines, values, extents, self.shapes.known)

    def _update(self, runs: Sequence[Wanted], directory: str, *, with_numbers: bool) -> None:
        there = [run for run in runs if run.mark]
        changed = [run for run in there if run.name not in self._entries or self._entries[run.name].mark != run.mark]
        if with_numbers:
            for name in {self._entries[run.name].segment for run in there if run.name in self._entries}:
                self._load(name)
            known = {run.name for run in changed}
            changed += [
                run for run in there if run.name not in known and self._entries[run.name].segment not in self._loaded
            ]
        if not changed:
            return
        size = sum(run.mark[0] for run in changed if run.mark)
        marks, parsed = read_files([run.path for run in changed], size, self.shapes)
        segment = f"{_SEGMENT}{secrets.token_hex(8)}"
        self._loaded[segment] = parsed
        line = value = 0
        for run, mark, extent in zip(changed, marks, parsed.extents, strict=True):
            self._entries[run.name] = Entry(run.name, *mark, segment, line, value, *extent)
            line += extent.lines
            value += extent.values
        seen = {run.name for run in runs}
        self._folder.update(lambda: self._write(segment, directory, seen))

    def _gathered(self, entries: Sequence[Entry]) -> tuple[NDArray[np.void], NDArray[np.float64]]:
        """The lines and values of ``entries``; stretches that lie together are taken at once, mostly all of them."""
        stretches: list[list[Any]] = []
        for entry in entries:
            line, value = entry.line + entry.lines, entry.value + entry.values
            last = stretches[-1] if stretches else None
            if last and last[0] == entry.segment and last[2] == entry.line and last[4] == entry.value:
                last[2], last[4] = line, value
            else:
                stretches.append([entry.segment, entry.line, line, entry.value, value])
        lines = [self._loaded[name].lines[first:end] for name, first, end, _, _ in stretches]
        values = [self._loaded[name].values[first:end] for name, _, _, first, end in stretches]
        if len(stretches) == 1:
            return lines[0], values[0]
        return np.concatenate([np.empty(0, LINE), *lines]), np.concatenate([np.empty(0, _VALUE), *values])

    def _load(self, name: str) -> None:
        """Read a segment; one that is absent or damaged is forgotten, and its runs are read again."""
        if name in self._loaded or name not in self._segments:
            return
        segment = self._segments[name]
        lines, values = np.empty(segment.lines, LINE), np.empty(segment.values, _VALUE)
        if self._folder.read(f"{name}.lines", segment.lines_checksum, _bytes_of(lines)) and self._folder.read(
            f"{name}.values", segment.values_checksum, _bytes_of(values)
        ):
            self._loaded[name] = Parsed(lines, values, [])
        else:
            del self._segments[name]

    def _read(self, content: bytes) -> None:
        manifest = orjson.loads(content)
        self.shapes = Shapes((split, tuple(names)) for split, names in manifest["shapes"])
        self._segments = {segment[0]: Segment(*segment) for segment in manifest["segments"]}
        self._entries = {entry.name: entry for entry in map(Entry._make, manifest["runs"])}

    def _write(self, segment: str, directory: str, seen: set[str]) -> None:
        if self._folder.read_head(_MANIFEST) != self._found:
            # another process was faster; whatever differs is read again next time
            return
        entries = {
            name: entry
            for name, entry in self._entries.items()
            if (entry.segment in self._segments or entry.segment == segment)
            and (name in seen or os.path.exists(f"{directory}/{name}"))  # noqa: PTH110
        }
        parsed = self._loaded[segment]
        live = sum(entry.values for entry in entries.values())
        there = len(parsed.values) + sum(known.values for known in self._segments.values())
        if len(self._segments) >= _MOST_SEGMENTS or live < (1 - _MOST_DEAD) * there:
            parsed, entries = self._as_one(segment, entries)
            self._segments = {}
        self._segments[segment] = Segment(
            segment,
            len(parsed.lines),
            len(parsed.values),
            self._folder.write(f"{segment}.lines", _bytes_of(parsed.lines)),
            self._folder.write(f"{segment}.values", _bytes_of(parsed.values)),
        )
        manifest = {
            "shapes": self.shapes.known,
            "segments": list(self._segments.values()),
            "runs": list(entries.values()),
        }
        self._folder.write_head(_MANIFEST, json.dumps(manifest, separators=(",", ":")).encode())
        kept = {f"{name}.{part}" for name in self._segments for part in ("lines", "values")}
        self._folder.remove_others(_SEGMENT, kept)
        self._folder.remove_others(_MANIFEST, {_MANIFEST})

    def _as_one(self, segment: str, entries: dict[str, Entry]) -> tuple[Parsed, dict[str, Entry]]:
        """All that is alive in one segment."""
        for name in {entry.segment for entry in entries.values()}:
            self._load(name)
        entries = {name: entry for name, entry in entries.items() if entry.segment in self._loaded}
        lines, values = self._gathered(list(entries.values()))
        moved = {}
        line = value = 0
        for name, entry in entries.items():
            moved[name] = entry._replace(segment=segment, line=line, value=value)
            line += entry.lines
            value += entry.values
        return Parsed(lines, values, []), moved


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data
