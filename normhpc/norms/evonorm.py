"""Layers found by evolution over norm and activation together (Liu et al. 2020, arXiv:2004.02967): the S family."""

from typing import Any

import torch
from torch import Tensor, nn

from normhpc.config.norm import EvoNormS0, EvoNormS1, EvoNormS2
from normhpc.norms.group import number_of_groups
from normhpc.norms.lean import PER_CHANNEL, column, exact
from normhpc.norms.slot import Norm

_GROUP_DIMS = (2, 3, 4)
"""Of (N, groups, channels of a group, H, W)."""


class EvoNormS(Norm):
    """y = x sigmoid(v x) / s * weight + bias, which takes the place of norm and activation.

    S0: s = sqrt(variance + eps) over each image's groups of channels and the positions, v of shape (C,) learned from 1.
    S1: the same with v = 1. S2: s = sqrt(mean of x^2 + eps), v = 1. weight starts at 1, bias at 0, both of shape (C,).
    Where the network has no activation the layer is x * weight + bias, as in the authors' code.
    Raises :class:`~normhpc.errors.InputError` when the groups do not divide the channels.
    """

    scope = "sample"

    def __init__(self, config: EvoNormS0 | EvoNormS1 | EvoNormS2, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.owns_act = act != "none"
        self.groups = number_of_groups(config, num_features)
        self.eps = config.eps
        self.centred = not isinstance(config, EvoNormS2)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        gated = isinstance(config, EvoNormS0) and self.owns_act
        self.v = nn.Parameter(torch.ones(num_features)) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, dtype and memory format."""
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        """The whole layer: norm and activation are one."""
        if not self.owns_act:
            return (exact(x) * column(self.weight) + column(self.bias)).to(x.dtype)
        y: Tensor = GatedOverSpread.apply(x, self.v, self.weight, self.bias, self.groups, self.eps, self.centred)
        return y

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, groups={self.groups}, eps={self.eps:g}, centred={self.centred}"


class GatedOverSpread(torch.autograd.Function):
    """x sigmoid(v x) r weight + bias, r = 1 / sqrt(variance + eps) of groups, about their mean or, not centred, about 0.

    With g the gradient times weight and m the size of a group: dx = g r (x sigmoid(v x))' - (x - mean) r^3 / m
    sum(g x sigmoid(v x)), the sum over the group.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, centred: bool
    ) -> Tensor:
        wide = exact(x)
        mean, scale = _spread(wide, groups, eps, centred=centred)
        ctx.groups, ctx.eps, ctx.centred = groups, eps, centred
        ctx.save_for_backward(x, mean, scale, v, weight)
        gated = wide * torch.sigmoid(wide if v is None else wide * column(v))
        return (_by_group(gated, scale) * column(weight) + column(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, v, weight = ctx.saved_tensors
        wide, grad = exact(x), exact(grad)
        if torch.is_grad_enabled():
            mean, scale = _spread(wide, ctx.groups, ctx.eps, centred=ctx.centred)
        gate = torch.sigmoid(wide if v is None else wide * column(v))
        bend = gate * (1 - gate)
        normalized = _by_group(wide * gate, scale)
        scaled = grad * column(weight)
        over_spread = _by_group(scaled, scale)
        slope = gate + wide * bend * (1.0 if v is None else column(v))
        pull = _grouped(scaled * normalized, ctx.groups).mean(_GROUP_DIMS, keepdim=True) * scale.square()
        centred = _grouped(wide, ctx.groups) - mean
        dx = over_spread * slope - (centred * pull).flatten(1, 2)
        dv = None if v is None else (over_spread * wide.square() * bend).sum(PER_CHANNEL)
        return dx.to(x.dtype), dv, (grad * normalized).sum(PER_CHANNEL), grad.sum(PER_CHANNEL), None, None, None


def _spread(x: Tensor, groups: int, eps: float, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal spread of each group, (N, groups, 1, 1, 1). The variance is biased."""
    grouped = _grouped(x, groups)
    if centred:
        variance, mean = torch.var_mean(grouped, _GROUP_DIMS, correction=0, keepdim=True)
    else:
        variance = grouped.square().mean(_GROUP_DIMS, keepdim=True)
        mean = torch.zeros_like(variance)
    return mean, variance.add(eps).rsqrt()


def _grouped(x: Tensor, groups: int) -> Tensor:
    """(N, C, H, W) as (N, groups, C / groups, H, W), a view in every memory format."""
    images, channels, height, width = x.shape
    return x.view(images, groups, channels // groups, height, width)


def _by_group(x: Tensor, scale: Tensor) -> Tensor:
    return (_grouped(x, scale.shape[1]) * scale).flatten(1, 2)
