"""The state of a run from its files alone, in every combination."""

import itertools

import pytest

from normhpc.config import Resources, RunConfig
from normhpc.errors import DamagedError
from normhpc.files import replace_json
from normhpc.record import IN_FLIGHT, SEALED, STATES, RunFolder, append_event, read_status, read_summary
from normhpc.record.folder import host_name
from normhpc.record.lock import exclusive_lock

HERE = host_name()

# newest event, its host, run held by a trainer, sweep held by a launcher -> state
TABLE = {
    (None, None): "new new new new",
    ("submitted", HERE): "lost submitted submitted submitted",
    ("requeued", HERE): "lost submitted submitted submitted",
    ("started", HERE): "lost lost running running",
    ("resumed", HERE): "lost lost running running",
    ("started", "elsewhere"): "running running running running",
    ("resumed", "elsewhere"): "running running running running",
    ("preempted", HERE): "lost lost lost lost",
    ("lost", HERE): "lost lost lost lost",
    ("failed", HERE): "failed failed failed failed",
    ("cancelled", HERE): "cancelled cancelled cancelled cancelled",
}
HELD = [(False, False), (False, True), (True, False), (True, True)]
"""(run, sweep) for the four words of each line."""


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "sweep" / "run")
    folder.create(RunConfig(), sweep="demo", swept={}, resources=Resources(), code={})
    return folder


def state(folder, run_held=False, sweep_held=False):
    import contextlib

    with contextlib.ExitStack() as held:
        if run_held:
            held.enter_context(folder.held_for_training())
        if sweep_held:
            held.enter_context(exclusive_lock(folder.path.parent, "busy"))
        return read_status(folder).state


@pytest.mark.parametrize(("event", "host"), TABLE)
def test_newest_event_and_locks(folder, event, host):
    if event is not None:
        append_event(folder, "submitted", host=HERE)
        append_event(folder, event, host=host)
    for (run_held, sweep_held), expected in zip(HELD, TABLE[event, host].split(), strict=True):
        assert state(folder, run_held, sweep_held) == expected, (run_held, sweep_held)


@pytest.mark.parametrize("event", ["warning", "finished", "diverged", "something new"])
@pytest.mark.parametrize("before", ["submitted", "started", "failed", "cancelled"])
def test_other_events_decide_nothing(folder, before, event):
    append_event(folder, before, host=HERE)
    expected = state(folder, run_held=True)
    append_event(folder, event, host=HERE)
    assert state(folder, run_held=True) == expected


@pytest.mark.parametrize("event", ["started", "failed", "cancelled", None])
@pytest.mark.parametrize("sealed", sorted(SEALED))
def test_a_summary_decides_everything(folder, event, sealed):
    if event is not None:
        append_event(folder, event, host=HERE)
    replace_json(folder.summary, {"state": sealed})
    for run_held, sweep_held in HELD:
        assert state(folder, run_held, sweep_held) == sealed


def test_the_newest_turn_counts(folder):
    turns = {"started": "running", "failed": "failed", "cancelled": "cancelled", "preempted": "lost"}
    for first, second in itertools.permutations(turns, 2):
        append_event(folder, first, host=HERE)
        append_event(folder, second, host=HERE)
        stays = (first, second) == ("cancelled", "preempted")
        status = read_status(folder) if second != "started" else None
        assert state(folder, run_held=True) == turns[first if stays else second]
        if status is not None:
            assert status.event["event"] == (first if stays else second)


def test_a_cancelled_run_that_saves_itself_and_ends_stays_cancelled(folder):
    for event in ("submitted", "started", "cancelled", "preempted", "lost"):
        append_event(folder, event, host=HERE)
    assert state(folder) == "cancelled"
    append_event(folder, "resumed", host=HERE)
    assert state(folder) == "lost"


def test_torn_lines_are_counted(folder):
    append_event(folder, "failed", message="first")
    with folder.events.open("ab") as file:
        file.write(b'{"event":"canc')
    status = read_status(folder)
    assert (status.state, status.torn_lines, status.event["message"]) == ("failed", 1, "first")


def test_damaged_summary(folder):
    assert read_summary(folder) is None
    folder.summary.write_text('{"state": "fini')
    with pytest.raises(DamagedError, match=r"summary.json: not JSON \(.+\); delete it, the run will write it again$"):
        read_summary(folder)


def test_every_state_can_come_about():
    words = {word for line in TABLE.values() for word in line.split()}
    assert words | SEALED == set(STATES)
    assert not SEALED & IN_FLIGHT
