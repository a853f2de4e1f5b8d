"""What the studied networks are made of."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normhpc.norms import Norm

NormAct = Callable[[int, str], Norm]
"""Builds the slot for so many channels and the named activation; ``"none"`` for the norm alone."""


class ConvSlot(nn.Module):
    """Convolution, then norm and activation; "same" zero padding, (N, in, H, W) to (N, out, H/stride, W/stride).

    Weights start by He et al. 2015, arXiv:1502.01852 (normal, fan out, gain of relu). The convolution has a bias,
    starting at 0, only where the norm learns no shift of its own.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, act: str, norm_act: NormAct) -> None:
        super().__init__()
        slot = norm_act(outputs, act)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if not slot.shifts:
            # Added here because Conv2d draws its own, and runs that differ in the norm must start from equal weights.
            self.conv.bias = nn.Parameter(torch.zeros(outputs))
        self.slot = slot

    def forward(self, x: Tensor) -> Tensor:
        """Convolution, norm, activation."""
        y: Tensor = self.slot(self.conv(x))
        return y


def mean_over_positions(x: Tensor) -> Tensor:
    """Global average pooling, (N, C, H, W) to (N, C)."""
    return x.mean(dim=(2, 3))
