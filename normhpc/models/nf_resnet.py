"""Normalizer-free residual networks (Brock et al. 2021, arXiv:2101.08692 and arXiv:2102.06171)."""

from torch import Tensor, nn

from normhpc.config.model import ResNet as ResNetConfig
from normhpc.models.block import Layers, SkipInit, mean_over_positions, stages

ALPHA = 0.2
"""What a branch of unit variance is multiplied by before it is added."""


class NfResNet(nn.Module):
    """The CIFAR ResNet of depth 6n+2 with normalizer-free blocks, slots before convolutions.

    Signals are followed from the stem's expected variance 1: each block adds alpha^2, and the first block of a stage,
    whose shortcut starts anew from the scaled input, sets it back to 1 before it adds. A last slot precedes the
    pooling. (N, *image_shape) to logits (N, classes).
    """

    def __init__(self, config: ResNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> None:
        super().__init__()
        widths = config.norm_widths()
        last = layers.slot(widths[-1])
        self.stem = layers.convolution(image_shape[0], widths[0], 3, shifts=last.shifts)
        blocks = []
        variance = 1.0
        for number, (inputs, outputs, stride) in enumerate(stages(widths, config.blocks_per_stage)):
            blocks.append(NfBlock(inputs, outputs, stride, layers, beta=variance**-0.5))
            variance = (1.0 if number % config.blocks_per_stage == 0 else variance) + ALPHA**2
        self.blocks = nn.ModuleList(blocks)
        self.slot = last
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(mean_over_positions(self.slot(x)))
        return logits


class NfBlock(nn.Module):
    """shortcut + alpha gain conv2(slot2(conv1(slot1(beta x)))), with gain a learned scalar that starts at 0.

    beta is 1 over the expected standard deviation of x. The shortcut is x, or where the width changes a strided 1x1
    convolution of slot1(beta x).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.slot1 = layers.slot(inputs)
        self.slot2 = layers.slot(outputs)
        shifts = self.slot2.shifts
        self.conv1 = layers.convolution(inputs, outputs, 3, shifts=shifts, stride=stride)
        self.conv2 = layers.convolution(outputs, outputs, 3, shifts=shifts)
        self.gain = SkipInit()
        self.shortcut = None
        if inputs != outputs:
            self.shortcut = layers.convolution(inputs, outputs, 1, shifts=shifts, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        inner = self.slot1(self.beta * x)
        shortcut = x if self.shortcut is None else self.shortcut(inner)
        branch: Tensor = self.gain(self.conv2(self.slot2(self.conv1(inner))))
        y: Tensor = shortcut + ALPHA * branch
        return y
