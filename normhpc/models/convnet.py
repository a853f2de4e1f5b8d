"""The small plain network."""

import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.model import ConvNet as ConvNetConfig
from normhpc.models.block import ConvSlot, Layers, mean_over_positions
from normhpc.models.head import BackboneWithHead


class ConvNet(BackboneWithHead):
    """Per width one 3x3 convolution, slot and 2x2 max pooling; then global average pooling and a linear layer.

    (N, *image_shape) to logits (N, classes), for any height and width of at least 2 ** len(widths).
    """

    def __init__(self, config: ConvNetConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> None:
        super().__init__()
        inputs = (image_shape[0], *config.widths[:-1])
        self.layers = nn.ModuleList(
            ConvSlot(below, width, 3, layers) for below, width in zip(inputs, config.widths, strict=True)
        )
        self.head = nn.Linear(config.widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """Means over the positions of the last map, (N, widths[-1])."""
        x = images
        for layer in self.layers:
            x = F.max_pool2d(layer(x), 2)
        return mean_over_positions(x)
