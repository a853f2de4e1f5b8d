"""A rank whose launcher is gone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.launches import until

ENVIRONMENT = os.environ | {"NORMHPC_LAUNCHER_PIPE": "1"}

WATCHED = """
import sys, time
from normhpc.launch import worker
worker._PATIENCE_SECONDS = {patience}
class Stop:
    reason = None
stop = Stop()
watch = worker.watched_launcher()
if {begun}:
    watch.request = stop
print("ready", flush=True)
while stop.reason is None or {deaf}:
    time.sleep(0.01)
print("saved: " + stop.reason, flush=True)
open(sys.argv[1], "w").write(stop.reason)
"""


def rank(tmp_path: Path, *, begun: bool, deaf: bool = False, patience: float = 30) -> subprocess.Popen[bytes]:
    script = WATCHED.format(begun=begun, deaf=deaf, patience=patience)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "saved")], env=ENVIRONMENT, stdin=pipe, stdout=pipe
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def lose_launcher(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()  # nobody reads any more: printing would fail
    process.stdin.close()


def test_training_is_asked_to_stop_and_may_still_print(tmp_path: Path) -> None:
    process = rank(tmp_path, begun=True)
    lose_launcher(process)
    assert process.wait(20) == 0
    assert (tmp_path / "saved").read_text() == "the launcher is gone"


def test_what_has_not_begun_ends_at_once(tmp_path: Path) -> None:
    process = rank(tmp_path, begun=False)
    lose_launcher(process)
    assert process.wait(20) == 130
    assert not (tmp_path / "saved").exists()


def test_training_that_does_not_stop_is_ended(tmp_path: Path) -> None:
    process = rank(tmp_path, begun=True, deaf=True, patience=0.3)
    began = time.monotonic()
    lose_launcher(process)
    assert process.wait(20) == 1
    assert 0.3 <= time.monotonic() - began < 10


def test_printing_to_a_launcher_that_is_gone_does_not_fail(tmp_path: Path) -> None:
    process = rank(tmp_path, begun=True)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.close()
    time.sleep(0.1)
    process.stdin.close()
    assert process.wait(20) == 0


def test_rank_started_by_hand_watches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "from normhpc.launch.worker import watched_launcher; print(watched_launcher())"
    environment = {name: value for name, value in os.environ.items() if name != "NORMHPC_LAUNCHER_PIPE"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout == "None\n"


def test_rank_dies_with_its_launcher_while_torch_is_loading(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "normhpc", "train", str(tmp_path)], env=ENVIRONMENT, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.close()
    seconds = until(lambda: process.poll() is not None, 30)
    assert process.returncode == 130
    assert seconds < 10
    assert list(tmp_path.iterdir()) == []
