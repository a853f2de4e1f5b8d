"""Cancelling, retrying and putting aside, on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.launches import SWEEP, launching, normhpc, until

from normhpc.errors import InputError
from normhpc.launch.operate import retry
from normhpc.launch.targets import find_target
from normhpc.record import RunFolder, append_event, read_status
from normhpc.record.folder import host_name, run_folders

FOLDER = Path("runs") / "fakes"

FAKE_RANK = Path(__file__).parents[1] / "support" / "fake_rank.py"


@pytest.fixture(autouse=True)
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("FAKE_RANKS", "{}")
    Path("fakes.yaml").write_text(SWEEP)


def again(target: str, why: str | None = None) -> tuple[int, list[str]]:
    console = Console(file=Path("told").open("w"), width=200)  # noqa: SIM115
    with console.file:
        code = retry(
            find_target(target, Path("runs")),
            why,  # type: ignore[arg-type]
            console,
            command=lambda folder: [sys.executable, str(FAKE_RANK), str(folder.path)],
        )
    return code, Path("told").read_text().splitlines()


def fail(folder: RunFolder, message: str) -> None:
    folder.summary.unlink()
    append_event(folder, "failed", **{"class": "RuntimeError"}, message=message)


def test_retry_launches_what_failed_with_more_of_what_it_lacked() -> None:
    assert normhpc("sweep", "fakes.yaml", "--local", "--slots", "1").code == 0
    first, second, third, fourth = run_folders(FOLDER)
    fail(first, "CUDA out of memory")
    fail(second, "no good")
    fail(third, "no good")
    code, told = again("fakes.yaml", "oom")
    assert code == 0
    assert told[3].split(" ", 3)[2:] == [
        "",
        f"{first.path.name}  data=synthetic model=convnet norm=none seed=0 (slot 0)",
    ]
    assert told[-1] == "fakes: retried 1 run; 1 finished"
    assert [line.split("  ", 1)[1] for line in told[:2]] == [
        "2 runs  error  RuntimeError: no good",
        "1 run  oom  RuntimeError: CUDA out of memory",
    ]
    assert [read_status(folder).state for folder in (first, second, third)] == ["finished", "failed", "failed"]
    assert first.read_run().resources.mem_gb_per_gpu == 8.0
    assert again(str(FOLDER))[0] == 0
    assert [read_status(folder).state for folder in run_folders(FOLDER)] == ["finished"] * 4
    assert second.read_run().resources == fourth.read_run().resources
    assert again("fakes") == (0, ["fakes: nothing to retry"])


def test_a_target_is_a_run_or_a_sweep() -> None:
    assert normhpc("sweep", "fakes.yaml", "--local", "--slots", "1", "--limit", "2").code == 0
    runs = run_folders(FOLDER)
    one = find_target(runs[0].path.name, Path("runs"))
    assert (one.sweep_folder, [run.path for run in one.runs], one.whole) == (FOLDER.absolute(), [runs[0].path], False)
    for name in ("fakes.yaml", "fakes", "runs/fakes"):
        whole = find_target(name, Path("runs"))
        assert ([run.path.name for run in whole.runs], whole.whole) == ([run.path.name for run in runs], True)
    with pytest.raises(InputError) as error:
        find_target("other", Path("runs"))
    assert str(error.value) == (
        "other: no such run or sweep in runs/; give its folder or the start of its id (normhpc collect --per-run)"
    )


def test_cancel_stops_a_run_of_this_machine() -> None:
    assert normhpc("sweep", "fakes.yaml", "--local", "--slots", "1", "--limit", "1").code == 0
    (run,) = run_folders(FOLDER)
    run.summary.unlink()
    held = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", held, str(run.events)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        append_event(run, "resumed", host=host_name(), pids=[process.pid])
        assert read_status(run).state == "running"
        answer = normhpc("cancel", run.path.name)
        assert (answer.code, answer.err) == (0, "fakes: 1 run cancelled\n")
        assert process.wait(10) == -15
    assert read_status(run).state == "cancelled"
    assert normhpc("cancel", "fakes").err == "fakes: 0 runs cancelled\n"


def test_cancelling_a_sweep_ends_its_launcher_too(tmp_path: Path) -> None:
    fakes = {"default": {"epochs": 60, "epoch_seconds": 1.0}}
    with launching("sweep", "fakes.yaml", "--local", "--slots", 1, cwd=tmp_path, fakes=fakes) as launch:
        until(
            lambda: any((run.path / "metrics.jsonl").exists() for run in run_folders(FOLDER)) if FOLDER.exists() else 0
        )
        answer = normhpc("cancel", "fakes")
        told = "fakes: 1 run cancelled\nthe launch on this machine ends with them and starts no more\n"
        assert (answer.code, answer.err) == (0, told)
        assert launch.wait(20) == 130
        assert "fakes: launched 1 of 4 runs; 3 new, 1 cancelled" in launch.err
    assert [read_status(run).state for run in run_folders(FOLDER)] == ["cancelled"]


def test_cancelling_a_run_leaves_the_others_to_its_launcher(tmp_path: Path) -> None:
    fakes = {"0": {"epochs": 60, "epoch_seconds": 1.0}, "default": {"epochs": 1, "epoch_seconds": 0.01}}
    with launching("sweep", "fakes.yaml", "--local", "--slots", 1, cwd=tmp_path, fakes=fakes) as launch:
        for _ in range(2):  # those of seed 0
            until(lambda: [run for run in FOLDER.glob("*") if is_running(run)])
            [run] = [run for run in FOLDER.glob("*") if is_running(run)]
            assert normhpc("cancel", run).err == "fakes: 1 run cancelled\n"
            until(lambda run=run: read_status(RunFolder(run)).state == "cancelled")
        assert launch.wait(20) == 1
        assert "fakes: launched 4 of 4 runs; 2 finished, 2 cancelled" in launch.err


def is_running(run: Path) -> bool:
    """Whether it has measured something of many epochs."""
    folder = RunFolder(run)
    return folder.metrics.exists() and folder.read_run().config.seed == 0 and read_status(folder).state == "running"


def test_prune_puts_aside_what_the_sweep_no_longer_declares() -> None:
    assert normhpc("sweep", "fakes.yaml", "--local", "--slots", "1").code == 0
    Path("fakes.yaml").write_text(SWEEP.replace("[none, batch]", "[batch]"))
    gone = [run.path.name for run in run_folders(FOLDER) if run.read_run().config.norm.name == "none"]
    assert normhpc("sweep", "fakes.yaml", "--dry-run", "--prune").code == 0
    assert len(run_folders(FOLDER)) == 4
    answer = normhpc("sweep", "fakes.yaml", "--local", "--prune")
    assert answer.code == 0
    assert f"put aside 2 runs that the sweep no longer declares, in {FOLDER / '.pruned'}" in answer.err
    assert len(run_folders(FOLDER)) == 2
    assert sorted(os.listdir(FOLDER / ".pruned")) == sorted(gone)  # noqa: PTH208
    assert '"total": 2' in normhpc("status", "--json").out
