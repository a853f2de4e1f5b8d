"""How long the attempts of a run held their devices, also those that came to nothing: from the times of its lines."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

BEGUN = ("started", "resumed")
"""Events with which an attempt begins."""

_ENDED = ("failed", "lost")
"""Said of an attempt by itself or by its launcher, when its processes have just ended."""
_BETWEEN = ("submitted", "requeued", "preempted", "cancelled")
"""Behind these nothing is said of the attempt before."""


@dataclass(slots=True)
class _Attempt:
    number: Any
    begun: datetime
    last: datetime
    devices: float


def device_seconds(events: Iterable[Mapping[str, Any]], metrics: Iterable[Mapping[str, Any]]) -> float:
    """Sum over attempts of ranks times seconds, from the start to the last line that the attempt wrote.

    Of n runs that were to be trained together each has 1/n. Times before the start (loading a program) and after the
    last line of an attempt that ended without a word are not in it. ``events`` and ``metrics`` are the lines of
    ``events.jsonl`` and ``metrics.jsonl``; those without a time of a zone count for nothing.
    """
    attempts: list[_Attempt] = []
    speaking = False
    for event in events:
        time, kind = _time_of(event), event.get("event")
        if time is None:
            continue
        if kind in BEGUN:
            devices = _count(event.get("ranks")) / _together(event.get("trained_with"))
            attempts.append(_Attempt(event.get("attempt"), time, time, devices))
            speaking = True
        elif attempts and (event.get("attempt") == attempts[-1].number or (speaking and kind in _ENDED)):
            attempts[-1].last = max(attempts[-1].last, time)
        speaking = speaking and kind not in _ENDED + _BETWEEN
    by_number = {attempt.number: attempt for attempt in attempts if isinstance(attempt.number, int)}
    for line in metrics:
        time, number = _time_of(line), line.get("attempt")
        own = by_number.get(number) if isinstance(number, int) else None
        if own is not None and time is not None:
            own.last = max(own.last, time)
    return sum((one.last - one.begun).total_seconds() * one.devices for one in attempts)


def _time_of(line: Mapping[str, Any]) -> datetime | None:
    try:
        time = datetime.fromisoformat(line["time"])
    except (KeyError, TypeError, ValueError):
        return None
    return time if time.tzinfo is not None else None


def _count(ranks: Any) -> int:
    return ranks if isinstance(ranks, int) else 1


def _together(trained_with: Any) -> int:
    return max(1, len(trained_with)) if isinstance(trained_with, list) else 1
