"""Methods on weights: convolutions whose filters are a function of the weight that learns, and the slot behind them.

Filters are computed in fp32 or better and then cast. The state of a convolution keeps the names ``weight`` and
``bias``; a learned gain of shape (outputs,) is ``gain``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.norm import ScaledWeightStandardized, WeightCentering, WeightNorm, WeightPart, WeightStandardized
from normhpc.errors import InputError
from normhpc.norms.moments import exact
from normhpc.norms.slot import Norm, ParamSpec

ESTIMATED_GAMMA = {
    "relu": 1.7139588594436646,
    "leaky_relu": 1.70590341091156,
    "silu": 1.7881293296813965,
    "gelu": 1.7015043497085571,
    "tanh": 1.5939117670059204,
    "none": 1.0,
}
"""1 / the standard deviation of each activation under normal x, as Brock et al. 2021 drew it from samples."""
EXACT_GAMMA = {
    "relu": math.sqrt(2 * math.pi / (math.pi - 1)),
    "leaky_relu": 1.7048316271773365,
    "silu": 1.787187222100442,
    "gelu": 1.700926243363333,
    "tanh": 1.5925374197228312,
    "none": 1.0,
}
"""The same by integration."""

FILTER = (1, 2, 3)
"""The dimensions of one filter in a weight (outputs, inputs / groups, height, width)."""


class WeightSlot(Norm):
    """y = act(x): what is left of a slot when the norm is on the weights. The convolution before it keeps its bias.

    Weight norm with ``scaled_relu`` takes the place of the activation: y = sqrt(2 pi / (pi - 1)) (relu(x) -
    1 / sqrt(2 pi)), of mean 0 and variance 1 for normal x. Arpit et al. 2016, arXiv:1603.01431.
    """

    scope = "weight"
    shifts = False

    def __init__(self, config: WeightPart, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.owns_act = isinstance(config, WeightNorm) and config.scaled_relu and act != "none"

    def normalize(self, x: Tensor) -> Tensor:
        """``x`` itself, or the scaled activation."""
        return EXACT_GAMMA["relu"] * (F.relu(x) - 1 / math.sqrt(2 * math.pi)) if self.owns_act else x


class TransformedConv(nn.Conv2d, ABC):
    """A convolution that takes over the weight and the bias of ``conv`` and convolves with :meth:`filters`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        # On the meta device, because Conv2d draws a weight: runs that differ in the method must draw the same.
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=False,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        self.weight = conv.weight
        self.bias = conv.bias
        self.train(conv.training)

    @abstractmethod
    def filters(self, weight: Tensor) -> Tensor:
        """What is convolved with, of the shape and dtype of ``weight``, the raw weight in fp32 or better."""

    def forward(self, x: Tensor) -> Tensor:
        """As Conv2d's."""
        filters = self.filters(exact(self.weight)).to(self.weight.dtype)
        y: Tensor = self._conv_forward(x, filters, self.bias)
        return y

    def param_specs(self) -> dict[str, ParamSpec]:
        """Weight decay on the raw weight, not on bias and gain."""
        return {name: ParamSpec(decay=name == "weight") for name, _ in self.named_parameters(recurse=False)}


