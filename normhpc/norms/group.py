"""Statistics of one image over groups of channels and all positions: group, layer and instance norm."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.norm import ChannelGroups, GroupNorm, InstanceNorm, LayerNorm, LayerPixelNorm
from normhpc.errors import InputError
from normhpc.norms.lean import per_image, planewise
from normhpc.norms.moments import PER_CHANNEL, affine, column
from normhpc.norms.slot import Norm, memory_format_of

_MEAN_OVER_SPREAD = 2.0
"""Mean over standard deviation up to which E[x^2] - E[x]^2 loses no digit that counts: an error of 1e-6 in fp32."""

_WIDE_GROUP = 16
"""Channels of a group that fill a vector of bf16; torch's kernel takes fewer one by one, several times as long as ours."""

_ROWS_WORTH_A_WEIGHT_EACH = 20
"""Images from which on a weight for each of their values adds less than a twentieth to what the layer keeps."""


class Group(Norm):
    """y = act((x - m) / sqrt(v + eps) * weight + bias), m and v over each image's groups of channels and positions.

    v is the biased variance, with ``unbiased`` the one with one value less in the denominator; weight and bias have shape (C,) and start at 1 and 0. Wu and He 2018,
    arXiv:1803.08494. One group is :class:`Layer`, as many groups as channels :class:`Instance`.

    Raises :class:`~normhpc.errors.InputError` when the groups do not divide the channels.
    """

    scope = "sample"

    def __init__(self, config: GroupNorm | LayerNorm | InstanceNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.groups = self.groups_of(config, num_features)
        self.eps = config.eps
        self.unbiased = isinstance(config, GroupNorm) and config.unbiased
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    @staticmethod
    def groups_of(config: GroupNorm | LayerNorm | InstanceNorm, num_features: int) -> int:
        """Number of groups in a layer of ``num_features`` channels."""
        assert isinstance(config, GroupNorm)
        return number_of_groups(config, num_features)

    def normalize(self, x: Tensor) -> Tensor:
        """torch's kernel; on CPUs for channels_last only where it is exact."""
        weight: Tensor = self.weight
        eps = self.eps
        if self.unbiased:
            # v m / (m - 1) + eps = m / (m - 1) (v + eps (m - 1) / m)
            shrink = 1 / self._correction(x)
            eps, weight = eps * shrink, weight * math.sqrt(shrink)
        # Under autocast CUDA's group norm would return fp32 and double the memory.
        with torch.autocast(x.device.type, enabled=False):
            on_cpu = x.device.type == "cpu"
            # on CPUs torch keeps mean and spread in fp32 for weights in fp32, at no cost; on GPUs it takes no such mixture
            kind = torch.promote_types(x.dtype, torch.float32) if on_cpu else x.dtype
            if not on_cpu or memory_format_of(x) != torch.channels_last:
                y = torch.group_norm(x, self.groups, weight.to(kind), self.bias.to(kind), eps)
                return y.contiguous(memory_format=memory_format_of(x))
            full = x.dtype == kind
            # torch's takes E[x^2] - E[x]^2 there: off by a factor of 1000 where the mean is 10,000 times the spread
            if not torch.compiler.is_compiling() and (full or self.num_features // self.groups >= _WIDE_GROUP):
                sizes = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3], self.groups)
                y, mean, r = torch.native_group_norm(x, weight.to(kind), self.bias.to(kind), *sizes, eps)
                if y.numel() == 0 or bool((mean.detach() * r.detach()).abs().amax() <= _MEAN_OVER_SPREAD):
                    return y
            many_rows = x.shape[0] >= _ROWS_WORTH_A_WEIGHT_EACH
            if self.groups == 1 and not self.unbiased and many_rows and full:
                return self._by_rows(x)
        formula, gradient = planewise(partial(self._coefficients, self._correction(x)))
        return per_image(formula, x, self.weight, self.bias, gradient=gradient)

    def _by_rows(self, x: Tensor) -> Tensor:
        """torch's layer norm of each image as one row, which channels_last makes contiguous; weight at each position."""
        rows = x.permute(0, 2, 3, 1).flatten(1)
        positions = x.shape[2] * x.shape[3]
        weight, bias = (part.to(x.dtype).repeat(positions) for part in (self.weight, self.bias))
        y = F.layer_norm(rows, rows.shape[1:], weight, bias, self.eps)
        return y.view(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)

    def _correction(self, x: Tensor) -> float:
        """What the biased variance is multiplied by."""
        if not self.unbiased:
            return 1.0
        values = x.shape[2] * x.shape[3] * (self.num_features // self.groups)
        if values == 1:
            raise InputError(
                f"norm: the unbiased variance of one value is not defined (input {tuple(x.shape)}, {self.groups} groups); "
                "use fewer groups, larger images or unbiased: false"
            )
        return values / (values - 1)

    def _coefficients(
        self, correction: float, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        shape = (mean.shape[0], self.groups, self.num_features // self.groups)
        means = mean.view(shape)
        group_mean = means.mean(2, keepdim=True)
        group_variance = (variance.view(shape) + (means - group_mean).square()).mean(2, keepdim=True)
        r = (group_variance * correction + self.eps).rsqrt()
        scale = r.expand_as(means).reshape_as(mean) * column(weight)
        return scale, (means - group_mean).reshape_as(mean) * scale + column(bias)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, groups={self.groups}, eps={self.eps:g}"


class Layer(Group):
    """Statistics of each image over all channels and positions, affine per channel (Ba et al. 2016, arXiv:1607.06450).

    Unlike ``nn.LayerNorm([C, H, W])`` it has 2C parameters, not 2CHW, and takes any image size.
    """

    @staticmethod
    def groups_of(config: GroupNorm | LayerNorm | InstanceNorm, num_features: int) -> int:
        """One group."""
        return 1


class Instance(Group):
    """Statistics of each image and channel over the positions, with affine (Ulyanov et al. 2016, arXiv:1607.08022).

    Unlike ``nn.InstanceNorm2d`` it keeps channels_last. Raises :class:`~normhpc.errors.InputError` on a single
    pixel, over which the output would be the bias whatever the input.
    """

    @staticmethod
    def groups_of(config: GroupNorm | LayerNorm | InstanceNorm, num_features: int) -> int:
        """A group per channel."""
        return num_features

    def normalize(self, x: Tensor) -> Tensor:
        """As :class:`Group`, but refuses a single pixel."""
        if x.shape[2] * x.shape[3] == 1:
            raise InputError(
                f"norm: instance norm over a single pixel is always 0 (input {tuple(x.shape)}); "
                "use larger images, fewer downsampling layers or another norm"
            )
        return super().normalize(x)


class LayerPixel(Norm):
    """y = act((x - m) / sqrt(v + eps) * weight + bias), m and v over the channels at each position, v biased.

    weight and bias have shape (C,) and start at 1 and 0. The layer norm of transformers (Ba et al. 2016,
    arXiv:1607.06450), at every pixel as in ConvNeXt.
    """

    scope = "pixel"

    def __init__(self, config: LayerPixelNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """torch's kernel where the channels of a position lie together, otherwise in blocks of images."""
        if memory_format_of(x) == torch.channels_last:
            with torch.autocast(x.device.type, enabled=False):
                rows = x.permute(0, 2, 3, 1)
                y = F.layer_norm(rows, (self.num_features,), self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
            return y.permute(0, 3, 1, 2)
        return per_image(self._formula, x, self.weight, self.bias, gradient=self._gradient)

    def _formula(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred, r = self._centred(x)
        return affine(centred * r, column(weight), column(bias))

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """With n the normalized x, g the gradient times weight: dx = r (g - mean(g) - n mean(g n))."""
        normal, r = self._centred(x)
        normal = normal * r
        product = grad * normal
        g = grad * column(weight)
        pull = (product * column(weight)).mean(1, keepdim=True)
        dx = (g - g.mean(1, keepdim=True)).addcmul_(normal, pull, value=-1).mul_(r)
        return dx, product.sum(PER_CHANNEL), grad.sum(PER_CHANNEL)

    def _centred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x - x.mean(1, keepdim=True)
        return centred, centred.square().mean(1, keepdim=True).add(self.eps).rsqrt()

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, eps={self.eps:g}"


def number_of_groups(config: ChannelGroups, num_features: int) -> int:
    """Groups in a layer of ``num_features`` channels. Raises :class:`InputError` when they do not divide them."""
    groups = config.groups_of(num_features)
    if groups is not None:
        return groups
    rule, value = config.rule
    divisors = ", ".join(str(size) for size in range(1, num_features + 1) if num_features % size == 0)
    raise InputError(
        f"norm.{rule}: {rule} {value:g} does not divide {num_features} channels; what does: {divisors}; "
        "indivisible: shrink takes the next number of groups that does"
    )
