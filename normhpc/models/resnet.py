"""Residual networks for small images."""

from torch import Tensor, nn

from normhpc.config.model import ResNet as ResNetConfig
from normhpc.models.activation import Activation
from normhpc.models.block import ConvSlot, Layers, SkipInit, mean_over_positions, stages
from normhpc.models.fixup import FixupResNet
from normhpc.models.nf_resnet import NfResNet


def residual_network(
    config: ResNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers
) -> nn.Module:
    """The network of ``config.residual``."""
    match config.residual:
        case "fixup":
            return FixupResNet(config, image_shape, classes, layers)
        case "nf":
            return NfResNet(config, image_shape, classes, layers)
    return ResNet(config, image_shape, classes, layers)


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6n+2 (He et al. 2015, arXiv:1512.03385, section 4.2).

    A 3x3 stem, three stages of n basic blocks with w, 2w and 4w channels, the second and third starting with
    stride 2, global average pooling and a linear layer. (N, *image_shape) to logits (N, classes).
    """

    def __init__(self, config: ResNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> None:
        super().__init__()
        widths = config.norm_widths()
        self.stem = ConvSlot(image_shape[0], widths[0], 3, layers)
        self.blocks = nn.ModuleList(
            BasicBlock(*block, layers, config.residual) for block in stages(widths, config.blocks_per_stage)
        )
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
    With ``residual`` skipinit or rezero the branch is multiplied by a scalar that starts at 0. SkipInit (De and Smith
    2020, arXiv:2002.10444) and ReZero (Bachlechner et al. 2020, arXiv:2003.04887) share that formula, x + factor
    branch(x); ReZero was proposed for networks without norm, whose learning rate the scalar lets rise.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers, residual: str) -> None:
        super().__init__()
        self.conv1 = ConvSlot(inputs, outputs, 3, layers, stride=stride)
        self.conv2 = ConvSlot(outputs, outputs, 3, layers, act=False)
        self.scale = SkipInit() if residual in ("skipinit", "rezero") else nn.Identity()
        self.shortcut = (
            nn.Identity() if inputs == outputs else ConvSlot(inputs, outputs, 1, layers, stride=stride, act=False)
        )
        self.end = Activation(layers.act)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        branch = self.scale(self.conv2(self.conv1(x)))
        y: Tensor = self.end(branch + self.shortcut(x))
        return y
