"""What a machine has, told line by line."""

import json
import shutil
from pathlib import Path

import pytest
from support.launches import normhpc

from normhpc import __version__
from normhpc.launch.doctor import Finding, examine


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def found(runs: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(runs)}


def test_bare_machine_is_no_error(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = found(Path("runs"))
    gpu = Finding("GPU", "note", "none (no working nvidia-smi)", "runs train on the processor here")
    assert told["GPU"] == gpu
    assert told["Slurm"] == Finding("Slurm", "note", "no sbatch on PATH", "use normhpc sweep --local here")
    assert told["normhpc"] == Finding("normhpc", "ok", __version__)
    answer = normhpc("doctor", "--json")
    assert (answer.code, answer.err) == (0, "")
    document = json.loads(answer.out)
    assert [set(entry) for entry in document] == [{"what", "level", "found", "advice"}] * len(document)
    assert {"what": gpu.what, "level": gpu.level, "found": gpu.found, "advice": gpu.advice} in document
    assert not (tmp_path / "runs").exists()
    lines = normhpc("doctor").out.splitlines()
    assert len(lines) == len(document)
    assert "GPU           note  none (no working nvidia-smi); runs train on the processor here" in [
        line.rstrip() for line in lines
    ]


def test_gpus_and_slurm_are_told_by_their_own_tools(tools: Path, tmp_path: Path) -> None:
    tool(tools, "nvidia-smi", "echo 'H100, 81559 MiB, 570.1'; echo 'H100, 81559 MiB, 570.1'")
    tool(tools, "sbatch", "echo slurm 22.05.8")
    tool(tools, "scontrol", "echo 'MaxArraySize            = 1001'; echo 'ClusterName = tiny'; echo 'Other = 1'")
    tool(tools, "sinfo", "echo 'cpu* 1-00:00:00 2 nodes (null)'")
    told = found(tmp_path)
    assert told["GPU"] == Finding("GPU", "ok", "H100, 81559 MiB, 570.1; H100, 81559 MiB, 570.1")
    assert told["Slurm"] == Finding("Slurm", "ok", "slurm 22.05.8; MaxArraySize 1001, ClusterName tiny")
    assert told["Slurm partitions"] == Finding("Slurm partitions", "ok", "cpu* 1-00:00:00 2 nodes (null)")


def test_slurm_without_its_controller(tools: Path, tmp_path: Path) -> None:
    tool(tools, "sbatch", "echo slurm 22.05.8")
    tool(tools, "scontrol", "exit 1")
    assert found(tmp_path)["Slurm"] == Finding(
        "Slurm", "note", "slurm 22.05.8, but no controller answers", "ask: scontrol ping"
    )


def test_records_that_cannot_be_written_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("a file")
    assert found(Path("runs/x"))["records"] == Finding(
        "records", "missing", "runs/x: cannot be written (Not a directory)", "choose --runs DIR"
    )
    answer = normhpc("doctor", "--runs", "runs/x")
    assert answer.code == 1
    assert answer.out.splitlines()[-1].split()[:2] == ["records", "missing"]


def test_free_space_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free, level in ((5 * 2**30, "ok"), (2**29, "note")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        records = found(tmp_path / "a" / "b")["records"]
        assert records.level == level
        assert records.found.startswith(f"{tmp_path}/a/b on ")
        assert records.found.endswith(f", {free / 2**30:.0f} GiB free")
