"""Small convolutional networks for CIFAR-10 and MNIST, as in the studies this one repeats.

Their convolutions start by torch's default and have no bias, whatever the norm, unless
``conv_bias`` is true. They give logits where the originals
end with log-softmax, which is part of the loss here.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from normhpc.config.model import EraConvNet as EraConvNetConfig
from normhpc.config.model import EvaConvNet as EvaConvNetConfig
from normhpc.config.model import MnistModel as MnistModelConfig
from normhpc.config.norm import WeightPart
from normhpc.models.activation import Activation
from normhpc.models.block import Layers
from normhpc.models.head import BackboneWithHead
from normhpc.norms.weight import transformed


class EraConvNet(BackboneWithHead):
    """Blocks of two, three and three 3x3 convolutions with replicate padding; the first block's have none.

    Between blocks a 1x1 convolution to the next width, without norm and activation, and 2x2 max pooling; at the end
    the mean over positions. From swapniel99/erav1s8. (N, *image_shape) to logits (N, classes), for images of at least
    8x8.
    """

    def __init__(
        self, config: EraConvNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers
    ) -> None:
        super().__init__()
        widths = config.norm_widths()
        blocks: list[nn.Module] = [
            EraLayer(below, widths[0], layers, padding=0, skip=False, dropout=config.dropout)
            for below in (image_shape[0], widths[0])
        ]
        for below, width in pairwise(widths):
            blocks += [convolution(below, width, 1, layers), nn.MaxPool2d(2)]
            blocks += [
                EraLayer(width, width, layers, padding=1, skip=config.skip, dropout=config.dropout) for _ in range(3)
            ]
        self.layers = nn.ModuleList(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 32)."""
        x = images
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.pool(x)
        return y.flatten(1)


class EraLayer(nn.Module):
    """dropout(act(norm(conv(x)) + x)), the sum only with ``skip``; without it norm and activation are one slot."""

    def __init__(self, inputs: int, outputs: int, layers: Layers, *, padding: int, skip: bool, dropout: float) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, 3, layers, padding=padding, padding_mode="replicate")
        self.slot = layers.slot(outputs, act=not skip)
        self.skip = skip
        self.end = Activation(layers.act) if skip else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W), less 2 rows and columns without padding."""
        y: Tensor = self.slot(self.conv(x))
        if self.skip:
            y = self.end(y + x)
        dropped: Tensor = self.dropout(y)
        return dropped


class MnistModel(BackboneWithHead):
    """3x3 convolutions in two pairs and one, 2x2 max pooling after each pair, mean over positions, 1x1 convolution.

    A slot follows every convolution, the 1x1 one too, except in ``mnist_model4`` and ``mnist_model5``: there the
    activation comes first, and the norm stands before the next convolution, after a pooling between them;
    ``mnist_model5`` has dropout between convolution and activation. From swapniel99/erav1s8. (N, *image_shape) to
    logits (N, classes), for images of at least 4x4.
    """

    def __init__(
        self, config: MnistModelConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers
    ) -> None:
        super().__init__()
        widths = config.widths()
        kernels = (3, 3, 3, 3, 3, 1)
        pools = (None, nn.MaxPool2d(2), None, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), None)
        self.layers = nn.ModuleList(
            MnistLayer(below, width, kernel, pool, layers, config.name)
            for below, width, kernel, pool in zip((image_shape[0], *widths[:-1]), widths, kernels, pools, strict=True)
        )
        self.head = nn.Linear(widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 32), of ``mnist_model2`` to (N, 256)."""
        x = images
        for layer in self.layers:
            x = layer(x)
        return x.flatten(1)


class MnistLayer(nn.Module):
    """pool(slot(conv(x))) in ``mnist_model2`` and 3; norm(pool(act(dropout(conv(x))))) in ``mnist_model4`` and 5."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, pool: nn.Module | None, layers: Layers, name: str
    ) -> None:
        super().__init__()
        self.norm_last = name in ("mnist_model4", "mnist_model5")
        self.conv = convolution(inputs, outputs, kernel, layers, padding=kernel // 2)
        self.dropout = nn.Dropout(0.01) if name == "mnist_model5" else nn.Identity()
        self.act = Activation(layers.act) if self.norm_last else nn.Identity()
        self.pool = pool or nn.Identity()
        self.slot = layers.slot(outputs, act=not self.norm_last)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W'), H' and W' as the pooling leaves them."""
        x = self.conv(x)
        if not self.norm_last:
            pooled: Tensor = self.pool(self.slot(x))
            return pooled
        normed: Tensor = self.slot(self.pool(self.act(self.dropout(x))))
        return normed


class EvaConvNet(BackboneWithHead):
    """Seven 3x3 convolutions with their slots, 2x2 max pooling after the second, mean over positions, two linear layers.

    The first two convolutions have zero padding, the others none. There is no activation between the linear layers.
    From EVA6-Group-15/dl-normalization. (N, *image_shape) to logits (N, classes), for images of at least 22x22.
    """

    def __init__(
        self, config: EvaConvNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers
    ) -> None:
        super().__init__()
        widths = (8, 8, 12, 12, 12, 12, 16)
        stages: list[nn.Module] = []
        for index, (below, width) in enumerate(zip((image_shape[0], *widths[:-1]), widths, strict=True)):
            stages += [convolution(below, width, 3, layers, padding=1 if index < 2 else 0), layers.slot(width)]
            if index == 1:
                stages.append(nn.MaxPool2d(2))
        self.layers = nn.ModuleList(stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.widen = nn.Linear(widths[-1], 24)
        self.head = nn.Linear(24, classes)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 24)."""
        x = images
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.widen(self.pool(x).flatten(1))
        return y


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    layers: Layers,
    *,
    padding: int = 0,
    padding_mode: Literal["zeros", "replicate"] = "zeros",
) -> nn.Conv2d:
    """Convolution that starts by torch's default, with the run's method on weights; a bias starts at 0."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, padding_mode=padding_mode, bias=False)
    if layers.conv_bias is True:
        conv.bias = nn.Parameter(torch.zeros(outputs))
    return transformed(conv, layers.method, layers.act) if isinstance(layers.method, WeightPart) else conv
