"""The small plain network."""

import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.model import ConvNet as ConvNetConfig
from normhpc.models.block import ConvSlot, NormAct, mean_over_positions


class ConvNet(nn.Module):
    """Per width one 3x3 convolution, slot and 2x2 max pooling; then global average pooling and a linear layer.

    (N, image_channels, H, W) to logits (N, classes), for any H and W of at least 2 ** len(widths).
    """

    def __init__(self, config: ConvNetConfig, image_channels: int, classes: int, act: str, norm_act: NormAct) -> None:
        super().__init__()
        inputs = (image_channels, *config.widths[:-1])
        self.layers = nn.ModuleList(
            ConvSlot(below, width, 3, 1, act, norm_act) for below, width in zip(inputs, config.widths, strict=True)
        )
        self.head = nn.Linear(config.widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        for layer in self.layers:
            x = F.max_pool2d(layer(x), 2)
        logits: Tensor = self.head(mean_over_positions(x))
        return logits
