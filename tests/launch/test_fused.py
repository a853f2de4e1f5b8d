"""Runs of one cell in one process: which go together, their slot, their logs, their ends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bench import Bench, cores
from support.launches import events, normhpc, rows
from support.trainings import TINY, new_run

from normhpc.config import Resources, RunConfig
from normhpc.launch.ranks import cell_of, together
from normhpc.launch.worker import run_rank
from normhpc.record import read_status
from normhpc.record.journal import read_journal

SWEEP = """
name: cells
base:
  data: {name: synthetic, images: 40, test_images: 12, channels: 2, height: 8, width: 8}
  model: {name: convnet, widths: [4]}
  epochs: 1
  batch_size: 9
matrix: {norm: [batch, none]}
seeds: 2
resources: {fuse: true}
"""


def config(**changes):
    return RunConfig.model_validate({"data": "digits", "model": "convnet", **changes}).to_json()


def test_cells() -> None:
    fuse = Resources(fuse=True)
    assert cell_of(config(), Resources()) is None
    assert cell_of(config(seed=1), fuse) == cell_of(config(seed=2), fuse)
    others = [config(epochs=7), config(norm="layer"), config(checkpoint={"every_epochs": 3})]
    assert cell_of(config(), fuse) not in [cell_of(other, fuse) for other in others]
    assert cell_of(config(), fuse) != cell_of(config(), Resources(fuse=True, cpus_per_gpu=2))


def test_jobs_of_a_cell_are_one(bench: Bench) -> None:
    cells = {"a": "x", "b": None, "c": "y", "d": "x", "e": None, "f": "x"}
    found = together(bench.job(name, cell=cell) for name, cell in cells.items())
    assert [[job.label for job in one.runs] for one in found] == [["a", "d", "f"], ["b"], ["c"], ["e"]]


def test_one_slot_one_process_and_the_log_of_each(
    bench: Bench, quiet_environment: Path, behave: Callable[..., None]
) -> None:
    behave(a={"say": "of a\n"}, b={"say": "of b\n"})
    jobs = together([bench.job("a", cell="x"), bench.job("c"), bench.job("b", cell="x")])
    assert bench.launch(cores(1), *jobs) is True
    assert bench.notes.started_runs == [("a", [0]), ("b", [0]), ("c", [0])]
    assert bench.notes.ended_runs == [("a", "finished"), ("b", "finished"), ("c", "finished")]
    assert bench.notes.busiest == 1
    pids = {row["run"]: row["pid"] for row in rows(quiet_environment)}
    assert pids["a"] == pids["b"] != pids["c"]
    told = "[0] of a\n[0] epoch 1\n[0] of b\n[0] epoch 1\n"
    assert [(bench.run(name) / "log.txt").read_text() for name in "ab"] == [told, told]
    for name in "abc":
        assert events(bench.run(name)) == ["submitted", "started", "finished"]


def test_a_killed_process_loses_what_is_not_over(bench: Bench, behave: Callable[..., None]) -> None:
    behave(b={"faults": {"0": "die"}})
    assert bench.launch(cores(1), *together([bench.job(name, cell="x") for name in "abc"]))
    assert bench.notes.ended_runs == [("a", "finished"), ("b", "lost"), ("c", "lost")]
    (lost,) = [row for row in read_journal(bench.run("b") / "events.jsonl").rows if row["event"] == "lost"]
    assert "was killed by SIGKILL" in lost["message"]


def test_one_that_failed_is_not_told_of_the_others(bench: Bench, behave: Callable[..., None]) -> None:
    behave(a={"faults": {"0": "raise"}})
    assert bench.launch(cores(1), *together([bench.job(name, cell="x") for name in "ab"]))
    assert bench.notes.ended_runs == [("a", "failed"), ("b", "failed")]
    assert [
        row["message"] for row in read_journal(bench.run("a") / "events.jsonl").rows if row["event"] == "failed"
    ] == ["no good\nat all"]


def test_a_run_folder_that_cannot_be_made(bench: Bench) -> None:
    bench.folder.mkdir()
    (bench.folder / "b").write_text("in the way")
    with pytest.raises(Exception, match="cannot be started") as raised:
        bench.launch(cores(1), *together([bench.job(name, cell="x") for name in "ab"]))
    assert "nothing more was launched" in str(raised.value)


def test_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_environment: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cells.yaml").write_text(SWEEP)
    done = normhpc("sweep", "cells.yaml", "--local", "--slots", "1")
    assert done.code == 0, done.err
    runs = {}
    for row in rows(quiet_environment):
        if row["what"] == "start":
            runs.setdefault(row["pid"], []).append(Path("runs/cells") / row["run"])
    kept = [[json.loads((run / "run.json").read_text())["config"] for run in together] for together in runs.values()]
    assert [[(one["norm"]["name"], one["seed"]) for one in together] for together in kept] == [
        [("batch", 0), ("batch", 1)],
        [("none", 0), ("none", 1)],
    ]


def test_several_ranks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cells.yaml").write_text(SWEEP.replace("{fuse: true}", "{gpus_per_node: 2, fuse: true}"))
    refused = normhpc("sweep", "cells.yaml", "--local", "--dry-run")
    assert (refused.code, refused.err) == (
        2,
        "cells.yaml:10:37: resources.fuse: true goes with runs of one rank, got nodes x gpus_per_node = 2; "
        "set it to false\n",
    )


def test_train_of_several_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [new_run(tmp_path / f"run{seed}", TINY, {"seed": seed}) for seed in range(3)]
    assert run_rank(folders[0].path) == 0
    capsys.readouterr()
    assert run_rank(*(folder.path for folder in folders)) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folders[0].path}: finished already, 2 epochs: train_loss ")
    assert [line.split(" train ")[0] for line in out.splitlines() if " train " in line] == [
        f"seed {seed}: epoch {epoch}/2" for epoch in (1, 2) for seed in (1, 2)
    ]
    assert [read_status(folder).state for folder in folders] == ["finished"] * 3
    other = new_run(tmp_path / "other", TINY, {"epochs": 3})
    fresh = new_run(tmp_path / "fresh", TINY, {"seed": 5})
    assert run_rank(other.path, fresh.path) == 2
    assert "got another in epochs; train the runs one by one" in capsys.readouterr().err
