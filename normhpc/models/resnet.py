"""Residual networks for small images."""

import torch
from torch import Tensor, nn

from normhpc.config.model import ResNet as ResNetConfig
from normhpc.models.block import ConvSlot, NormAct, mean_over_positions
from normhpc.norms import ParamSpec, activate


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6n+2 (He et al. 2015, arXiv:1512.03385, section 4.2).

    A 3x3 stem, three stages of n basic blocks with w, 2w and 4w channels, the second and third starting with
    stride 2, global average pooling and a linear layer. (N, image_channels, H, W) to logits (N, classes).
    """

    def __init__(self, config: ResNetConfig, image_channels: int, classes: int, act: str, norm_act: NormAct) -> None:
        super().__init__()
        widths = config.norm_widths()
        self.stem = ConvSlot(image_channels, widths[0], 3, 1, act, norm_act)
        blocks = []
        below = widths[0]
        for stage, width in enumerate(widths):
            for block in range(config.blocks_per_stage):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(below, width, stride, act, norm_act, config.residual))
                below = width
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(mean_over_positions(x))
        return logits


class BasicBlock(nn.Module):
    """act(shortcut(x) + branch(x)): the branch is conv, slot, conv, norm; the activation after the sum is a plain one.

    Where the width changes the shortcut is a strided 1x1 convolution with its own norm, otherwise the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, act: str, norm_act: NormAct, residual: str) -> None:
        super().__init__()
        self.act = act
        self.conv1 = ConvSlot(inputs, outputs, 3, stride, act, norm_act)
        self.conv2 = ConvSlot(outputs, outputs, 3, 1, "none", norm_act)
        self.scale = SkipInit() if residual == "skipinit" else nn.Identity()
        self.shortcut = nn.Identity() if inputs == outputs else ConvSlot(inputs, outputs, 1, stride, "none", norm_act)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        branch = self.scale(self.conv2(self.conv1(x)))
        return activate(branch + self.shortcut(x), self.act, overwrite=True)


class SkipInit(nn.Module):
    """Multiplies a residual branch by a learned scalar that starts at 0 (De and Smith 2020, arXiv:2002.10444)."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """factor * x."""
        return self.factor * x

    def param_specs(self) -> dict[str, ParamSpec]:
        """No weight decay on the scalar."""
        return {"factor": ParamSpec()}
