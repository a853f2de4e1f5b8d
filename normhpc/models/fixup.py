"""Residual networks without norms, held by their initial weights (Zhang et al. 2019, arXiv:1901.09321)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.model import ResNet as ResNetConfig
from normhpc.models.activation import Activation
from normhpc.models.block import Layers, mean_over_positions, stages
from normhpc.norms import ParamSpec


class FixupResNet(nn.Module):
    """The CIFAR ResNet of depth 6n+2 with Fixup blocks, as the authors' code for CIFAR has it.

    A scalar bias behind the stem and before the head, which starts at 0; convolutions have no bias of their own
    unless the run asks for it. (N, *image_shape) to logits (N, classes).
    """

    def __init__(self, config: ResNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> None:
        super().__init__()
        widths = config.norm_widths()
        self.stem = layers.convolution(image_shape[0], widths[0], 3, shifts=True)
        self.stem_bias = ScalarBias()
        self.stem_slot = layers.slot(widths[0])
        count = 3 * config.blocks_per_stage
        self.blocks = nn.ModuleList(
            FixupBlock(*block, layers, count) for block in stages(widths, config.blocks_per_stage)
        )
        self.head_bias = ScalarBias()
        self.head = nn.Linear(widths[-1], classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.stem_slot(self.stem_bias(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.head_bias(mean_over_positions(x)))
        return logits


class FixupBlock(nn.Module):
    """act(shortcut + factor conv2(act(conv1(x + b1) + b2) + b3) + b4), all of b and factor scalars.

    conv1 starts at He's deviation times ``count`` ** -1/2, with ``count`` the blocks of the network, conv2 at 0, the
    biases at 0, the factor at 1. The shortcut is x; where the width changes it takes every second position of x + b1
    and fills the new channels with zeros.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers, count: int) -> None:
        super().__init__()
        self.stride = stride
        self.more = outputs - inputs
        self.bias1 = ScalarBias()
        self.conv1 = layers.convolution(inputs, outputs, 3, shifts=True, stride=stride)
        self.bias2 = ScalarBias()
        self.slot = layers.slot(outputs)
        self.bias3 = ScalarBias()
        self.conv2 = layers.convolution(outputs, outputs, 3, shifts=True)
        self.factor = nn.Parameter(torch.ones(()))
        self.bias4 = ScalarBias()
        self.end = Activation(layers.act)
        with torch.no_grad():
            self.conv1.weight *= count**-0.5
            self.conv2.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        shifted = self.bias1(x)
        branch = self.conv2(self.bias3(self.slot(self.bias2(self.conv1(shifted)))))
        branch = self.bias4(self.factor * branch)
        changes = self.stride > 1 or self.more > 0
        shortcut = F.pad((shifted if changes else x)[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        y: Tensor = self.end(branch + shortcut)
        return y

    def param_specs(self) -> dict[str, ParamSpec]:
        """A tenth of the learning rate, as the authors have it, and no weight decay."""
        return {"factor": ParamSpec(lr_factor=0.1)}


class ScalarBias(nn.Module):
    """Adds a learned scalar that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """x + bias."""
        return x + self.bias

    def param_specs(self) -> dict[str, ParamSpec]:
        """A tenth of the learning rate, as the authors have it, and no weight decay."""
        return {"bias": ParamSpec(lr_factor=0.1)}
