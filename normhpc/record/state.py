"""What became of a run, derived from its record alone.

=========== =================================================================================================
new         no event: nobody has started it
submitted   handed to a launcher that still holds it
running     a process trains it now
finished    sealed by a summary
diverged    sealed by a summary: the loss stopped being a number; a result, not a fault
failed      its last event is an error
cancelled   stopped by the user; goes on with the next launch
lost        was submitted or running, and nobody holds it any more; goes on with the next launch
=========== =================================================================================================
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from normhpc.errors import DamagedError
from normhpc.files import read_json
from normhpc.record.folder import RunFolder, host_name
from normhpc.record.journal import read_journal
from normhpc.record.lock import is_locked

State = Literal["new", "submitted", "running", "finished", "failed", "diverged", "cancelled", "lost"]
STATES: tuple[State, ...] = get_args(State)

SEALED: frozenset[State] = frozenset({"finished", "diverged"})
"""The run has its result; nothing will change any more."""
IN_FLIGHT: frozenset[State] = frozenset({"submitted", "running"})
"""Somebody is at it."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """State of a run, the newest event that says so, and the result when there is one."""

    state: State
    event: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    torn_lines: int = 0


def read_status(folder: RunFolder) -> RunStatus:
    """Derive the state of the run in ``folder``."""
    summary = read_summary(folder)
    if summary is not None:
        return RunStatus(summary["state"], {}, summary)
    events, torn = read_journal(folder.events)
    event = last_turning_point(events)
    return RunStatus(_state_after(event, folder), event, None, torn)


def read_summary(folder: RunFolder) -> dict[str, Any] | None:
    """``summary.json``, or None while the run is not sealed."""
    try:
        summary: dict[str, Any] = read_json(folder.summary)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedError(f"{folder.summary}: not JSON ({error}); delete it, the run will write it again") from None
    return summary


_TURNING_POINTS = frozenset({"submitted", "started", "resumed", "preempted", "requeued", "lost", "failed", "cancelled"})

_LAST_WORDS = frozenset({"preempted", "lost"})


def last_turning_point(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The newest event that decides a state; an empty mapping when there is none.

    A run that is cancelled still says that it has saved itself, and its launcher that it is gone: it stays cancelled.
    """
    newest: Mapping[str, Any] = {}
    for event in events:
        kind = event.get("event")
        if kind in _TURNING_POINTS and not (newest.get("event") == "cancelled" and kind in _LAST_WORDS):
            newest = event
    return newest


def _state_after(event: Mapping[str, Any], folder: RunFolder) -> State:
    match event.get("event"):
        case None:
            return "new"
        case "failed":
            return "failed"
        case "cancelled":
            return "cancelled"
        case "submitted" | "requeued":
            # a local launcher holds its sweep's folder for as long as it lives
            return "submitted" if folder.is_held() or is_locked(folder.path.parent) else "lost"
        case "started" | "resumed":
            elsewhere = event.get("host") != host_name()
            return "running" if elsewhere or folder.is_held() else "lost"
    return "lost"


def state_with_queue(state: State, folder: RunFolder, queued: Mapping[str, State] | None) -> State:
    """``state`` as the record tells it, corrected by what a cluster's queue has of the sweep's runs.

    The queue goes before the record; a run in flight that neither the queue nor a process here has is lost. None for
    ``queued`` when no queue was involved.
    """
    if queued is None:
        return state
    if folder.path.name in queued:
        return queued[folder.path.name]
    return "lost" if state in IN_FLIGHT and not folder.is_held() else state
