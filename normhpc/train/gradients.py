"""What happens to the gradients of the whole batch before the optimizer sees them.

Nothing here waits for the device, and all ranks do the same: DDP has given them the same gradients.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from normhpc.config.training import OptimConfig
from normhpc.models import classifier

LEAST_NORM = 1e-3
"""What the norm of a unit's weights counts at least in adaptive clipping, so that weights at 0 can leave it."""


def gradient_rules(model: nn.Module, optim: OptimConfig) -> tuple[Callable[[], None], ...]:
    """What ``optim`` asks for, in this order: L1 penalty, adaptive clipping, clipping of the common norm."""
    parameters = list(model.parameters())
    rules: list[Callable[[], None]] = []
    if optim.l1 > 0:
        rules.append(partial(add_l1, parameters, optim.l1))
    if optim.clip_adaptive is not None:
        head = classifier(model)
        spared = {id(parameter) for parameter in head.parameters()} if head is not None else set()
        backbone = [parameter for parameter in parameters if id(parameter) not in spared]
        rules.append(partial(clip_units, backbone, optim.clip_adaptive))
    if optim.clip_norm is not None:
        rules.append(partial(clip_norm, parameters, optim.clip_norm))
    return tuple(rules)


@torch.no_grad()
def add_l1(parameters: Sequence[Tensor], weight: float) -> None:
    """g <- g + ``weight`` sign(w): the gradient of ``weight`` sum |w|, 0 at w = 0."""
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    torch._foreach_add_(_gradients(learning), torch._foreach_sign(learning), alpha=weight)


@torch.no_grad()
def clip_units(parameters: Sequence[Tensor], share: float) -> None:
    """g <- g min(1, ``share`` max(|w|, 1e-3) / |g|) for each unit: a filter, a row of a matrix, a whole vector."""
    for parameter in parameters:
        if parameter.grad is None:
            continue
        unit = tuple(range(1, parameter.ndim)) or None
        limit = share * torch.linalg.vector_norm(parameter, dim=unit, keepdim=True).clamp(min=LEAST_NORM)
        # a gradient of 0 gives infinity here, and then 1
        factor = limit / torch.linalg.vector_norm(parameter.grad, dim=unit, keepdim=True)
        parameter.grad.mul_(factor.clamp(max=1.0))


def clip_norm(parameters: Sequence[Tensor], most: float) -> None:
    """g <- g min(1, ``most`` / (|g| + 1e-6)), |g| the 2-norm of all gradients together."""
    torch.nn.utils.clip_grad_norm_(parameters, most)


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
