"""The launcher killed, interrupted or started twice: nothing lost, nothing doubled, the same command goes on."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.launches import SWEEP, alive, events, launching, normhpc, rows, until

from normhpc.record.lock import is_locked

LONG = {"default": {"epochs": 4, "epoch_seconds": 1.0}}
QUICK = {"default": {"epochs": 4, "epoch_seconds": 0.05}}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a sweep of four runs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakes.yaml").write_text(SWEEP)
    return Path("fakes.yaml")


def pids(what: str = "start") -> list[int]:
    return [row["pid"] for row in rows(Path("trace.jsonl")) if row["what"] == what]


def run_folders() -> list[Path]:
    return sorted(path.parent for path in Path("runs/fakes").glob("*/run.json"))


def under_way(count: int) -> None:
    """Wait until so many runs have measured something."""
    until(lambda: sum((run / "metrics.jsonl").exists() for run in run_folders()) >= count)


def go_on(sweep: Path, monkeypatch: pytest.MonkeyPatch, epochs: int = 4) -> None:
    """The same command again finishes everything, each epoch of each run measured once."""
    monkeypatch.setenv("FAKE_RANKS", json.dumps(QUICK))
    answer = normhpc("sweep", sweep, "--local", "--slots", 2)
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.splitlines()[-1].startswith("fakes: launched 4 of 4 runs; 4 finished")
    assert len(run_folders()) == 4
    for run in run_folders():
        assert [row["epoch"] for row in rows(run / "metrics.jsonl")] == list(range(1, epochs + 1))
        assert events(run).count("finished") == 1


def test_killed_launcher(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with launching("sweep", sweep, "--local", "--slots", 2, cwd=tmp_path, fakes=LONG) as launch:
        under_way(2)
        os.kill(launch.process.pid, signal.SIGKILL)
        assert launch.wait() == -9
        assert until(lambda: not any(map(alive, pids()))) < 10
    assert not is_locked(Path("runs/fakes"))
    assert [events(run)[-1] for run in run_folders()] == ["preempted", "preempted"]
    assert [rows(run / "events.jsonl")[-1]["reason"] for run in run_folders()] == ["the launcher is gone"] * 2
    assert [line.split() for line in normhpc("status").out.splitlines()] == [
        ["sweep", "runs", "lost"],
        ["fakes", "2", "2"],
    ]
    go_on(sweep, monkeypatch)


def test_next_launch_waits_for_the_orphans_of_a_killed_one(sweep: Path, tmp_path: Path) -> None:
    slow = {"default": LONG["default"] | {"save_seconds": 6}}
    with launching("sweep", sweep, "--local", "--slots", 2, cwd=tmp_path, fakes=slow) as launch:
        under_way(2)
        os.kill(launch.process.pid, signal.SIGKILL)
        launch.wait()
    with launching("sweep", sweep, "--local", "--slots", 2, cwd=tmp_path, fakes=QUICK) as second:
        assert second.wait() == 0
    told = second.err.splitlines()
    assert told[0] == "waiting for 2 runs without a launcher to save and end"
    assert told[-1] == "fakes: launched 4 of 4 runs; 4 finished"
    for run in run_folders():
        assert [row["epoch"] for row in rows(run / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_launcher(
    number: signal.Signals, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with launching("sweep", sweep, "--local", "--slots", 2, cwd=tmp_path, fakes=LONG) as launch:
        under_way(2)
        os.killpg(launch.process.pid, number)  # what a terminal does on Ctrl-C
        assert launch.wait() == 130
    assert not any(map(alive, pids()))
    for run in run_folders():
        assert events(run) == ["submitted", "started", "preempted", "cancelled"]
        assert rows(run / "events.jsonl")[-1]["reason"] == "the launcher was interrupted"
    told = launch.err.splitlines()
    assert "stopping: 2 runs under way to save first; Ctrl-C again kills at once" in told
    assert told[-2:] == [
        "fakes: launched 2 of 4 runs; 2 new, 2 cancelled",
        "interrupted; the same command goes on from here",
    ]
    go_on(sweep, monkeypatch)


def test_second_interrupt_kills_at_once(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = {"default": {"faults": {"0": "deaf"}}}
    with launching("sweep", sweep, "--local", "--slots", 2, cwd=tmp_path, fakes=deaf) as launch:
        until(lambda: sum("started" in events(run) for run in run_folders()) == 2)
        launch.process.send_signal(signal.SIGINT)
        until(lambda: "Ctrl-C again" in launch.err)
        assert all(map(alive, pids()))
        launch.process.send_signal(signal.SIGINT)
        assert launch.wait(10) == 130
    assert not any(map(alive, pids()))
    assert [events(run)[-1] for run in run_folders()] == ["cancelled", "cancelled"]
    go_on(sweep, monkeypatch)


def test_two_launchers_of_one_sweep(sweep: Path, tmp_path: Path) -> None:
    fakes = {"default": {"epochs": 2, "epoch_seconds": 0.7}}

    busy = "another normhpc sweep is launching this sweep; watch it with: normhpc status runs/fakes"
    with launching("sweep", sweep, "--local", "--slots", 2, cwd=tmp_path, fakes=fakes) as launch:
        under_way(1)
        assert normhpc("sweep", sweep, "--local") == (1, "", f"error: runs/fakes: {busy}\n")
        assert launch.process.poll() is None
        assert launch.wait() == 0
    assert len(pids()) == 4
    for run in run_folders():
        assert events(run) == ["submitted", "started", "finished"]
