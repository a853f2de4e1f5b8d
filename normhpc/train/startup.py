"""What a training process settles before it touches a tensor."""

import ctypes
import os

import torch

from normhpc.config import Resources, RunConfig

# of malloc.h
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_MOST_BYTES = 2**31 - 1


def prepare_torch(config: RunConfig, resources: Resources) -> None:
    """Threads, determinism and seed of this process.

    The number of compute threads comes from ``cpus_per_gpu`` alone: sums on a CPU depend on it in the last bits,
    and a run must not change with how many others share the machine.
    """
    _keep_freed_memory()
    torch.set_num_threads(min(resources.cpus_per_gpu, os.cpu_count() or 1))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.model.compile:
        torch.use_deterministic_algorithms(config.model.deterministic)
    else:
        # what use_deterministic_algorithms does, but for the compiler's settings, whose import it would cost
        torch.set_deterministic_debug_mode("error" if config.model.deterministic else "default")
    # not needed for equal results, since nothing reads what it did not write, and costs a pass over every tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not config.model.deterministic
    torch.manual_seed(config.seed)


def _keep_freed_memory() -> None:
    """Have glibc keep what tensors give back, up to 2 GiB, for those of the next step.

    By default it hands large blocks back to the system, which then fills every page of them with zeros again: on a
    processor a fifth of the time of a ResNet-20. Other C libraries have no such settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _MOST_BYTES)
        mallopt(_MMAP_THRESHOLD, _MOST_BYTES)
