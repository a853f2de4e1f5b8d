"""Where ranks can run."""

from pathlib import Path

import pytest

from normhpc.config import Resources
from normhpc.errors import InputError
from normhpc.launch import slots as module
from normhpc.launch.slots import Slot, make_slots, visible_gpus


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [
        ("0,1", ["0", "1"]),
        (" 2 , GPU-8f2e ", ["2", "GPU-8f2e"]),
        ("MIG-1/2/3", ["MIG-1/2/3"]),
        ("", []),
        ("-1", []),
    ],
)
def test_visible_gpus_are_those_of_the_environment(
    chosen: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(("script", "gpus"), [("echo 0; echo 1", ["0", "1"]), ("echo no devices; exit 9", [])])
def test_visible_gpus_are_those_of_the_driver(
    script: str, gpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == gpus


def test_no_driver_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


def test_cores_hold_ranks_of_the_most_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 7)
    assert make_slots(None, []) == [Slot(number) for number in range(7)]
    assert make_slots(None, [Resources(cpus_per_gpu=2), Resources(cpus_per_gpu=3)]) == [Slot(0), Slot(1)]
    assert make_slots(None, [Resources(cpus_per_gpu=9)]) == [Slot(0)]
    assert make_slots(3, [Resources(cpus_per_gpu=9)]) == [Slot(0), Slot(1), Slot(2)]


def test_gpus_hold_runs_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert make_slots(None, [Resources()]) == [Slot(0, "4"), Slot(1, "5")]
    shared = [Slot(0, "4"), Slot(1, "5"), Slot(2, "4"), Slot(3, "5")]
    assert make_slots(None, [Resources(runs_per_gpu=3), Resources(runs_per_gpu=2)]) == shared
    assert make_slots(3, [Resources()]) == shared[:3]


def test_runs_that_ask_for_no_gpu_get_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(module, "available_cores", lambda: 3)
    assert make_slots(None, [Resources(gpus_per_node=0)]) == [Slot(0), Slot(1), Slot(2)]


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError) as caught:
        make_slots(None, [Resources(nodes=2, gpus_per_node=2)])
    assert str(caught.value) == (
        "a run of 4 ranks (resources nodes x gpus_per_node) needs as many GPUs, this machine shows 2; set "
        "resources.gpus_per_node to at most 2"
    )


def test_fewer_slots_than_gpus_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError) as caught:
        make_slots(1, [Resources(gpus_per_node=2)])
    assert str(caught.value) == (
        "a run of 2 ranks (resources nodes x gpus_per_node) needs as many GPUs, --slots 1 reaches only 1; give at "
        "least --slots 2"
    )
