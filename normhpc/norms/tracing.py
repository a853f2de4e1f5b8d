"""How a layer is being called: computed at once, or followed by torch operation by operation."""

import torch
from torch import Tensor


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` (vmap, grad, jvp and those made of them) is at work."""
    return torch._C._are_functorch_transforms_active()


def by_operations() -> bool:
    """Whether a layer must be differentiable operations of torch and nothing else.

    So under ``torch.compile``, which fuses and recomputes by itself, and in transforms of ``torch.func``, which know no
    backward pass written by hand.
    """
    return torch.compiler.is_compiling() or in_transform()


def moved_in_place(*statistics: Tensor) -> bool:
    """Whether torch's batch norm moves these running statistics themselves.

    Under vmap it takes all replicas' as one vector, which is a copy unless they lie one replica after another.
    """
    return not in_transform() or (not torch.compiler.is_compiling() and all(map(_one_after_another, statistics)))


def _one_after_another(tensor: Tensor) -> bool:
    functorch = torch._C._functorch
    if not functorch.is_batchedtensor(tensor) or functorch.maybe_get_bdim(tensor) != 0:
        return False
    stacked = functorch.get_unwrapped(tensor)
    return not functorch.is_functorch_wrapped_tensor(stacked) and stacked.is_contiguous()
