"""Two training steps and an evaluation of a synchronized norm, on one rank or on its share of the ranks."""

import copy
from typing import Any

import torch
from torch import Tensor

from normhpc.errors import InputError
from normhpc.norms import build

DTYPES = {"float32": torch.float32, "float64": torch.float64}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SHARES = {2: {"4+2": (4, 2), "1+5": (1, 5)}, 3: {"3+1+2": (3, 1, 2), "4+0+2": (4, 0, 2)}}
"""Images of each rank, by number of ranks; 6 in all."""
NORMS = (
    "batch",
    "batch_renorm",
    "variance",
    "mean_centering",
    "batch_instance",
    "switchable",
    "evonorm_b0",
    "evonorm_b1",
    "evonorm_b2",
)
"""Every norm with statistics over the batch but the ghost's, which never leave a rank."""

COMPILED = ("batch", "batch_renorm", "evonorm_b0", "switchable")
"""One of each way in which the statistics of all ranks enter a layer."""


def inputs(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All 6 images of a step, whose means differ, and the gradient of the loss at their output."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 4, 3, 5, generator=generator, dtype=torch.float64)
    x = x * torch.arange(1.0, 7.0, dtype=torch.float64).view(6, 1, 1, 1) + torch.arange(6).view(6, 1, 1, 1)
    return x.to(dtype), torch.randn(6, 4, 3, 5, generator=generator, dtype=torch.float64).to(dtype)


def two_steps(norm: str, images: slice, dtype: torch.dtype, layout: torch.memory_format) -> dict[str, Tensor]:
    """Outputs, gradients and statistics for the given images of each step."""
    slot = build({"name": norm, "sync": True, "momentum": 0.3}, 4, "relu").to(dtype)
    with torch.no_grad():
        slot.get_parameter("weight").copy_(torch.linspace(-1, 2, 4))
        slot.get_parameter("bias").copy_(torch.linspace(0.5, -0.5, 4))
        for name, parameter in slot.named_parameters():
            if name not in ("weight", "bias"):
                parameter.copy_(torch.linspace(0.3, 0.9, parameter.numel()))
    found = {}
    for step in range(2):
        whole, cotangent = inputs(step, dtype)
        x = whole[images].contiguous(memory_format=layout).requires_grad_()
        y = slot(x)
        # Not y.backward(cotangent), with which torch imports sympy: seconds for every rank.
        (y * cotangent[images]).sum().backward()
        assert y.is_contiguous(memory_format=layout)
        assert x.grad is not None
        found |= {f"y{step}": y.detach(), f"grad_x{step}": x.grad}
    found |= {f"grad_{name}": parameter.grad for name, parameter in slot.named_parameters()}
    found |= dict(slot.named_buffers())
    return found | {"evaluated": slot.eval()(inputs(2, dtype)[0][images]).detach()}


def all_cases(rank: int, world: int) -> dict[str, Any]:
    """Every dtype, layout and sharing of the images, on this rank."""
    found = {}
    for name, shares in SHARES[world].items():
        images = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        for dtype in DTYPES:
            for layout in LAYOUTS:
                for norm in NORMS if layout == "nchw" else ("batch", "evonorm_b0"):
                    found[f"{norm} {name} {dtype} {layout}"] = two_steps(norm, images, DTYPES[dtype], LAYOUTS[layout])
    return found | {"too few": _refusal()}


def _refusal() -> str:
    """What a batch of one pixel on rank 0 alone raises."""
    slot = build({"name": "batch", "sync": True}, 2)
    try:
        slot(torch.ones(1 if torch.distributed.get_rank() == 0 else 0, 2, 1, 1))
    except InputError as error:
        return str(error)
    return "accepted"


def compiled_and_eager(rank: int, world: int) -> dict[str, float]:
    """By norm, how far the second step of a layer compiled in one graph is from the eager one's, values and gradient."""
    found = {}
    for norm in COMPILED:
        torch.compiler.reset()
        options = {"warmup_steps": 0} if norm == "batch_renorm" else {}
        slot = build({"name": norm, "sync": True, "momentum": 0.3, **options}, 4, "relu")
        twin = copy.deepcopy(slot)
        compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
        results = []
        for layer in (slot, compiled):
            for step in range(2):
                x = inputs(step, torch.float32)[0][rank : 4 - rank].requires_grad_()
                y = layer(x)
                y.square().sum().backward()
            results.append(torch.cat([y.detach().flatten(), x.grad.flatten()]))
        found[norm] = (results[0] - results[1]).abs().max().item()
    return found


def second_derivatives(norm: str, images: slice) -> Tensor:
    """d sum(dL/dx)^2 / dx of all images' loss, on this rank's."""
    slot = build({"name": norm, "sync": True}, 4, "silu").double()
    whole, cotangent = inputs(0, torch.float64)
    x = whole[images].requires_grad_()
    (gradient,) = torch.autograd.grad((slot(x) * cotangent[images]).sum(), x, create_graph=True)
    return torch.autograd.grad((gradient * gradient).sum(), x)[0]


def all_second_derivatives(rank: int, world: int) -> dict[str, Tensor]:
    """By norm, with 4 and 2 images."""
    images = slice(0, 4) if rank == 0 else slice(4, 6)
    return {norm: second_derivatives(norm, images) for norm in NORMS}
