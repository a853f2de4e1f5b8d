"""A training step of a formula with moments over the batch of all ranks, on one rank or on its share of the images."""

from typing import Any

import torch
from torch import Tensor

from normhpc.errors import InputError
from normhpc.norms import build

SHARES = {"4+2": (4, 2), "6+0": (6, 0)}
"""Images of each of two ranks."""


def one_step(images: slice) -> dict[str, Tensor]:
    """Output, gradients and running statistics for the given images of six."""
    generator = torch.Generator().manual_seed(0)
    whole, cotangent = (torch.randn(6, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    whole += torch.arange(6).view(6, 1, 1, 1)
    expr = "(x - mean(x, 'batch')) / max(std(x, 'batch'), v * x + std(x, 'instance'))"
    slot = build({"name": "formula", "expr": expr, "sync": True, "owns_act": True, "running": "unbiased"}, 4).double()
    x = whole[images].requires_grad_()
    y = slot(x)
    (y * cotangent[images]).sum().backward()
    assert x.grad is not None
    gradients = {name: parameter.grad for name, parameter in slot.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(slot.named_buffers())}


def all_shares(rank: int, world: int) -> dict[str, Any]:
    """Every sharing of the images, on this rank; and what a batch of one pixel on rank 0 alone raises."""
    found: dict[str, Any] = {
        name: one_step(slice(sum(shares[:rank]), sum(shares[: rank + 1]))) for name, shares in SHARES.items()
    }
    slot = build({"name": "formula", "expr": "x / std(x, 'batch')", "sync": True}, 2)
    try:
        slot(torch.ones(1 - rank, 2, 1, 1))
    except InputError as error:
        return found | {"too few": str(error)}
    raise AssertionError
