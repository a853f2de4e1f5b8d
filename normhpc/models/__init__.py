"""The studied networks.

To add one: its config class in ``config/model/``, a class in this folder and a line in :data:`MODELS`.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from normhpc.config import RunConfig
from normhpc.config import model as config_model
from normhpc.models.bbn_resnet import BbnResNet
from normhpc.models.block import Layers as Layers
from normhpc.models.convnet import ConvNet
from normhpc.models.head import classifier as classifier
from normhpc.models.resnet import residual_network
from normhpc.models.small import EraConvNet, EvaConvNet, MnistModel
from normhpc.models.vgg import Vgg
from normhpc.models.vit import Vit
from normhpc.models.zoo import zoo_network

MODELS: dict[type[config_model.ModelPart], Callable[[Any, tuple[int, int, int], int, Layers], nn.Module]] = {
    config_model.ConvNet: ConvNet,
    config_model.Vgg: Vgg,
    config_model.ResNet: residual_network,
    config_model.BbnResNet: BbnResNet,
    config_model.EraConvNet: EraConvNet,
    config_model.MnistModel: MnistModel,
    config_model.EvaConvNet: EvaConvNet,
    config_model.Vit: Vit,
    config_model.TorchvisionModel: zoo_network,
    config_model.TimmModel: zoo_network,
}
"""The network of every model a run can name: (its config, image shape, classes, layers)."""


def build(config: RunConfig) -> nn.Module:
    """The network of a run, in fp32 on the CPU; its weights are a function of torch's global random state alone.

    Maps (N, C, H, W) images of ``config.data`` to logits (N, classes). ``channels_last`` and ``compile`` are left
    to the caller. Raises :class:`~normhpc.errors.InputError` when the norm cannot take the network's widths.
    """
    network = MODELS[type(config.model)]
    layers = Layers(config.norm, config.act, config.model.conv, config.model.conv_bias)
    return network(config.model, config.data.image_shape(), config.data.classes(), layers)
