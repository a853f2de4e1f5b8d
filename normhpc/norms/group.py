"""Statistics of one image over groups of channels and all positions: group, layer and instance norm."""

import torch
from torch import Tensor, nn

from normhpc.config.norm import ChannelGroups, GroupNorm, InstanceNorm, LayerNorm
from normhpc.errors import InputError
from normhpc.norms.slot import Norm, memory_format_of


class Group(Norm):
    """y = act((x - m) / sqrt(v + eps) * weight + bias), m and v over each image's groups of channels and positions.

    v is the biased variance; weight and bias have shape (C,) and start at 1 and 0. Wu and He 2018,
    arXiv:1803.08494. One group is :class:`Layer`, as many groups as channels :class:`Instance`.

    Raises :class:`~normhpc.errors.InputError` when the groups do not divide the channels.
    """

    scope = "sample"

    def __init__(self, config: GroupNorm | LayerNorm | InstanceNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.groups = self.groups_of(config, num_features)
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    @staticmethod
    def groups_of(config: GroupNorm | LayerNorm | InstanceNorm, num_features: int) -> int:
        """Number of groups in a layer of ``num_features`` channels."""
        assert isinstance(config, GroupNorm)
        return number_of_groups(config, num_features)

    def normalize(self, x: Tensor) -> Tensor:
        """Statistics in fp32 also under autocast, where CUDA's group norm would return fp32 and double the memory."""
        # On CPUs torch's kernel for channels_last takes E[x^2] - E[x]^2: off by 0.6 % where the mean is 100 times
        # the spread and by a factor of 1000 where it is 10,000 times.
        source = x.contiguous() if x.device.type == "cpu" else x
        with torch.autocast(x.device.type, enabled=False):
            y = torch.group_norm(source, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return y.contiguous(memory_format=memory_format_of(x))

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


def number_of_groups(config: ChannelGroups, num_features: int) -> int:
    """Groups in a layer of ``num_features`` channels. Raises :class:`InputError` when they do not divide them."""
    if config.groups is not None:
        if num_features % config.groups:
            raise InputError(
                f"norm.groups: {config.groups} groups do not divide {num_features} channels; {_divisors(num_features)}"
            )
        return config.groups
    assert config.group_size is not None
    if num_features % config.group_size:
        raise InputError(
            f"norm.group_size: groups of {config.group_size} channels do not divide {num_features} channels; "
            f"{_divisors(num_features)}"
        )
    return num_features // config.group_size


def _divisors(channels: int) -> str:
    return f"what does: {', '.join(str(size) for size in range(1, channels + 1) if channels % size == 0)}"
