"""How a layer is being called: computed at once, or followed by torch operation by operation."""

import torch


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` (vmap, grad, jvp and those made of them) is at work."""
    return torch._C._are_functorch_transforms_active()


def by_operations() -> bool:
    """Whether a layer must be differentiable operations of torch and nothing else.

    So under ``torch.compile``, which fuses and recomputes by itself, and in transforms of ``torch.func``, which know no
    backward pass written by hand.
    """
    return torch.compiler.is_compiling() or in_transform()
