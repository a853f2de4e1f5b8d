"""Time of devices in all attempts, from lines written by hand."""

from typing import Any

import pytest

from normhpc.results.attempts import device_seconds


def event(at: str, kind: str, attempt: int | None = None, **details: Any) -> dict[str, Any]:
    own = {} if attempt is None else {"attempt": attempt}
    return {"time": f"2026-01-01T{at}Z", **own, "event": kind, **details}


def line(at: str, attempt: int) -> dict[str, Any]:
    return {"time": f"2026-01-01T{at}Z", "attempt": attempt, "epoch": 1, "split": "train"}


def test_each_attempt_counts_from_its_start_to_its_last_line_by_its_ranks() -> None:
    events = [
        event("10:00:00.000", "submitted"),
        event("10:01:00.000", "started", 1, ranks=4),
        event("10:06:00.000", "preempted", 1),
        # the queue is nobody's time
        event("10:06:01.000", "requeued"),
        event("12:00:00.500", "resumed", 2, ranks=2),
        # what its launcher says when its processes have ended
        event("12:01:00.500", "lost", rank=1),
        event("13:00:00.000", "submitted"),
        event("13:00:10.000", "lost", message="could not be started"),
        event("14:00:00.000", "resumed", 3, ranks=1),
        event("14:00:02.000", "warning", 3),
    ]
    metrics = [line("10:05:00.000", 1), line("12:00:30.000", 2), line("14:00:20.000", 3), line("23:00:00.000", 9)]
    assert device_seconds(events, metrics) == pytest.approx(4 * 300 + 2 * 60 + 1 * 20)


def test_runs_trained_together_have_their_share() -> None:
    events = [event("10:00:00.000", "started", 1, ranks=1, trained_with=["a", "b", "c"])]
    assert device_seconds(events, [line("10:00:30.000", 1)]) == pytest.approx(10)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [event("10:00:00.000", "submitted"), event("11:00:00.000", "lost")],
        [{"event": "started"}, {"event": "failed", "time": "yesterday"}],
        [event("10:00:00.000", "started", 1)],
        # a clock that goes back
        [event("10:00:00.000", "started", 1), event("09:00:00.000", "failed")],
    ],
)
def test_what_tells_no_time_counts_for_nothing(events: list[dict[str, Any]]) -> None:
    assert device_seconds(events, []) == 0


def test_lines_that_are_damaged_count_for_nothing() -> None:
    events = [
        event("10:00:00.000", "started", 1, ranks="two", trained_with=3),
        {"event": "failed", "time": "2026-01-01T23:00:00"},
        event("10:00:30.000", "warning", 1),
    ]
    metrics = [{"time": "2026-01-01T23:00:00", "attempt": 1}, {"time": events[2]["time"], "attempt": [1]}]
    assert device_seconds(events, metrics) == pytest.approx(30)
    assert device_seconds([event("10:00:00.000", "started", [1]), events[2]], metrics) == 0
