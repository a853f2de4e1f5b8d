"""Memory that is not enough: how it is told from other errors, and how what a failed pass held is given back."""

import gc
import traceback

import torch

_SIGNS = (
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What torch says in a RuntimeError where it has no error of its own for it."""


def lack_of_memory(error: BaseException) -> str | None:
    """What ``error`` says of memory that is not enough, in one line; None for an error of any other kind."""
    text = str(error)
    told = isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)
    if not told and not isinstance(error, torch.OutOfMemoryError | MemoryError):
        return None
    first = text.partition("\n")[0]
    return f"memory is not enough for all at once ({type(error).__name__}{f': {first}' if first else ''})"


def forget_frames(error: BaseException) -> None:
    """Let go of all that the frames of ``error`` hold, tensors and graphs of gradients; its traceback still prints."""
    seen: set[int] = set()
    chain = [error]
    while chain:
        link = chain.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        chain += [cause for cause in (link.__cause__, link.__context__) if cause is not None]


def give_back(device: torch.device) -> None:
    """Free what nobody refers to any more, and on a GPU what torch keeps of it for the next time."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
