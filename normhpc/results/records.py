"""Records as they lie on disk: what was asked for and what came of it, with everything odd noted, nothing fatal.

A run whose ``run.json`` cannot be read is left out and named in the notes: nobody knows what it was.
A run whose ``summary.json`` cannot be read is ``lost``: it goes on with the next launch, which writes it again.
What was read of a run's two documents is kept in :mod:`normhpc.results.store`, damaged ones excepted.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from normhpc.errors import DamagedError
from normhpc.files import read_json
from normhpc.record import SEALED, RunFolder, RunStatus, read_status, read_summary
from normhpc.results.find import name_below, runs_by_directory
from normhpc.results.store.documents import Document, DocumentCache
from normhpc.results.store.folder import CacheFolder, remove_cache
from normhpc.results.store.garbage import without_garbage_collection
from normhpc.results.store.marks import Mark, mark_of
from normhpc.results.surrogates import without_surrogates


class Place(NamedTuple):
    """Where a run was found: the directory that was given, and the run's path in it (empty: it is the run)."""

    directory: str
    name: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. ``config`` is as written, not validated: results of older versions stay readable."""

    path: str
    place: Place
    measured: Mark | None
    """Of its ``metrics.jsonl``; None when there is none."""
    run_id: str
    sweep: str
    swept: Mapping[str, Any]
    config: Mapping[str, Any]
    created: str
    code: str
    status: RunStatus

    @property
    def folder(self) -> RunFolder:
        """Where its files are."""
        return RunFolder(Path(self.path))

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config["seed"])

    @property
    def summary(self) -> Mapping[str, Any]:
        """``summary.json``; empty while the run is not sealed."""
        return self.status.summary or {}


@dataclass(frozen=True, slots=True)
class Records:
    """One record per run id in order of creation, notes on whatever is damaged, and the number of unreadable lines by file."""

    runs: list[RunRecord]
    notes: list[str]
    torn: dict[str, int]


def read_records(dirs: Iterable[str | os.PathLike[str]], *, rebuild: bool = False) -> Records:
    """The runs in ``dirs``, with whatever is odd about them; with ``rebuild`` nothing that was kept is used.

    A run id found in several folders counts once: the sealed record, else the first, is kept.
    Raises :class:`~normhpc.errors.InputError` when a directory is missing or has no runs.
    """
    kept: dict[str, RunRecord] = {}
    copies: list[str] = []
    unlike: list[str] = []
    notes: list[str] = []
    torn: dict[str, int] = {}
    for directory, asked in runs_by_directory(dirs).items():
        for record, found in _read_directory(directory, asked, rebuild=rebuild):
            notes += found
            if record is None:
                continue
            if record.status.torn_lines:
                torn[str(record.folder.events)] = record.status.torn_lines
            first = kept.setdefault(record.run_id, record)
            if first is not record:
                better = record if record.summary and not first.summary else first
                kept[record.run_id] = better
                copies.append(f"{record.run_id} (kept: {better.folder.path})")
                digests = [one.summary.get("data_digest") for one in (first, record)]
                if None not in digests and digests[0] != digests[1]:
                    unlike.append(f"{record.run_id} in {first.folder.path} and in {record.folder.path}")
    if copies:
        notes.append(f"in more than one folder, the sealed or first one is kept: {listed(copies)}")
    if unlike:
        notes.append(f"one run id, but trained on different images (data_digest): {listed(unlike)}")
    in_order = sorted(kept.values(), key=lambda record: (record.created, record.run_id))
    return Records(in_order, notes, torn)


def read_state(folder: RunFolder) -> tuple[RunStatus, list[str]]:
    """The state of a run, ``lost`` when its summary is damaged, and the note that says so."""
    try:
        summary: Any = without_surrogates(read_summary(folder))
    except DamagedError as error:
        return RunStatus("lost", {}, None), [str(error)]
    if summary is None:
        return read_status(folder), []
    if not isinstance(summary, dict) or summary.get("state") not in SEALED:
        message = f"{folder.summary}: says neither finished nor diverged; delete it, the run will write it again"
        return RunStatus("lost", {}, None), [message]
    return RunStatus(summary["state"], {}, summary), []


def listed(items: Iterable[str], limit: int = 5) -> str:
    """``items`` in a row, the ones beyond ``limit`` as a count."""
    items = list(items)
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return "; ".join(items[:limit] + more)


def torn_note(torn: Mapping[str, int]) -> list[str]:
    """The note on unreadable lines, counted by file; none when there are none."""
    if not torn:
        return []
    total = sum(torn.values())
    lines = "line" if total == 1 else "lines"
    return [f"{total} torn {lines} skipped: {listed(f'{path} ({count})' for path, count in torn.items())}"]


def _seal_notes(path: str, summary: Mapping[str, Any], measured: Mark | None) -> list[str]:
    """A note when ``metrics.jsonl`` no longer has the length it was sealed with."""
    sealed = summary.get("metrics")
    if not isinstance(sealed, dict) or "bytes" not in sealed or (measured and measured[0] == sealed["bytes"]):
        return []
    file = RunFolder(Path(path)).metrics
    if measured is None:
        return [f"{file}: missing, though the run is sealed; its curves are lost, its result is not"]
    return [
        f"{file}: {measured[0]} bytes, but sealed with {sealed['bytes']}; "
        "changed or damaged after the run ended, its result is as sealed"
    ]


@without_garbage_collection()
def _read_directory(
    directory: str, asked: Mapping[str, Mark], *, rebuild: bool
) -> list[tuple[RunRecord | None, list[str]]]:
    """Each run's record, None for one that is left out, and the notes on it; ``asked`` has the mark of ``run.json``."""
    # a run alone is read as fast as a cache would be, and its folder holds nothing but what a run writes
    place = directory if asked and list(asked) != [directory] else None
    if rebuild and place:
        remove_cache(place)
    cache = DocumentCache(CacheFolder(place))
    found = [
        _read_record(path, Place(directory, name_below(directory, path)), mark, cache) for path, mark in asked.items()
    ]
    cache.save(directory)
    return found


