"""Data folders copied to a node's own disk."""

import json
import os
from pathlib import Path

import pytest

from normhpc.config import RunConfig
from normhpc.config.data import STAGED_VARIABLE, Mnist
from normhpc.data.files import data_folder
from normhpc.launch.slurm.scratch import stage_data


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / "mnist"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "train").write_bytes(b"images")
    return folder


@pytest.fixture(autouse=True)
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    monkeypatch.setenv(STAGED_VARIABLE, "{}")


def mnist(path: Path, **more: bool) -> RunConfig:
    return RunConfig.model_validate({"data": {"name": "mnist", "path": str(path), **more}})


def staged() -> dict[str, str]:
    return json.loads(os.environ[STAGED_VARIABLE])


def test_runs_read_one_copy(source: Path, tmp_path: Path) -> None:
    stage_data("$NODE_DISK", [mnist(source), mnist(source), RunConfig.model_validate({})])
    copy = Path(staged()[str(source)])
    assert copy.parent == tmp_path / "disk" / f"normhpc-{os.getuid()}"
    assert (copy / "raw" / "train").read_bytes() == b"images"
    assert data_folder(Mnist(path=str(source)), "MNIST", "files") == copy
    assert data_folder(Mnist(path=str(tmp_path)), "MNIST", "files") == tmp_path


def test_copied_once_and_again_when_files_change(source: Path) -> None:
    stage_data("$NODE_DISK", [mnist(source)])
    first = Path(staged()[str(source)])
    (first / "mark").touch()
    stage_data("$NODE_DISK", [mnist(source)])
    assert Path(staged()[str(source)]) == first
    assert (first / "mark").exists()
    (source / "raw" / "train").write_bytes(b"more images")
    stage_data("$NODE_DISK", [mnist(source)])
    second = Path(staged()[str(source)])
    assert second != first
    assert (second / "raw" / "train").read_bytes() == b"more images"


def test_a_copy_cut_off_is_made_anew(source: Path, tmp_path: Path) -> None:
    stage_data("$NODE_DISK", [mnist(source)])
    copy = Path(staged()[str(source)])
    copy.rename(copy.with_suffix(".tmp"))  # as if killed before the last step
    (copy.with_suffix(".tmp") / "raw" / "train").write_bytes(b"im")
    stage_data("$NODE_DISK", [mnist(source)])
    assert (copy / "raw" / "train").read_bytes() == b"images"
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_what_cannot_be_copied_is_read_where_it_is(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_data("$NO_SUCH/x", [mnist(source)])
    assert staged() == {}
    assert capsys.readouterr().err == (
        f"{source} is read from where it is, not from a copy in $NO_SUCH/x: $NO_SUCH/x: no such variable in this job\n"
    )
    (tmp_path / "disk").write_text("a file in the way")
    stage_data("$NODE_DISK", [mnist(source)])
    assert capsys.readouterr().err.endswith("not from a copy in $NODE_DISK: Not a directory\n")
    assert data_folder(Mnist(path=str(source)), "MNIST", "files") == source


def test_not_copied_while_it_may_still_be_downloaded(source: Path, tmp_path: Path) -> None:
    stage_data("$NODE_DISK", [mnist(source, download=True), mnist(tmp_path / "nowhere")])
    assert staged() == {}
    assert not (tmp_path / "disk").exists()
