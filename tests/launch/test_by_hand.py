"""Runs trained without a launcher: their folders, alone and under torchrun, and what a finished one says."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.launches import SWEEP, events, normhpc, rows, until
from support.trainings import TINY, new_run

from normhpc.files import read_json, replace_json
from normhpc.record import RunFolder, read_status

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["-m", "normhpc", "train"]
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("fakes.yaml").write_text(SWEEP)


def test_limit_0_makes_folders_and_launches_nothing() -> None:
    answer = normhpc("sweep", "fakes.yaml", "--local", "--limit", 0, "--only", "norm=batch")
    folders = sorted(Path("runs/fakes").iterdir())
    assert (answer.code, answer.out, len(folders)) == (0, "", 2)
    *told, last = answer.err.splitlines()
    assert sorted(told) == [str(folder) for folder in folders]
    assert last == f"2 folders made, nothing launched; train one: normhpc train {told[0]}"
    for folder in folders:
        assert [file.name for file in folder.iterdir()] == ["run.json"]
        info = RunFolder(folder).read_run()
        assert (info.sweep, info.config.norm.name, info.resources.minutes) == ("fakes", "batch", 30)
        assert read_status(RunFolder(folder)).state == "new"


def test_limit_0_as_json_leaves_runs_that_are_there_as_they_are() -> None:
    assert normhpc("sweep", "fakes.yaml", "--local", "--limit", 1).code == 0
    (done,) = Path("runs/fakes").iterdir()
    before = {file.name: file.read_bytes() for file in done.iterdir()}
    answer = normhpc("sweep", "fakes.yaml", "--limit", 0, "--json")
    document = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert sorted(document["folders"]) == sorted(str(folder) for folder in Path("runs/fakes").iterdir())
    assert len(document["folders"]) == 4
    assert {file.name: file.read_bytes() for file in done.iterdir()} == before


def test_limit_0_of_a_dry_run_touches_nothing() -> None:
    answer = normhpc("sweep", "fakes.yaml", "--limit", 0, "--dry-run")
    assert answer.code == 0
    assert "to launch: 0 runs" in answer.out
    assert not Path("runs").exists()


def test_a_made_folder_is_launched_like_a_new_run() -> None:
    normhpc("sweep", "fakes.yaml", "--local", "--limit", 0)
    assert normhpc("sweep", "fakes.yaml", "--local").code == 0
    assert {read_status(RunFolder(folder)).state for folder in Path("runs/fakes").iterdir()} == {"finished"}


def test_a_finished_run_says_so_with_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_run(Path("run"), TINY)
    final = {"val_top1": 0.5, "test_loss": 1.23456, "test_top1": 0.75, "odd": None}
    replace_json(folder.summary, {"state": "finished", "epochs": 2, "final": final})
    told = "run: finished already, 2 epochs: val_top1 0.5000 test_loss 1.2346 test_top1 0.7500\n"
    assert normhpc("train", "run") == (0, told, "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "1")
    assert normhpc("train", "run") == (0, "", "")


def test_a_diverged_run_says_so() -> None:
    folder = new_run(Path("run"), TINY)
    replace_json(folder.summary, {"state": "diverged", "epochs": 1, "diverged_at_step": 7, "final": {}})
    assert normhpc("train", "run") == (0, "run: diverged already, at step 7\n", "")


def test_alone_and_under_torchrun(tmp_path: Path) -> None:
    alone, together = (new_run(tmp_path / name, TINY) for name in ("alone", "together"))
    for folder, command in ((alone, [sys.executable]), (together, TORCHRUN)):
        done = subprocess.run([*command, *TRAIN, str(folder.path)], env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("epoch 2/2 test loss ")
        assert events(folder.path) == ["started", "finished"]
    summaries = [read_json(folder.summary) for folder in (alone, together)]
    assert [(summary["ranks"], summary["images_per_rank"]) for summary in summaries] == [(1, [9]), (2, [4, 5])]
    assert len(rows(together.path / "metrics.jsonl")) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_that_is_stopped_lets_the_run_save_itself(tmp_path: Path, number: signal.Signals) -> None:
    folder = new_run(tmp_path / "run", TINY, {"epochs": 100_000})
    process = subprocess.Popen(
        [*TORCHRUN, *TRAIN, str(folder.path)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: len(rows(folder.metrics)) > 4)
        process.send_signal(number)
        process.wait(60)
    finally:
        process.kill()
    assert events(folder.path) == ["started", "preempted"]
    assert read_status(folder).state == "lost"
    assert folder.checkpoint.is_file()