def _read_record(path: str, place: Place, asked: Mark, cache: DocumentCache) -> tuple[RunRecord | None, list[str]]:
    # the marks are taken before the files are read: what is written meanwhile is read again next time
    sealed = mark_of(f"{path}/summary.json")
    known = cache.get(place.name, asked, sealed)
    document, notes = (known, []) if known else _read_run_json(RunFolder(Path(path)))
    if document is None:
        return None, notes
    if known and known.summary:
        status = RunStatus(known.summary["state"], {}, known.summary)
    else:
        status, notes = read_state(RunFolder(Path(path)))
        if not known and not notes and (sealed is None) == (status.summary is None):
            cache.put(place.name, asked, sealed, replace(document, summary=status.summary))
    measured = mark_of(f"{path}/metrics.jsonl")
    record = RunRecord(
        path=path,
        place=place,
        measured=measured,
        run_id=document.run_id,
        sweep=document.sweep,
        swept=document.swept,
        config=document.config,
        created=document.created,
        code=document.code,
        status=status,
    )
    return record, notes + _seal_notes(path, record.summary, measured)


def _read_run_json(folder: RunFolder) -> tuple[Document | None, list[str]]:
    """What was asked for; None, and the reason as a note, when nobody can know it."""
    try:
        content: Any = without_surrogates(read_json(folder.run_json))
    except (ValueError, OSError) as error:
        return None, [_left_out(folder, f"not readable ({error})")]
    odd = _what_is_missing(content)
    if odd:
        return None, [_left_out(folder, f"has no {', '.join(odd)}")]
    code = content.get("code")
    document = Document(
        run_id=content["run_id"],
        sweep=content["sweep"],
        created=str(content.get("created", "")),
        code=_code_text(content.get("schema_version"), code if isinstance(code, Mapping) else {}),
        swept=content.get("swept") or {},
        config=content["config"],
        summary=None,
    )
    return document, []


def _left_out(folder: RunFolder, what: str) -> str:
    return f"{folder.run_json}: {what}; the run is left out, delete its folder and launch the sweep again"


def _what_is_missing(content: Any) -> list[str]:
    if not isinstance(content, Mapping):
        return ["run_id", "sweep", "config"]
    missing = [key for key in ("run_id", "sweep") if not isinstance(content.get(key), str)]
    config = content.get("config")
    if not isinstance(config, Mapping):
        return [*missing, "config"]
    if not isinstance(config.get("seed"), int):
        missing.append("config.seed")
    if not isinstance(content.get("swept") or {}, Mapping):
        missing.append("swept")
    return missing


def _code_text(schema: Any, code: Mapping[str, Any]) -> str:
    return " ".join([f"schema={schema}", *(f"{key}={value}" for key, value in sorted(code.items()))])
