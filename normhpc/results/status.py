"""How far each sweep is: counts of states, the newest measurement of what runs, the error of what failed.

Reads the records only and imports no pandas: ten thousand records in about a second.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from normhpc.files import read_json
from normhpc.record import IN_FLIGHT, STATES, RunFolder, RunStatus, State, state_with_queue
from normhpc.results.failures import fingerprint
from normhpc.results.find import find_runs, find_runs_if_any
from normhpc.results.records import read_state

_TAIL_BYTES = 65_536
_SUBMISSIONS = ".slurm/journal.jsonl"
_ANALYSES = ".analyses/journal.jsonl"


@dataclass(frozen=True, slots=True)
class Progress:
    """A run in flight and its newest measurement; the numbers are None before the first one."""

    run_id: str
    state: State
    swept: Mapping[str, Any]
    epochs: int | None
    epoch: int | None = None
    split: str | None = None
    loss: float | None = None
    top1: float | None = None
    map_macro: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed run: the class and message of the error that ended it, and which errors are the same fault."""

    run_id: str
    swept: Mapping[str, Any]
    error: str
    message: str
    fingerprint: str
    """See :func:`~normhpc.results.failures.fingerprint`."""


@dataclass(frozen=True, slots=True)
class AnalysisStatus:
    """One analysis that jobs were given for runs of a sweep, and at how many of these runs it is how far."""

    analysis: str
    submitted: int
    running: int
    finished: int
    failed: int
    """Runs without a result whose job has ended."""
    output: str | None
    """File with what the newest job printed that left such a run; None when none did."""


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """One sweep, by the name of its folder. ``counts`` has all eight states.

    ``analyses`` has those that jobs are at, or that failed in one.
    """

    sweep: str
    total: int
    counts: Mapping[State, int]
    in_flight: tuple[Progress, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    analyses: tuple[AnalysisStatus, ...]


class QueueLookup(Protocol):
    """What a cluster's queue tells of the sweep in a folder."""

    def runs_of(self, sweep_folder: Path) -> Mapping[str, State] | None:
        """The runs that the queue has; None where no queue was involved."""

    def analyses_in(self, sweep_folder: Path) -> Sequence[AnalysisStatus]:
        """The analyses that jobs are at, or that failed in one."""


class NoQueue:
    """No cluster is asked. A :class:`QueueLookup`."""

    def runs_of(self, sweep_folder: Path) -> None:
        """No queue was involved."""

    def analyses_in(self, sweep_folder: Path) -> Sequence[AnalysisStatus]:
        """None that anybody knows of."""
        return ()


@dataclass(slots=True)
class _Tally:
    counts: dict[State, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    in_flight: list[Progress] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    analyses: list[AnalysisStatus] = field(default_factory=list)


def sweep_statuses(dirs: Iterable[str | os.PathLike[str]], queue: QueueLookup | None = None) -> list[SweepStatus]:
    """The status of every sweep in ``dirs`` (folders of sweeps, sweeps or runs), by name.

    What ``queue`` has of runs goes before their records: a run in flight that it does not have is lost. None asks no
    cluster. ``dataclasses.asdict`` of a status is JSON. Raises
    :class:`~normhpc.errors.InputError` when there are no runs.
    """
    places = [os.fspath(directory) for directory in dirs]
    tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
    asked = queue or NoQueue()
    queued = {
        sweep: found for sweep in _sweeps_with(_SUBMISSIONS, places) if (found := asked.runs_of(sweep)) is not None
    }
    folders = find_runs(places) if not any(queued.values()) else find_runs_if_any(places)
    for folder in folders:
        status, notes = read_state(folder)
        sweep = folder.path.absolute().parent
        state = state_with_queue(status.state, folder, queued.get(sweep))
        tally = tallies[sweep.name]
        tally.counts[state] += 1
        tally.notes += notes
        if state in IN_FLIGHT:
            tally.in_flight.append(_progress(folder, state))
        elif state == "failed":
            tally.failures.append(_failure(folder, status))
    recorded = {folder.path.name for folder in folders}
    for sweep, runs in queued.items():
        for run_id, state in runs.items():
            if run_id not in recorded:
                tallies[sweep.name].counts[state] += 1
    for sweep in _sweeps_with(_ANALYSES, places):
        if sweep.name in tallies:  # else somebody has taken all its runs away
            tallies[sweep.name].analyses += asked.analyses_in(sweep)
    return [
        SweepStatus(
            sweep=name,
            total=sum(tally.counts.values()),
            counts=tally.counts,
            in_flight=tuple(tally.in_flight),
            failures=tuple(tally.failures),
            notes=tuple(tally.notes),
            analyses=tuple(tally.analyses),
        )
        for name, tally in sorted(tallies.items())
    ]


def _sweeps_with(journal: str, dirs: Iterable[str]) -> list[Path]:
    """Folders of sweeps in ``dirs`` in which there is a ``journal``: something of them was submitted to a cluster."""
    places = [Path(directory).absolute() for directory in dirs]
    found = [place for place in places if (place / journal).exists()]
    return found + [path.parents[1] for place in places for path in sorted(place.glob(f"*/{journal}"))]


def newest_row(folder: RunFolder) -> dict[str, Any]:
    """The last whole line of ``metrics.jsonl``, found from its end; empty when there is none."""
    try:
        with folder.metrics.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "epoch" in row:
            return row
    return {}


def _progress(folder: RunFolder, state: State) -> Progress:
    asked, row = _asked_for(folder), newest_row(folder)
    config = asked.get("config")
    return Progress(
        run_id=folder.path.name,
        state=state,
        swept=asked.get("swept") or {},
        epochs=config.get("epochs") if isinstance(config, Mapping) else None,
        epoch=row.get("epoch"),
        split=row.get("split"),
        loss=row.get("loss"),
        top1=row.get("top1"),
        map_macro=row.get("map_macro"),
    )


def _failure(folder: RunFolder, status: RunStatus) -> Failure:
    return Failure(
        run_id=folder.path.name,
        swept=_asked_for(folder).get("swept") or {},
        error=str(status.event.get("class", "")),
        message=str(status.event.get("message", "")),
        fingerprint=fingerprint(status.event),
    )


def _asked_for(folder: RunFolder) -> Mapping[str, Any]:
    try:
        content = read_json(folder.run_json)
    except (ValueError, OSError):
        # its state counts all the same; collect names the damaged file
        return {}
    return content if isinstance(content, Mapping) else {}
