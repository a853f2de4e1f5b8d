"""Functions of single values in the place of a norm: dynamic tanh and what was searched after it, and SELU."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config import norm as configs
from normhpc.norms.lean import per_image
from normhpc.norms.moments import PER_CHANNEL, affine, column
from normhpc.norms.slot import Norm


class Shape(NamedTuple):
    """A function of z that rises from -1 to 1, and its slope; both elementwise."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    """Of z and the function's value there."""


SHAPES = {
    "tanh": Shape(torch.tanh, lambda z, t: 1 - t.square()),
    "erf": Shape(torch.erf, lambda z, t: (2 / math.sqrt(math.pi)) * torch.exp(-z.square())),
    "arctan": Shape(lambda z: (2 / math.pi) * torch.atan(z), lambda z, t: (2 / math.pi) / (1 + z.square())),
    "isru": Shape(lambda z: z * (1 + z.square()).rsqrt(), lambda z, t: (1 + z.square()).pow(-1.5)),
    "satursin": Shape(
        lambda z: torch.sin(z.clamp(-math.pi / 2, math.pi / 2)),
        lambda z, t: torch.where(z.abs() < math.pi / 2, torch.cos(z), 0.0),
    ),
    # Each side by itself, since sign(z) has the slope 0 at 0; and bounded before exp, which the other side would overflow.
    "expsign": Shape(
        lambda z: torch.where(
            z > 0, -torch.expm1(-torch.where(z > 0, z, 0.0)), torch.expm1(torch.where(z > 0, 0.0, z))
        ),
        lambda z, t: torch.exp(-z.abs()),
    ),
    "linear_clip": Shape(lambda z: z.clamp(-1, 1), lambda z, t: (z.abs() < 1).to(z.dtype)),
}
"""By name. erf won the search; the others are its runners-up."""


class Pointwise(Norm):
    """y = act(shape(alpha x + shift) * weight + bias), without statistics.

    alpha and shift are scalars, starting at ``alpha`` and 0; weight and bias have shape (C,) and start at 1 and 0.
    Dynamic tanh, which has no shift: Zhu et al. 2025, arXiv:2503.10622. Derf and its family: Chen et al. 2025,
    arXiv:2512.10938.
    """

    def __init__(
        self, config: configs.DynamicTanh | configs.DynamicErf | configs.PointwiseShape, num_features: int, act: str
    ) -> None:
        super().__init__(num_features, act)
        match config:
            case configs.DynamicTanh():
                self.shape = "tanh"
            case configs.DynamicErf():
                self.shape = "erf"
            case configs.PointwiseShape():
                self.shape = config.shape
        self.alpha = nn.Parameter(torch.tensor(config.alpha))
        self.shift = None if isinstance(config, configs.DynamicTanh) else nn.Parameter(torch.tensor(0.0))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        scalars = (self.alpha,) if self.shift is None else (self.alpha, self.shift)
        return per_image(self._formula, x, self.weight, self.bias, *scalars, gradient=self._gradient)

    def _formula(self, x: Tensor, weight: Tensor, bias: Tensor, *scalars: Tensor) -> Tensor:
        return affine(SHAPES[self.shape].value(_argument(x, *scalars)), column(weight), column(bias))

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *scalars: Tensor) -> tuple[Tensor, ...]:
        z = _argument(x, *scalars)
        value, slope = SHAPES[self.shape]
        y = value(z)
        through = slope(z, y).mul_(grad).mul_(column(weight))
        d_scalars = ((through * x).sum(), through.sum())[: len(scalars)]
        return through * scalars[0], y.mul_(grad).sum(PER_CHANNEL), grad.sum(PER_CHANNEL), *d_scalars

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, shape={self.shape}"


class DynamicIsru(Norm):
    """y = act(sqrt(C) x / sqrt(x^2 + |c|) * weight + bias), C the number of channels.

    c is a learned scalar, starting at ``c`` or at C; weight and bias have shape (C,) and start at 1 and 0. Layer norm
    with the squares of all other channels as a constant. Stollenwerk 2025, arXiv:2503.21708.
    """

    def __init__(self, config: configs.DynamicIsru, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.c = nn.Parameter(torch.tensor(float(num_features) if config.c is None else config.c))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return per_image(self._formula, x, self.weight, self.bias, self.c, gradient=self._gradient)

    def _formula(self, x: Tensor, weight: Tensor, bias: Tensor, c: Tensor) -> Tensor:
        bounded = x * (x.square() + c.abs()).rsqrt()
        return affine(bounded, column(weight) * math.sqrt(self.num_features), column(bias))

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """With r = (x^2 + |c|)^-1/2: d(x r)/dx = |c| r^3, d(x r)/d|c| = -x r^3 / 2."""
        r = (x.square() + c.abs()).rsqrt()
        d_weight = (grad * x * r).sum(PER_CHANNEL) * math.sqrt(self.num_features)
        through = r.pow(3).mul_(grad).mul_(column(weight) * math.sqrt(self.num_features))
        d_c = (through * x).sum() * (-0.5 * torch.sign(c))
        return through * c.abs(), d_weight, grad.sum(PER_CHANNEL), d_c


class Selu(Norm):
    """y = 1.0507 (x where x > 0, else 1.6733 (e^x - 1)), which takes the place of norm and activation.

    Where the network has no activation, y = x. Has no parameters. Klambauer et al. 2017, arXiv:1706.02515.
    """

    shifts = False

    def __init__(self, config: configs.Selu, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.owns_act = act != "none"

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return F.selu(x) if self.owns_act else x


def _argument(x: Tensor, alpha: Tensor, shift: Tensor | None = None) -> Tensor:
    return x * alpha if shift is None else affine(x, alpha, shift)
