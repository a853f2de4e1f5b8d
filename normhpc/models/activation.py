"""Activations that are no part of a slot, as modules, so that hooks see them."""

import torch
from torch import Tensor, nn

from normhpc.norms import ParamSpec, activate
from normhpc.norms.surgery import kinds


class Activation(nn.Module):
    """An activation without a norm before it: behind a sum, or between linear layers."""

    def __init__(self, act: str) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same; overwrites ``x``."""
        return activate(x, self.act, overwrite=True)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return self.act


class Threshold(nn.Module):
    """y = max(x, threshold), learned per channel from 0: the activation of FRN (Singh and Krishnan 2020).

    Where x equals the threshold the gradient goes to the threshold.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        threshold = self.threshold.view(-1, 1, 1)
        return torch.where(x <= threshold, threshold.to(x.dtype), x)  # NaN stays NaN

    def param_specs(self) -> dict[str, ParamSpec]:
        """No weight decay."""
        return {"threshold": ParamSpec()}


def is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is an activation and nothing else, one of these or of another library."""
    return isinstance(module, Activation | Threshold) or kinds.is_activation(module)