class WeightNormConv(TransformedConv):
    """Filters gain w / (|w| + eps), |w| the Euclidean length of a filter. Salimans and Kingma 2016, arXiv:1602.07868.

    The gain starts at |w| + eps, so that the convolution starts as the plain one, or at 1. A filter of zeros has no
    direction: with eps 0 it gives NaN, as in torch.
    """

    def __init__(self, conv: nn.Conv2d, config: WeightNorm, act: str) -> None:
        super().__init__(conv)
        self.eps = config.eps
        lengths = self._lengths(self.weight.detach())
        self.gain = nn.Parameter(lengths if config.init == "norm" else torch.ones_like(lengths))

    def filters(self, weight: Tensor) -> Tensor:
        """(outputs, inputs / groups, height, width) to the same."""
        return weight * _per_filter(exact(self.gain) / self._lengths(weight))

    def _lengths(self, weight: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(weight, dim=FILTER)
        return lengths + self.eps


class StandardizedConv(TransformedConv):
    """Filters (w - mean) / (std + eps), or with eps inside (w - mean) / sqrt(var + eps). Qiao et al. 2019,
    arXiv:1903.10520.

    Mean and variance are over one filter; the variance of the authors is unbiased, that of timm biased.
    """

    def __init__(self, conv: nn.Conv2d, config: WeightStandardized, act: str) -> None:
        super().__init__(conv)
        self.eps = config.eps
        self.inside = config.eps_at == "inside"
        self.correction = int(config.unbiased)

    def filters(self, weight: Tensor) -> Tensor:
        """(outputs, inputs / groups, height, width) to the same."""
        # std, unlike the root of var, has a gradient where it is 0.
        std, mean = torch.std_mean(weight, FILTER, correction=self.correction, keepdim=True)
        spread = torch.sqrt(std.square() + self.eps) if self.inside else std + self.eps
        return (weight - mean) / spread


class ScaledStandardizedConv(TransformedConv):
    """Filters gain gamma (w - mean) / sqrt(max(n var, eps)), n the weights of a filter. Brock et al. 2021,
    arXiv:2101.08692.

    gain is learned per output from 1, gamma is the constant of the activation. With eps inside the spread is
    sqrt(n (var + eps)), outside sqrt(n) (std + eps); the variance is biased.
    """

    def __init__(self, conv: nn.Conv2d, config: ScaledWeightStandardized, act: str) -> None:
        super().__init__(conv)
        self.eps = config.eps
        self.eps_at = config.eps_at
        self.gamma = {"estimated": ESTIMATED_GAMMA, "exact": EXACT_GAMMA, "one": dict.fromkeys(EXACT_GAMMA, 1.0)}[
            config.gamma
        ][act]
        self.gain = nn.Parameter(torch.ones_like(self.weight[:, 0, 0, 0]))

    def filters(self, weight: Tensor) -> Tensor:
        """(outputs, inputs / groups, height, width) to the same."""
        size = weight[0].numel()
        # std, unlike the root of var, has a gradient where it is 0.
        std, mean = torch.std_mean(weight, FILTER, correction=0, keepdim=True)
        match self.eps_at:
            case "floor":
                spread = (std.square() * size).clamp_min(self.eps).sqrt()
            case "inside":
                spread = ((std.square() + self.eps) * size).sqrt()
            case _:
                spread = (std + self.eps) * math.sqrt(size)
        return (weight - mean) * (_per_filter(exact(self.gain) * self.gamma) / spread)


class CentredConv(TransformedConv):
    """Filters w - mean, the mean over one filter."""

    def __init__(self, conv: nn.Conv2d, config: WeightCentering, act: str) -> None:
        super().__init__(conv)

    def filters(self, weight: Tensor) -> Tensor:
        """(outputs, inputs / groups, height, width) to the same."""
        return weight - weight.mean(FILTER, keepdim=True)


CONVOLUTIONS: dict[type[WeightPart], Callable[[nn.Conv2d, Any, str], TransformedConv]] = {
    WeightNorm: WeightNormConv,
    WeightStandardized: StandardizedConv,
    ScaledWeightStandardized: ScaledStandardizedConv,
    WeightCentering: CentredConv,
}
"""The convolution of every method on weights."""


def transformed(conv: nn.Conv2d, config: WeightPart, act: str) -> TransformedConv:
    """``conv`` with the method ``config``: the same parameters, no random numbers drawn.

    ``act`` names the activation of the network, whose constant some methods fold into the filters. Raises
    :class:`~normhpc.errors.InputError` for filters of a single weight, of which centring leaves nothing.
    """
    if conv.weight[0].numel() == 1 and not isinstance(config, WeightNorm):
        raise InputError(
            f"norm: {config.name} centres each filter, and those of this convolution ({conv}) have a single weight; "
            "use norm: weight or more channels per filter"
        )
    return CONVOLUTIONS[type(config)](conv, config, act)


def _per_filter(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
