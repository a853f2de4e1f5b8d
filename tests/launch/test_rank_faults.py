"""Ranks that die, fail, fall silent or hang: the slot is freed, the record says who, the rest goes on."""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bench import Bench, cores
from support.launches import alive, events, rows

from normhpc.errors import RecordError
from normhpc.launch import ranks
from normhpc.launch.local import Patience
from normhpc.record import RunFolder, read_status

HOST = platform.node()


def last_event(run: Path) -> dict:
    return {key: value for key, value in rows(run / "events.jsonl")[-1].items() if key != "time"}


def test_killed_rank_is_lost_and_goes_on_with_the_next_launch(bench: Bench, behave: Callable[..., None]) -> None:
    behave(a={"faults": {"0": "die"}})
    assert bench.launch(cores(1), bench.job("a"), bench.job("b")) is True
    assert bench.notes.ended_runs == [("a", "lost"), ("b", "finished")]
    message = f"rank 0 on {HOST} was killed by SIGKILL"
    assert last_event(bench.run("a")) == {"event": "lost", "rank": 0, "host": HOST, "message": message}
    behave()
    bench.launch(cores(1), bench.job("a"))
    assert events(bench.run("a")) == ["submitted", "started", "lost", "submitted", "started", "finished"]


def test_peers_of_a_killed_rank_are_killed_when_they_hang(
    bench: Bench, behave: Callable[..., None], quiet_environment: Path
) -> None:
    behave(a={"faults": {"0": "deaf", "1": "die"}})
    began = time.monotonic()
    bench.launch(cores(2), bench.job("a", 2), bench.job("b"), patience=Patience(peers=0.5))
    assert time.monotonic() - began < 15
    assert bench.notes.ended_runs == [("a", "lost"), ("b", "finished")]
    message = f"rank 1 on {HOST} was killed by SIGKILL"
    assert last_event(bench.run("a")) == {"event": "lost", "rank": 1, "host": HOST, "message": message}
    assert not any(alive(row["pid"]) for row in rows(quiet_environment))


@pytest.mark.parametrize("ranks", [1, 2])
def test_exception_is_a_failure_told_by_the_rank(ranks: int, bench: Bench, behave: Callable[..., None]) -> None:
    behave(a={"epoch_seconds": 60, "faults": {str(ranks - 1): "raise"}})
    bench.launch(cores(ranks), bench.job("a", ranks), patience=Patience(peers=0.1))
    assert bench.notes.ended_runs == [("a", "failed")]
    status = read_status(RunFolder(bench.run("a")))
    assert (status.event["class"], status.event["message"]) == ("ValueError", "no good\nat all")
    assert events(bench.run("a")).count("failed") == 1


def test_silent_end_is_a_failure_told_by_the_launcher(bench: Bench, behave: Callable[..., None]) -> None:
    behave(a={"epoch_seconds": 30, "faults": {"1": "silent"}})
    bench.launch(cores(2), bench.job("a", 2), patience=Patience(peers=0.3))
    assert bench.notes.ended_runs == [("a", "failed")]
    log = bench.run("a") / "log.txt"
    message = f"ranks ended with exit codes -9, 3; see {log}"
    assert last_event(bench.run("a")) == {"event": "failed", "class": "ExitCode", "message": message, "host": HOST}


def test_rank_that_is_stopped_by_hand_says_so(bench: Bench, behave: Callable[..., None]) -> None:
    behave(a={"epochs": 100})

    def stop() -> None:
        while "started" not in (events(bench.run("a")) if bench.folder.exists() else []):
            time.sleep(0.02)
        os.kill(rows(Path(os.environ["FAKE_TRACE"]))[0]["pid"], signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert bench.launch(cores(1), bench.job("a")) is True
    thread.join()
    assert bench.notes.ended_runs == [("a", "lost")]
    assert events(bench.run("a")) == ["submitted", "started", "preempted", "lost"]
    assert last_event(bench.run("a"))["message"] == f"rank 0 on {HOST} was stopped and saved the run"


def test_run_whose_folder_cannot_be_made_ends_the_launch_after_the_others(
    bench: Bench, behave: Callable[..., None]
) -> None:
    behave(a={"epoch_seconds": 1})
    bench.folder.mkdir()
    bench.run("b").write_text("in the way")
    with pytest.raises(RecordError) as caught:
        bench.launch(cores(2), *map(bench.job, "abc"))
    text = (
        f"{bench.run('b')}: cannot be started (File exists); nothing more was launched, the same command goes on from "
        "here"
    )
    assert str(caught.value) == text
    assert bench.notes.lines == [f"{text}; waiting for 1 run under way"]
    assert bench.notes.ended_runs == [("a", "finished")]
    assert not bench.run("c").exists()


def test_run_whose_second_rank_cannot_be_started_leaves_no_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, quiet_environment: Path
) -> None:
    def environment(*arguments: object) -> dict[str, str]:
        if arguments[2] == 1:
            raise OSError(11, "Resource temporarily unavailable")
        return real(*arguments)  # type: ignore[arg-type]

    real = ranks.rank_environment
    monkeypatch.setattr(ranks, "rank_environment", environment)
    with pytest.raises(
        RecordError, match=r": cannot be started \(Resource temporarily unavailable\); nothing more was"
    ):
        bench.launch(cores(2), bench.job("a", 2))
    assert bench.notes.ended_runs == [("a", "lost")]
    assert last_event(bench.run("a")) == {
        "event": "lost",
        "host": HOST,
        "message": f"the run could not be started on {HOST}",
    }
    assert not any(alive(row["pid"]) for row in rows(quiet_environment))


def test_launcher_that_fails_takes_its_ranks_along(
    bench: Bench, behave: Callable[..., None], monkeypatch: pytest.MonkeyPatch, quiet_environment: Path
) -> None:
    behave(a={"epoch_seconds": 600})

    def burst(*_: object) -> None:
        if "started" in events(bench.run("a")):
            raise ZeroDivisionError

    monkeypatch.setattr(bench.notes, "tick", burst)
    with pytest.raises(ZeroDivisionError):
        bench.launch(cores(1), bench.job("a"))
    assert not any(alive(row["pid"]) for row in rows(quiet_environment))
    assert bench.notes.ended_runs == [("a", "lost")]
