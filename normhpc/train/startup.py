"""What a training process settles before it touches a tensor."""

import ctypes
import mmap
import os

import torch

from normhpc.config import Resources, RunConfig

# of malloc.h
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_MOST_BYTES = 2**31 - 1
_OLDEST_MOST_BYTES = 2**25
"""What older glibc takes for a threshold of a block: half of one of its own heaps."""
_ON_HUGE_PAGES = 3 * 2**29
"""Less than glibc keeps, so that giving it back takes no address away."""


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
    """Have glibc keep what tensors give back, up to 2 GiB, for those of the next step, and on huge pages.

    By default it hands large blocks back to the system, which then fills every page of them with zeros again: on a
    processor a fifth of the time of a ResNet-20. With pages of 4 KiB, which are the system's choice for most programs,
    finding them takes another twentieth. Other C libraries have no such settings.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_TRIM_THRESHOLD, _MOST_BYTES)
    if not libc.mallopt(_MMAP_THRESHOLD, _MOST_BYTES):
        libc.mallopt(_MMAP_THRESHOLD, _OLDEST_MOST_BYTES)
    # the heap only grows by addresses here, not by memory: what is freed untouched is what tensors get next
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(_ON_HUGE_PAGES))
    if block is not None:
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(_ON_HUGE_PAGES - mmap.PAGESIZE), mmap.MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(block))
