"""The residual network of BeyondBatchNorm."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from normhpc.config.model import BbnResNet as BbnResNetConfig
from normhpc.config.norm import FilterResponseTlu, NoNorm
from normhpc.models.activation import Activation, Threshold
from normhpc.models.block import ConvSlot, Layers, SkipInit, mean_over_positions, stages


class BbnResNet(nn.Module):
    """A 3x3 stem, three stages of n blocks with w, 2w and 4w channels, global average pooling and a linear layer.

    Initial weights by He et al. 2015 over fan in. (N, *image_shape) to logits (N, classes).
    """

    def __init__(
        self, config: BbnResNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers
    ) -> None:
        super().__init__()
        layers = replace(layers, fan="fan_in")
        widths = config.norm_widths()
        self.stem = ConvSlot(image_shape[0], widths[0], 3, layers)
        kind = PreactBlock if config.preact else PostactBlock
        ends = ends_of(layers, config)
        self.blocks = nn.ModuleList(
            kind(*block, layers, ends, config) for block in stages(widths, config.blocks_per_stage)
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(mean_over_positions(x))
        return logits


class Ends(NamedTuple):
    """What builds the ends of blocks."""

    bare: Layers
    """The end of a branch and its shortcut: without norm where that goes behind the sum."""
    after_sum: Callable[[int], nn.Module]
    """What follows the sum, on so many channels."""


class PostactBlock(nn.Module):
    """end(shortcut(x) + branch(x)): the branch is conv, slot, conv, norm; end is the activation, or a joint slot.

    Where the width changes the shortcut is a strided 3x3 convolution with its own norm, otherwise the identity. With
    ``act_before_sum`` the branch ends with the activation and nothing follows the sum.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, layers: Layers, ends: Ends, config: BbnResNetConfig
    ) -> None:
        super().__init__()
        self.conv1 = ConvSlot(inputs, outputs, 3, layers, stride=stride)
        last = layers if config.act_before_sum else ends.bare
        self.conv2 = ConvSlot(outputs, outputs, 3, last, act=config.act_before_sum)
        self.scale = SkipInit() if config.residual == "skipinit" else nn.Identity()
        self.shortcut = (
            nn.Identity() if inputs == outputs else ConvSlot(inputs, outputs, 3, ends.bare, stride=stride, act=False)
        )
        self.end = nn.Identity() if config.act_before_sum else ends.after_sum(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.end(self.scale(self.conv2(self.conv1(x))) + self.shortcut(x))
        return y


class PreactBlock(nn.Module):
    """shortcut(x) + branch(x): the branch is slot, conv, slot, conv; nothing follows the sum.

    Where the width changes the shortcut is a norm, then a strided 3x3 convolution, otherwise the identity.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, layers: Layers, ends: Ends, config: BbnResNetConfig
    ) -> None:
        super().__init__()
        self.slot1 = layers.slot(inputs)
        self.slot2 = layers.slot(outputs)
        shifts = self.slot2.shifts
        self.conv1 = layers.convolution(inputs, outputs, 3, shifts=shifts, stride=stride)
        self.conv2 = layers.convolution(outputs, outputs, 3, shifts=shifts)
        self.scale = SkipInit() if config.residual == "skipinit" else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            norm = ends.bare.slot(inputs, act=False)
            self.shortcut = nn.Sequential(
                norm, layers.convolution(inputs, outputs, 3, shifts=norm.shifts, stride=stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        branch: Tensor = self.scale(self.conv2(self.slot2(self.conv1(self.slot1(x)))))
        y: Tensor = branch + self.shortcut(x)
        return y


def ends_of(layers: Layers, config: BbnResNetConfig) -> Ends:
    """The ends of blocks of ``layers``; where norm and activation are one, ``joint_slot`` says where they go."""
    if config.joint_slot == "branch" or not layers.slot(config.width).owns_act:
        return Ends(layers, lambda channels: Activation(layers.act))
    if isinstance(layers.norm, FilterResponseTlu):
        return Ends(layers, Threshold)
    return Ends(replace(layers, norm=NoNorm(), conv=layers.method), layers.slot)
