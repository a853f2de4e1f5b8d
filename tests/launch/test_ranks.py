"""The environment and the end of a rank."""

import os
import sys
import time
from pathlib import Path

import pytest
from support.launches import alive, until

from normhpc.config import Resources
from normhpc.launch.ranks import ActiveRun, Job, rank_environment, train_command
from normhpc.launch.slots import Slot
from normhpc.record import RunFolder


def test_a_rank_is_started_under_this_interpreter() -> None:
    assert train_command(RunFolder(Path("runs/x/y"))) == [sys.executable, "-m", "normhpc", "train", "runs/x/y"]


def test_environment_names_the_place_and_nothing_of_other_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {
        "HOME": "/home/me",
        "MASTER_ADDR": "elsewhere",
        "MASTER_PORT": "1234",
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "8",
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "7",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    needs = Resources(gpus_per_node=2, cpus_per_gpu=3)
    assert rank_environment(needs, [Slot(1, "1"), Slot(3, "3")], 1, Path("/tmp/r")) == {
        "HOME": "/home/me",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "NORMHPC_RENDEZVOUS": "/tmp/r/store",
        "NORMHPC_LAUNCHER_PIPE": "1",
        "OMP_NUM_THREADS": "3",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "1,3",
    }


def test_environment_on_cores_leaves_the_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "kept")
    shown = [
        rank_environment(Resources(gpus_per_node=gpus), [Slot(0)], 0, Path("/tmp"))["CUDA_VISIBLE_DEVICES"]
        for gpus in (1, 0)
    ]
    assert shown == ["kept", ""]


def started(folder: Path, script: str, ranks: int = 1) -> ActiveRun:
    job = Job(RunFolder(folder), "x", Resources(gpus_per_node=ranks), lambda: None)
    run = ActiveRun(job, [Slot(number) for number in range(ranks)])
    run.start(lambda _: [sys.executable, "-S", "-c", script])
    return run


def test_helper_that_outlives_its_rank_neither_lives_on_nor_holds_the_launcher(tmp_path: Path) -> None:
    helper = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    run = started(tmp_path, helper)
    until(run.poll)
    began = time.monotonic()
    run.release()
    assert time.monotonic() - began < 4
    assert run.exits == {0: 0}
    pid = int((tmp_path / "log.txt").read_text().removeprefix("[0] "))
    until(lambda: not alive(pid), 5)


def test_kill_ends_helpers_too_and_says_who_was_still_there(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "if os.environ['RANK'] == '1': sys.exit(3)\n"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
        "time.sleep(600)"
    )
    run = started(tmp_path, script, ranks=2)
    log = tmp_path / "log.txt"
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    until(lambda: run.poll() or run.exits)
    assert run.exits == {1: 3}
    run.kill()
    run.release()
    assert (run.exits, run.killed) == ({1: 3, 0: -9}, frozenset({0}))
    until(lambda: not alive(int(log.read_text().removeprefix("[0] "))), 5)


def test_a_full_disk_under_the_log_does_not_block_the_rank(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    run = started(tmp_path, "print('x' * 1_000_000)")
    until(run.poll)
    run.release()
    assert run.exits == {0: 0}
