"""The studied networks.

To add one: its config class in ``config/model.py``, a class in this folder and a line in :data:`MODELS`.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from normhpc import norms
from normhpc.config import RunConfig
from normhpc.config import model as config_model
from normhpc.models.block import NormAct as NormAct
from normhpc.models.convnet import ConvNet
from normhpc.models.resnet import ResNet

MODELS: dict[type[config_model.ModelPart], Callable[[Any, int, int, str, NormAct], nn.Module]] = {
    config_model.ConvNet: ConvNet,
    config_model.ResNet: ResNet,
}
"""The network of every model a run can name: (its config, image channels, classes, activation, norm factory)."""


def build(config: RunConfig) -> nn.Module:
    """The network of a run, in fp32 on the CPU; its weights are a function of torch's global random state alone.

    Maps (N, C, H, W) images of ``config.data`` to logits (N, classes). ``channels_last`` and ``compile`` are left
    to the caller. Raises :class:`~normhpc.errors.InputError` when the norm cannot take the network's widths.
    """

    def norm_act(channels: int, act: str) -> norms.Norm:
        return norms.build(config.norm, channels, act)

    image_channels = config.data.image_shape()[0]
    model = MODELS[type(config.model)]
    return model(config.model, image_channels, config.data.classes(), config.act, norm_act)
