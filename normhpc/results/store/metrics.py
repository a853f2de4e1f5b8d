"""The lines of every run's ``metrics.jsonl`` as columns: read once, and again when the file changed.

What was read in one go is a segment: a file of lines and a file of values, written once. The manifest says which part
of which segment is a run's. A run that grew is read whole again, into a new segment: its file is small, and an offset to
go on from would need proof that what lies before it is the same. When a fifth of the values belongs to nobody any more,
or there are many segments, all is put into one.
"""

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from normhpc.results.store.folder import CacheFolder
from normhpc.results.store.lines import LINE, Extent, Parsed, Shapes
from normhpc.results.store.marks import Mark
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


class _Stretch(NamedTuple):
    """Lines and values that lie together in a segment and shall lie together: where, whereto, and how many."""

    segment: str
    line: int
    to_line: int
    lines: int
    value: int
    to_value: int
    values: int


class MetricCache:
    """The metric lines of the runs in one folder."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._found = folder.read_head(_MANIFEST)
        self._segments: dict[str, Segment] = {}
        self._entries: dict[str, Entry] = {}
        self._new: dict[str, Parsed] = {}
        """Segments that are not written yet."""
        self.shapes = Shapes()
        if self._found:
            try:
                self._read(self._found)
            except (msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError):
                self._segments, self._entries, self.shapes = {}, {}, Shapes()

    def extents(self, runs: Sequence[Wanted], directory: str) -> list[Extent]:
        """How much each run has; what is new or changed is read and kept."""
        self._read_changed(runs)
        extents = self._extents_of(runs)
        self._keep(runs, directory)
        return extents

    def measured(self, runs: Sequence[Wanted], directory: str) -> Measured:
        """The lines and values of ``runs`` in their order; what is new or changed is read and kept."""
        there = [run.name for run in runs if run.mark]
        self._read_changed(runs)
        while (found := self._gathered([self._entries[name] for name in there])) is None:
            # a segment was absent or damaged: its runs count as changed
            self._read_changed(runs)
        extents = self._extents_of(runs)
        self._keep(runs, directory)
        return Measured(found.lines, found.values, extents, self.shapes.known)

    def _extents_of(self, runs: Sequence[Wanted]) -> list[Extent]:
        return [self._entries[run.name].extent if run.mark else Extent(0, 0, 0, 0) for run in runs]

    def _read_changed(self, runs: Sequence[Wanted]) -> None:
        there = [run for run in runs if run.mark]
        changed = [run for run in there if run.name not in self._entries or self._entries[run.name].mark != run.mark]
        if not changed:
            return
        size = sum(run.mark[0] for run in changed if run.mark)
        marks, parsed = read_files([run.path for run in changed], size, self.shapes)
        segment = f"{_SEGMENT}{secrets.token_hex(8)}"
        self._new[segment] = parsed
        line = value = 0
        for run, mark, extent in zip(changed, marks, parsed.extents, strict=True):
            self._entries[run.name] = Entry(run.name, *mark, segment, line, value, *extent)
            line += extent.lines
            value += extent.values

    def _gathered(self, entries: Sequence[Entry]) -> Parsed | None:
        """The lines and values of ``entries``, each read to where it stays: new memory costs more than reading.

        None when a segment is absent or damaged; it is forgotten, with its runs.
        """
        stretches = _stretches(entries)
        if len(stretches) == 1 and stretches[0].segment in self._new:
            ((segment, line, _, lines, value, _, values),) = stretches
            whole = self._new[segment]
            return Parsed(whole.lines[line : line + lines], whole.values[value : value + values], [])
        gathered = Parsed(
            np.empty(sum(entry.lines for entry in entries), LINE),
            np.empty(sum(entry.values for entry in entries), _VALUE),
            [],
        )
        by_segment: dict[str, list[_Stretch]] = {}
        for stretch in stretches:
            by_segment.setdefault(stretch.segment, []).append(stretch)
        for name, there in by_segment.items():
            if name in self._new:
                new = self._new[name]
                for _, line, to_line, lines, value, to_value, values in there:
                    gathered.lines[to_line : to_line + lines] = new.lines[line : line + lines]
                    gathered.values[to_value : to_value + values] = new.values[value : value + values]
            elif not self._fill(gathered, self._segments[name], there):
                del self._segments[name]
                self._entries = {run: entry for run, entry in self._entries.items() if entry.segment != name}
                return None
        return gathered

    def _fill(self, gathered: Parsed, segment: Segment, stretches: Sequence[_Stretch]) -> bool:
        """Read stretches of a segment to their places; False when it is absent or damaged."""
        lines = [(line, to_line, count) for _, line, to_line, count, _, _, _ in stretches]
        values = [(value, to_value, count) for _, _, _, _, value, to_value, count in stretches]
        return self._folder.read(
            f"{segment.name}.lines", segment.lines_checksum, _parts(gathered.lines, lines, segment.lines)
        ) and self._folder.read(
            f"{segment.name}.values", segment.values_checksum, _parts(gathered.values, values, segment.values)
        )

    def _read(self, content: bytes) -> None:
        manifest = msgspec.json.decode(content)
        self.shapes = Shapes((split, tuple(names)) for split, names in manifest["shapes"])
        self._segments = {segment[0]: Segment(*segment) for segment in manifest["segments"]}
        self._entries = {entry.name: entry for entry in map(Entry._make, manifest["runs"])}

    def _keep(self, runs: Sequence[Wanted], directory: str) -> None:
        """Write what is new; where that cannot be done it is read again next time."""
        if self._new:
            seen = {run.name for run in runs}
            self._folder.update(lambda: self._write(directory, seen))

    def _write(self, directory: str, seen: set[str]) -> None:
        if self._folder.read_head(_MANIFEST) != self._found:
            # another process was faster; whatever differs is read again next time
            return
        entries = {
            name: entry
            for name, entry in self._entries.items()
            if name in seen or os.path.exists(f"{directory}/{name}")  # noqa: PTH110
        }
        new, kept = self._new, self._segments
        live = sum(entry.values for entry in entries.values())
        there = sum(len(parsed.values) for parsed in new.values()) + sum(segment.values for segment in kept.values())
        if len(kept) >= _MOST_SEGMENTS or live < (1 - _MOST_DEAD) * there:
            whole = self._gathered(list(entries.values()))
            if whole is None:
                # a segment was absent or damaged: without its runs, which are read again next time
                self._write(directory, seen)
                return
            segment = next(iter(new))
            new, kept, entries = {segment: whole}, {}, _moved(entries, segment)
        written = [self._written(segment, parsed) for segment, parsed in new.items()]
        segments = [*kept.values(), *written]
        manifest = {"shapes": self.shapes.known, "segments": segments, "runs": list(entries.values())}
        self._folder.write_head(_MANIFEST, msgspec.json.encode(manifest))
        files = {f"{segment.name}.{part}" for segment in segments for part in ("lines", "values")}
        self._folder.remove_others(_SEGMENT, files)
        self._folder.remove_others(_MANIFEST, {_MANIFEST})

    def _written(self, name: str, parsed: Parsed) -> Segment:
        lines = self._folder.write(f"{name}.lines", _bytes_of(parsed.lines))
        values = self._folder.write(f"{name}.values", _bytes_of(parsed.values))
        return Segment(name, len(parsed.lines), len(parsed.values), lines, values)


def _stretches(entries: Iterable[Entry]) -> list[_Stretch]:
    """What to take for ``entries`` one after the other, in as few pieces as there are."""
    found: list[list[Any]] = []
    to_line = to_value = 0
    for _, _, _, _, segment, line, value, lines, values, _, _ in entries:
        # of the last one: its segment, and where it ends in it
        if found and found[-1][0] == segment and found[-1][7:] == [line, value]:
            last = found[-1]
            last[3] += lines
            last[6] += values
            last[7:] = line + lines, value + values
        else:
            found.append([segment, line, to_line, lines, value, to_value, values, line + lines, value + values])
        to_line += lines
        to_value += values
    return [_Stretch(*stretch[:7]) for stretch in found]


def _parts(array: NDArray[Any], pieces: Iterable[tuple[int, int, int]], length: int) -> Iterator[memoryview]:
    """Where to read a file of ``length`` items, from its begin to its end, such that ``pieces`` come to their places.

    A piece is where it begins in the file, where in ``array``, and how many items it has. What belongs to none of them is
    read too, for its checksum.
    """
    content, size = _bytes_of(array), array.itemsize
    position = 0
    # an empty one may begin where another does, and be sorted behind it
    for start, place, count in [*sorted(piece for piece in pieces if piece[2]), (length, 0, 0)]:
        if start > position:
            yield memoryview(bytearray((start - position) * size))
        yield content[place * size : (place + count) * size]
        position = start + count


def _moved(entries: Mapping[str, Entry], segment: str) -> dict[str, Entry]:
    """The entries one after the other in ``segment``."""
    moved = {}
    line = value = 0
    for name, entry in entries.items():
        moved[name] = entry._replace(segment=segment, line=line, value=value)
        line += entry.lines
        value += entry.values
    return moved


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data
