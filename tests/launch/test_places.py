"""Records on disks that are full, read-only or not ours."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disks import mounted
from support.launches import FAKE_CLI, SWEEP, fingerprint, normhpc

from normhpc.record import RunFolder, read_status


@pytest.fixture(autouse=True)
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fakes.yaml").write_text(SWEEP)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "size=64k")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "fixed", "ro")


def test_file_in_the_place_of_the_records() -> None:
    Path("runs").write_text("a file")
    text = "error: runs/fakes: cannot be read (Not a directory); choose another place with --runs DIR\n"
    assert normhpc("sweep", "fakes.yaml", "--local") == (2, "", text)
    Path("runs").unlink()
    Path("runs").mkdir()
    Path("runs/fakes").write_text("a file")
    assert normhpc("sweep", "fakes.yaml", "--local") == (2, "", text)
    assert sorted(map(str, Path().iterdir())) == ["fakes.yaml", "runs"]


def test_read_only_disk(read_only_disk: Path) -> None:
    answer = normhpc("sweep", "fakes.yaml", "--local", "--runs", "fixed/runs")
    text = "error: fixed/runs/fakes: cannot be written (Read-only file system); choose another place with --runs DIR\n"
    assert answer == (2, "", text)


def test_folder_of_somebody_else() -> None:
    prefix: list[str] = []
    Path("runs").mkdir()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to give that up")
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        shutil.chown("runs", 65534)
    Path("runs").chmod(0o555)
    command = [*prefix, sys.executable, str(FAKE_CLI), "sweep", "fakes.yaml", "--local"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    Path("runs").chmod(0o700)
    text = "error: runs/fakes: cannot be written (Permission denied); choose another place with --runs DIR\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", text)
    assert list(Path("runs").iterdir()) == []


def test_full_disk(small_disk: Path) -> None:
    filling = small_disk / "filling"
    with pytest.raises(OSError, match="No space left"):
        filling.write_bytes(b"x" * 100_000)
    before = fingerprint(small_disk)
    answer = normhpc("sweep", "fakes.yaml", "--local", "--runs", "small/runs")
    run = answer.err.split("error: ")[1].split(":")[0]
    assert answer.code == 1
    assert answer.err.splitlines()[-1] == (
        f"error: {run}: cannot be started (No space left on device); nothing more was launched, the same command goes "
        "on from here"
    )
    after = fingerprint(small_disk)
    assert {path: digest for path, digest in after.items() if path not in before} == {
        "runs": "folder",
        "runs/fakes": "folder",
    }
    filling.unlink()
    answer = normhpc("sweep", "fakes.yaml", "--local", "--limit", 1, "--runs", "small/runs")
    assert answer.code == 0
    assert read_status(RunFolder(Path(run))).state == "finished"
