"""Layers found by evolution over norm and activation together: Liu et al. 2020, arXiv:2004.02967.

They take the place of norm and activation. Where the network has no activation they are x * weight + bias, as in the
authors' code, or with ``alone: normalize`` the division by a spread alone.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config import norm as configs
from normhpc.norms.batch import BatchFormula
from normhpc.norms.group import number_of_groups
from normhpc.norms.lean import Formula, Gradient, per_image, planewise
from normhpc.norms.moments import PER_CHANNEL, POSITIONS, affine, affine_, column, mean_square
from normhpc.norms.slot import Norm


class EvoNormS(Norm):
    """y = x sigmoid(v x) / s * weight + bias.

    S0: s = sqrt(variance + eps) over each image's groups of channels and the positions, v of shape (C,) learned from 1.
    S1: the same with v = 1. S2: s = sqrt(mean of x^2 + eps), v = 1. weight starts at 1, bias at 0, both of shape (C,).
    Raises :class:`~normhpc.errors.InputError` when the groups do not divide the channels.
    """

    def __init__(self, config: configs.EvoNormSample, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.owns_act = act != "none"
        self.normalizes = self.owns_act or config.alone == "normalize"
        self.scope = "sample" if self.normalizes else "value"
        self.groups = number_of_groups(config, num_features)
        self.eps = config.eps
        self.centred = not isinstance(config, configs.EvoNormS2)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        gated = isinstance(config, configs.EvoNormS0) and self.owns_act
        self.v = nn.Parameter(torch.ones(num_features)) if gated else None

    def normalize(self, x: Tensor) -> Tensor:
        """The whole layer: norm and activation are one."""
        if not self.normalizes:
            return per_image(_affine, x, self.weight, self.bias)
        if not self.owns_act:
            return per_image(self._alone, x, self.weight, self.bias)
        parameters = (self.weight, self.bias) if self.v is None else (self.weight, self.bias, self.v)
        return per_image(self.formula, x, *parameters, gradient=self.gradient)

    def formula(self, x: Tensor, weight: Tensor, bias: Tensor, v: Tensor | None = None) -> Tensor:
        """As in the class."""
        _, r = self._spread(x)
        gated = F.silu(x) if v is None else x * torch.sigmoid(x * column(v))
        return affine_(gated, r * column(weight), column(bias))

    def gradient(
        self, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, v: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """With g the gradient times weight, r = 1 / s and m the size of a group:
        dx = g r (x sigmoid(v x))' - (x - mean) r^3 / m sum(g x sigmoid(v x)), the sum over the group.
        """
        mean, r = self._spread(x)
        gate = None if v is None else (x * column(v)).sigmoid_()
        gated = F.silu(x) if gate is None else x * gate
        of_plane = (grad * gated).sum(POSITIONS, keepdim=True)
        pull = self._over_groups(of_plane * column(weight)) / (x.shape[2] * x.shape[3]) * r * r.square()
        d_weight, d_bias = (of_plane * r).sum(PER_CHANNEL), grad.sum(PER_CHANNEL)
        g = grad * (r * column(weight))
        if v is None or gate is None:
            dx = torch.ops.aten.silu_backward(g, x).addcmul_(x, pull, value=-1)
            return dx if mean is None else dx.add_(pull * mean), d_weight, d_bias
        # (x sigmoid(v x))' = gate + v x gate (1 - gate) = gate + v (gated - gated gate)
        bend = gated.addcmul_(gated, gate, value=-1)
        slope = gate.addcmul_(bend, column(v))
        dx = slope.mul_(g).addcmul_(x, pull, value=-1)
        if mean is not None:
            dx += pull * mean
        return dx, d_weight, d_bias, bend.mul_(x).mul_(g).sum(PER_CHANNEL)

    def _alone(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        _, r = self._spread(x)
        return affine(x, r * column(weight), column(bias))

    def _spread(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Mean, where the layer is centred, and reciprocal spread of each group, for each channel (N, C, 1, 1)."""
        if not self.centred:
            squares = self._over_groups(mean_square(x))
            return None, squares.add(self.eps).rsqrt()
        # by way of the planes, whose statistics are quick in every memory format
        plane_mean = x.mean(POSITIONS, keepdim=True)
        plane_variance = (x - plane_mean).square().mean(POSITIONS, keepdim=True)
        mean = self._over_groups(plane_mean)
        variance = self._over_groups(plane_variance + (plane_mean - mean).square())
        return mean, variance.add(self.eps).rsqrt()

    def _over_groups(self, of_planes: Tensor) -> Tensor:
        """The mean over each group's channels, (N, C, 1, 1) to the same."""
        grouped = of_planes.view(of_planes.shape[0], self.groups, self.num_features // self.groups)
        return grouped.mean(2, keepdim=True).expand_as(grouped).reshape_as(of_planes)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, groups={self.groups}, eps={self.eps:g}, centred={self.centred}"


class EvoNormB(BatchFormula):
    """y = x / max(sqrt(v_b + eps), other) * weight + bias, v_b the variance over the batch and positions.

    What the larger of the two is told from is the other branch, a function of x and its own plane's statistics.
    weight starts at 1, bias at 0, both of shape (C,).
    """

    def __init__(self, config: configs.EvoNormBatch, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.owns_act = act != "none"
        self.follows_unbiased = config.running == "unbiased"
        self.normalizes = self.owns_act or config.alone == "normalize"
        if not self.normalizes:
            self.scope = "value"
            del self.running_mean, self.running_var

    def normalize(self, x: Tensor) -> Tensor:
        """The whole layer: norm and activation are one."""
        return super().normalize(x) if self.normalizes else per_image(_affine, x, self.weight, self.bias)

    def local_statistics(self) -> tuple[str, ...]:
        """The running statistics, where there are any."""
        return super().local_statistics() if self.normalizes else ()

    def formula(self) -> tuple[Formula, Gradient]:
        """As in the class, activation included; where there is none, over the batch's deviation alone."""
        return (self._larger, self._gradient) if self.owns_act else planewise(self._alone)

    def _larger(self, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        divisor = torch.maximum(self.other(x, *rest), column((variance + self.eps).sqrt()))
        return affine(x / divisor, column(weight), column(bias))

    def _alone(
        self, plane_mean: Tensor, plane_variance: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        scale = column((variance + self.eps).rsqrt() * weight)
        return scale, plane_mean * scale + column(bias)

    @abstractmethod
    def other(self, x: Tensor, *rest: Tensor) -> Tensor:
        """The branch that the batch's deviation is compared with, of the shape of x."""

    @abstractmethod
    def through_other(self, d_other: Tensor, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """The gradient by x and by each of ``rest`` of :meth:`other`."""

    def _gradient(
        self, grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """With d the larger, g the gradient times weight: dx = g / d, dd = -g x / d^2, which goes to the larger."""
        deviation = (variance + self.eps).sqrt()
        other = self.other(x, *rest)
        taken = other > column(deviation)
        reciprocal = torch.maximum(other, column(deviation)).reciprocal_()
        quotient = x * reciprocal
        dx = grad * reciprocal
        dweight = (dx * x).sum(PER_CHANNEL)
        dx *= column(weight)
        d_larger = quotient.mul_(dx).neg_()
        d_other = d_larger * taken
        d_deviation = (d_larger - d_other).sum(PER_CHANNEL)
        through, *others = self.through_other(d_other, x, *rest)
        dx += through
        return dx, torch.zeros_like(mean), d_deviation / (2 * deviation), dweight, grad.sum(PER_CHANNEL), *others


class EvoNormB0(EvoNormB):
    """The other branch is v x + sqrt(variance of the plane + eps), v of shape (C,) learned from 1."""

    def __init__(self, config: configs.EvoNormB0, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.v = nn.Parameter(torch.ones(num_features)) if self.owns_act else None

    def arguments(self) -> tuple[Tensor, ...]:
        """v, where the layer has it."""
        return () if self.v is None else (self.v,)

    def other(self, x: Tensor, *rest: Tensor) -> Tensor:
        """As in the class."""
        _, deviation = self._plane(x)
        return affine(x, column(rest[0]), deviation)

    def through_other(self, d_other: Tensor, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """d(sqrt(variance + eps)) = (x - mean) / (positions * deviation)."""
        mean, deviation = self._plane(x)
        pull = d_other.mean(POSITIONS, keepdim=True) / deviation
        dv = (d_other * x).sum(PER_CHANNEL)
        return (d_other * column(rest[0])).addcmul_(x - mean, pull), dv

    def _plane(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(POSITIONS, keepdim=True)
        return mean, (x - mean).square().mean(POSITIONS, keepdim=True).add(self.eps).sqrt()


class EvoNormB1(EvoNormB):
    """The other branch is (x + 1) sqrt(mean of x^2 of the plane + eps)."""

    def other(self, x: Tensor, *rest: Tensor) -> Tensor:
        """As in the class."""
        rms = _plane_rms(x, self.eps)
        return affine(x, rms, rms)

    def through_other(self, d_other: Tensor, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """d(sqrt(mean of x^2 + eps)) = x / (positions * rms)."""
        rms = _plane_rms(x, self.eps)
        pull = torch.addcmul(d_other, d_other, x).mean(POSITIONS, keepdim=True) / rms
        return (torch.addcmul(d_other * rms, x, pull),)


class EvoNormB2(EvoNormB):
    """The other branch is sqrt(mean of x^2 of the plane + eps) - x."""

    def other(self, x: Tensor, *rest: Tensor) -> Tensor:
        """As in the class."""
        return _plane_rms(x, self.eps) - x

    def through_other(self, d_other: Tensor, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """d(sqrt(mean of x^2 + eps)) = x / (positions * rms)."""
        pull = d_other.mean(POSITIONS, keepdim=True) / _plane_rms(x, self.eps)
        return (torch.addcmul(-d_other, x, pull),)


def _plane_rms(x: Tensor, eps: float) -> Tensor:
    return mean_square(x).add(eps).sqrt()


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return affine(x, column(weight), column(bias))
