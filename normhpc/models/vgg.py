"""Deep plain networks: BeyondBatchNorm's VGGs."""

from dataclasses import replace

from torch import Tensor, nn

from normhpc.config.model import Vgg as VggConfig
from normhpc.config.norm import ChannelGroups
from normhpc.errors import InputError
from normhpc.models.block import ConvSlot, Layers, mean_over_positions


class Vgg(nn.Module):
    """3x3 convolutions, each with its slot, some of stride 2; then global average pooling and a linear layer.

    Initial weights by He et al. 2015 over fan in. (N, *image_shape) to logits (N, classes). Raises
    :class:`~normhpc.errors.InputError` when there is a ``group_list`` for a norm without groups.
    """

    def __init__(self, config: VggConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> None:
        super().__init__()
        layers = replace(layers, fan="fan_in")
        below = image_shape[0]
        parts = []
        for number, (width, stride) in enumerate(config.layers()):
            groups = None if config.group_list is None else config.group_list[number]
            parts.append(ConvSlot(below, width, 3, _grouped(layers, groups), stride=stride))
            below = width
        self.layers = nn.ModuleList(parts)
        self.head = nn.Linear(below, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(mean_over_positions(x))
        return logits


def _grouped(layers: Layers, groups: int | None) -> Layers:
    """``layers`` with so many groups in the norm; None leaves the norm's own rule."""
    if groups is None:
        return layers
    if not isinstance(layers.norm, ChannelGroups):
        raise InputError(f"model.group_list: {layers.norm.name} has no groups of channels; use group or an EvoNorm S")
    rule = {"groups": groups, "group_size": None, "p_grouping": None}
    return replace(layers, norm=layers.norm.model_copy(update=rule))
