"""What a training process settles before it touches a tensor."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.trainings import SMALL, TINY, new_run

from normhpc.config import Resources, RunConfig
from normhpc.train.startup import prepare_torch


def config(**model):
    return RunConfig.model_validate({**SMALL, "model": {**SMALL["model"], **model}, "seed": 11})


def test_threads_come_from_the_resources_and_not_from_the_machine():
    prepare_torch(config(), Resources(cpus_per_gpu=1))
    assert torch.get_num_threads() == 1
    prepare_torch(config(), Resources(cpus_per_gpu=10_000))
    assert torch.get_num_threads() == os.cpu_count()


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism(deterministic):
    prepare_torch(config(deterministic=deterministic), Resources())
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.benchmark == (not deterministic)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_memory_of_a_step_is_there_for_the_next_one():
    """In a process of its own: of 20 steps that fill and free 16 x 8 MB only the first touch new pages."""
    program = """
import resource, torch
from normhpc.config import Resources, RunConfig
from normhpc.train.startup import prepare_torch

prepare_torch(RunConfig.model_validate({}), Resources())
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2_000_000) for _ in range(16)]
    del kept
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[10:]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_000  # of 31,250 pages of 4 KB


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="needs glibc and a system with huge pages",
)
def test_tensors_lie_on_huge_pages_and_room_for_them_is_no_memory():
    """In a process of its own: a stretch of the heap asks for them, and takes memory as tensors do."""
    program = """
import torch
from normhpc.config import Resources, RunConfig
from normhpc.train.startup import prepare_torch

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

before = resident_mb()
prepare_torch(RunConfig.model_validate({}), Resources())
print(resident_mb() - before)
kept = torch.ones(2**26)
print(resident_mb() - before)
address = kept.data_ptr() + 2**27
inside = False
for line in open("/proc/self/smaps"):
    if line[0] in "0123456789abcdef":
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        inside = start <= address < end
    elif inside and line.startswith("VmFlags:"):
        print("hg" in line.split())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    prepared_mb, filled_mb, asked = done.stdout.split()
    assert float(prepared_mb) < 20
    assert 268 <= float(filled_mb) < 300  # a tensor of 2**26 numbers of 4 bytes
    assert asked == "True"


@pytest.mark.parametrize("norm", ["batch", "grn", "switchable", "evonorm_b0"])
def test_a_run_imports_neither_a_compiler_nor_an_algebra_system(tmp_path, norm):
    """Each would be a second or more of every run."""
    folder = new_run(tmp_path / "run", TINY, {"norm": norm})
    program = "import sys; from normhpc.train import run; run(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, folder.path], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert {"torch", "normhpc.train.step"} <= set(loaded)
    assert {"torch._dynamo", "torch._inductor", "sympy", "sklearn", "torchvision", "pandas"} & set(loaded) == set()


def test_seed():
    prepare_torch(config(), Resources())
    drawn = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(3), drawn)
