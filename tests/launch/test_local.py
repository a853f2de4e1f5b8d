"""The queue: order, slots, environment of the ranks, logs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.bench import Bench, cores
from support.launches import events, rows

from normhpc.launch.slots import Slot


def most_at_once(trace: list[dict]) -> int:
    """Ranks alive at the busiest moment."""
    moments = sorted((row["at"], 1 if row["what"] == "start" else -1) for row in trace)
    alive = [sum(change for _, change in moments[: index + 1]) for index in range(len(moments))]
    return max(alive)


def test_every_run_once_in_order_on_at_most_so_many_slots(bench: Bench, quiet_environment: Path) -> None:
    names = [f"run{number}" for number in range(6)]
    assert bench.launch(cores(2), *map(bench.job, names)) is True
    assert [name for name, _ in bench.notes.started_runs] == names
    assert sorted(bench.notes.ended_runs) == [(name, "finished") for name in names]
    assert bench.notes.busiest == 2
    trace = rows(quiet_environment)
    assert most_at_once(trace) <= 2
    assert sorted(row["run"] for row in trace if row["what"] == "start") == names
    for name in names:
        assert events(bench.run(name)) == ["submitted", "started", "finished"]


def test_run_of_two_ranks_holds_two_slots_and_keeps_its_place(bench: Bench, quiet_environment: Path) -> None:
    jobs = [bench.job("a"), bench.job("wide", 2), bench.job("b"), bench.job("c")]
    assert bench.launch(cores(2), *jobs)
    assert bench.notes.started_runs == [("a", [0]), ("wide", [0, 1]), ("b", [0]), ("c", [1])]
    trace = rows(quiet_environment)
    assert most_at_once(trace) <= 2
    wide = [(row["RANK"], row["LOCAL_RANK"], row["WORLD_SIZE"]) for row in trace if row["run"] == "wide"]
    assert sorted(wide) == [("0", "0", "2"), ("0", "0", "2"), ("1", "1", "2"), ("1", "1", "2")]


def test_more_ranks_than_cores_take_all_slots(bench: Bench) -> None:
    assert bench.launch(cores(2), bench.job("a"), bench.job("wide", 3), bench.job("b"))
    assert bench.notes.started_runs == [("a", [0]), ("wide", [0, 1]), ("b", [0])]


def test_runs_share_gpus_and_ranks_of_one_run_do_not(bench: Bench, quiet_environment: Path) -> None:
    slots = [Slot(0, "0"), Slot(1, "1"), Slot(2, "0"), Slot(3, "1")]
    jobs = [bench.job("a"), bench.job("b"), bench.job("wide", 2), bench.job("c"), bench.job("d")]
    assert bench.launch(slots, *jobs)
    assert bench.notes.started_runs[:3] == [("a", [0]), ("b", [1]), ("wide", [2, 3])]
    visible = {row["run"]: row["CUDA_VISIBLE_DEVICES"] for row in rows(quiet_environment)}
    assert [visible["a"], visible["b"], visible["wide"]] == ["0", "1", "0,1"]


def test_ranks_of_one_run_are_on_distinct_gpus(bench: Bench) -> None:
    slots = [Slot(0, "0"), Slot(1, "0"), Slot(2, "1")]
    jobs = [bench.job("wide", 2), bench.job("a"), bench.job("wider", 2), bench.job("b")]
    assert bench.launch(slots, *jobs)
    assert bench.notes.started_runs[:3] == [("wide", [0, 2]), ("a", [1]), ("wider", [0, 2])]


def test_run_without_gpus_sees_none(bench: Bench, quiet_environment: Path) -> None:
    assert bench.launch([Slot(0, "0")], bench.job("a", 0))
    assert {row["CUDA_VISIBLE_DEVICES"] for row in rows(quiet_environment)} == {""}


def test_log_has_whole_lines_under_the_rank_over_attempts(bench: Bench, behave: Callable[..., None]) -> None:
    behave(a={"say": "one\ntwo \u00e9\n\nno newline: "})
    bench.launch(cores(2), bench.job("a", 2))
    lines = (bench.run("a") / "log.txt").read_text().splitlines()
    expected = ["one", "two \u00e9", "", "no newline: epoch 1"]
    assert [line for line in lines if line.startswith("[0] ")] == [f"[0] {text}" for text in expected]
    assert [line for line in lines if line.startswith("[1] ")] == [f"[1] {text}" for text in expected]
    assert len(lines) == 8
    (bench.run("a") / "summary.json").unlink()
    behave(a={"say": "again", "epochs": 1})
    bench.launch(cores(2), bench.job("a", 2))
    later = (bench.run("a") / "log.txt").read_text().splitlines()
    assert later[:8] == lines
    assert sorted(later[8:]) == ["[0] again", "[1] again"]


def test_submitted_event_says_who_launches(bench: Bench) -> None:
    import os
    import platform

    bench.launch(cores(1), bench.job("a"))
    submitted = rows(bench.run("a") / "events.jsonl")[0]
    assert {key: submitted[key] for key in ("event", "launcher", "host", "pid")} == {
        "event": "submitted",
        "launcher": "local",
        "host": platform.node(),
        "pid": os.getpid(),
    }


def test_nothing_is_left_of_the_rendezvous(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    bench.launch(cores(2), bench.job("a", 2))
    assert list(scratch.iterdir()) == []
