"""Division by the root mean square, without centring: RMS norm over channels, filter response norm over positions."""

from typing import Any

import torch
from torch import Tensor, nn

from normhpc.config.norm import FilterResponseNorm, RmsNorm
from normhpc.norms.lean import PER_CHANNEL, POSITIONS, Dims, column, exact
from normhpc.norms.slot import Norm


class Rms(Norm):
    """y = act(x / sqrt(q + eps) * weight), q the mean of x^2 over the channels at each position.

    weight has shape (C,) and starts at 1. Zhang and Sennrich 2019, arXiv:1910.07467, at every pixel as layer norm is
    used in ConvNeXt.
    """

    scope = "sample"
    shifts = False

    def __init__(self, config: RmsNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        y: Tensor = OverRms.apply(x, self.weight, None, None, (1,), self.eps)
        return y


class FilterResponse(Norm):
    """z = x / sqrt(q + eps) * weight + bias, y = max(z, threshold); q the mean of x^2 over each plane's positions.

    The threshold, learned per channel, takes the place of the activation; where there is none, y = z. With
    ``tlu: false`` it is y = act(z). weight starts at 1, bias and threshold at 0, all of shape (C,). Singh and Krishnan
    2020, arXiv:1911.09737. Where z equals the threshold the gradient goes to the threshold.
    """

    scope = "sample"

    def __init__(self, config: FilterResponseNorm, num_features: int, act: str) -> None:
        thresholded = config.tlu and act != "none"
        super().__init__(num_features, "none" if thresholded else act)
        self.owns_act = thresholded
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.threshold = nn.Parameter(torch.zeros(num_features)) if thresholded else None

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        y: Tensor = OverRms.apply(x, self.weight, self.bias, self.threshold, POSITIONS, self.eps)
        return y


class OverRms(torch.autograd.Function):
    """max(x r weight + bias, threshold), r = 1 / sqrt(mean of x^2 over ``dims`` + eps); bias and threshold may be None.

    With g the gradient behind the maximum times weight: dx = r g - x r^3 mean(g x).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, threshold: Tensor | None, dims: Dims, eps: float
    ) -> Tensor:
        wide = exact(x)
        scale = _scale(wide, dims, eps)
        ctx.dims, ctx.eps = dims, eps
        ctx.save_for_backward(x, scale, weight, bias, threshold)
        y = wide * scale * column(weight)
        if bias is not None:
            y += column(bias)
        if threshold is not None:
            y = torch.maximum(y, column(threshold))
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight, bias, threshold = ctx.saved_tensors
        wide, grad = exact(x), exact(grad)
        if torch.is_grad_enabled():
            scale = _scale(wide, ctx.dims, ctx.eps)
        normalized = wide * scale
        d_threshold = None
        if threshold is not None:
            shifted = normalized * column(weight) + column(bias)
            above = shifted > column(threshold)
            d_threshold = torch.where(above, 0.0, grad).sum(PER_CHANNEL)
            grad = torch.where(above, grad, 0.0)
        scaled = grad * column(weight)
        dx = scale * (scaled - normalized * (scaled * normalized).mean(ctx.dims, keepdim=True))
        d_bias = None if bias is None else grad.sum(PER_CHANNEL)
        return dx.to(x.dtype), (grad * normalized).sum(PER_CHANNEL), d_bias, d_threshold, None, None


def _scale(x: Tensor, dims: Dims, eps: float) -> Tensor:
    return x.square().mean(dims, keepdim=True).add(eps).rsqrt()
