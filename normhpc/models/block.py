"""What the studied networks are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from normhpc import norms
from normhpc.config.model import PlainConv
from normhpc.config.norm import NormPart, WeightPart
from normhpc.norms.weight import transformed

_PLAIN = PlainConv()


@dataclass(frozen=True, slots=True)
class Layers:
    """Builds what the runs of a study differ in: the slots of norm and activation, and the convolutions before them."""

    norm: NormPart
    act: str
    conv: PlainConv | WeightPart = _PLAIN
    """The method on weights when the norm is none itself."""
    conv_bias: Literal["auto"] | bool = "auto"
    fan: Literal["fan_out", "fan_in"] = "fan_out"
    """What the variance of the initial weights is 2 over."""

    @property
    def method(self) -> PlainConv | WeightPart:
        """What is done to the weights of every convolution."""
        return self.norm if isinstance(self.norm, WeightPart) else self.conv

    def slot(self, channels: int, *, act: bool = True) -> norms.Norm:
        """A norm on so many channels, followed by the run's activation or by none."""
        return norms.build(self.norm, channels, self.act if act else "none")

    def convolution(
        self, inputs: int, outputs: int, kernel: int, *, shifts: bool, stride: int = 1, groups: int = 1
    ) -> nn.Conv2d:
        """Convolution with "same" zero padding, :meth:`finished`.

        Weights start by He et al. 2015, arXiv:1502.01852: normal, gain of relu.
        """
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode=self.fan, nonlinearity="relu")
        return self.finished(conv, shifts=shifts)

    def finished(self, conv: nn.Conv2d, *, shifts: bool) -> nn.Conv2d:
        """``conv``, which has its initial weights and no bias, as the run wants it: with its bias and method on weights.

        ``shifts`` says that a shift is learned behind it. A bias starts at 0 and is there where ``conv_bias`` says so
        or, if that is "auto", where nothing behind shifts.
        """
        if not shifts if self.conv_bias == "auto" else self.conv_bias:
            # Added here because Conv2d draws its own, and runs that differ in the norm must start from equal weights.
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels))
        return transformed(conv, self.method, self.act) if isinstance(self.method, WeightPart) else conv


class ConvSlot(nn.Module):
    """Convolution, then norm and activation; "same" zero padding, (N, in, H, W) to (N, out, H/stride, W/stride)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, layers: Layers, *, stride: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        slot = layers.slot(outputs, act=act)
        self.conv = layers.convolution(inputs, outputs, kernel, shifts=slot.shifts, stride=stride)
        self.slot = slot

    def forward(self, x: Tensor) -> Tensor:
        """Convolution, norm, activation."""
        y: Tensor = self.slot(self.conv(x))
        return y


class SkipInit(nn.Module):
    """Multiplies a residual branch by a learned scalar that starts at 0 (De and Smith 2020, arXiv:2002.10444)."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """factor * x."""
        return self.factor * x

    def param_specs(self) -> dict[str, norms.ParamSpec]:
        """No weight decay on the scalar."""
        return {"factor": norms.ParamSpec()}


def stages(widths: tuple[int, ...], blocks: int) -> Iterator[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each block, so many a stage; stages after the first start with stride 2."""
    below = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            yield below, width, 2 if stage > 0 and block == 0 else 1
            below = width


def mean_over_positions(x: Tensor) -> Tensor:
    """Global average pooling, (N, C, H, W) to (N, C)."""
    return x.mean(dim=(2, 3))
