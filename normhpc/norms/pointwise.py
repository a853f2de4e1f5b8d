"""Bounded functions of single values in the place of a norm: dynamic tanh, and the family that was searched after it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normhpc.config.norm import DynamicErf, DynamicTanh
from normhpc.norms.lean import PER_CHANNEL, column, exact
from normhpc.norms.slot import Norm


class Shape(NamedTuple):
    """A function of z that rises from -1 to 1, and its slope; both elementwise."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


SHAPES = {
    "tanh": Shape(torch.tanh, lambda z: 1 - torch.tanh(z).square()),
    "erf": Shape(torch.erf, lambda z: (2 / math.sqrt(math.pi)) * torch.exp(-z.square())),
    "arctan": Shape(lambda z: (2 / math.pi) * torch.atan(z), lambda z: (2 / math.pi) / (1 + z.square())),
    "isru": Shape(lambda z: z * (1 + z.square()).rsqrt(), lambda z: (1 + z.square()).pow(-1.5)),
    "satursin": Shape(
        lambda z: torch.sin(z.clamp(-math.pi / 2, math.pi / 2)),
        lambda z: torch.where(z.abs() < math.pi / 2, torch.cos(z), 0.0),
    ),
    "expsign": Shape(lambda z: torch.sign(z) * -torch.expm1(-z.abs()), lambda z: torch.exp(-z.abs())),
}
"""By name. erf won the search; the others are its runners-up."""


class Pointwise(Norm):
    """y = act(shape(alpha x + shift) * weight + bias), without statistics.

    alpha and shift are scalars, starting at ``alpha`` and 0; weight and bias have shape (C,) and start at 1 and 0.
    Dynamic tanh, which has no shift: Zhu et al. 2025, arXiv:2503.10622. Derf and its family: Chen et al. 2025,
    arXiv:2512.10938.
    """

    scope = "none"

    def __init__(self, config: DynamicTanh | DynamicErf, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.shape = config.shape if isinstance(config, DynamicErf) else "tanh"
        self.alpha = nn.Parameter(torch.tensor(config.alpha))
        self.shift = nn.Parameter(torch.tensor(0.0)) if isinstance(config, DynamicErf) else None
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        y: Tensor = BoundedValue.apply(x, self.alpha, self.shift, self.weight, self.bias, self.shape)
        return y

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, shape={self.shape}"


class BoundedValue(torch.autograd.Function):
    """shape(alpha x + shift) * weight + bias; shift may be None. Keeps x alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, shape: str
    ) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(x, alpha, shift, weight)
        y = SHAPES[shape].value(_argument(exact(x), alpha, shift))
        return (y * column(weight) + column(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, shift, weight = ctx.saved_tensors
        wide, grad = exact(x), exact(grad)
        z = _argument(wide, alpha, shift)
        value, slope = SHAPES[ctx.shape]
        through = grad * column(weight) * slope(z)
        return (
            (through * alpha).to(x.dtype),
            (through * wide).sum(),
            None if shift is None else through.sum(),
            (grad * value(z)).sum(PER_CHANNEL),
            grad.sum(PER_CHANNEL),
            None,
        )


def _argument(x: Tensor, alpha: Tensor, shift: Tensor | None) -> Tensor:
    return x * alpha if shift is None else x * alpha + shift
