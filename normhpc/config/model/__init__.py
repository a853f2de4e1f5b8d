"""The networks a run can name. Every one takes any norm and activation at each of its slots."""

from typing import Annotated

from normhpc.config.base import OneOf
from normhpc.config.model.base import Activation as Activation
from normhpc.config.model.base import ConvConfig as ConvConfig
from normhpc.config.model.base import ModelPart as ModelPart
from normhpc.config.model.base import PlainConv as PlainConv
from normhpc.config.model.convnet import ConvNet as ConvNet
from normhpc.config.model.resnet import BbnResNet as BbnResNet
from normhpc.config.model.resnet import ResNet as ResNet
from normhpc.config.model.small import EraConvNet as EraConvNet
from normhpc.config.model.small import EvaConvNet as EvaConvNet
from normhpc.config.model.small import MnistModel as MnistModel
from normhpc.config.model.small import SmallNetwork as SmallNetwork
from normhpc.config.model.vgg import Vgg as Vgg
from normhpc.config.model.vit import Vit as Vit
from normhpc.config.model.zoo import TimmModel as TimmModel
from normhpc.config.model.zoo import TorchvisionModel as TorchvisionModel
from normhpc.config.model.zoo import ZooModel as ZooModel

ModelConfig = Annotated[
    ConvNet | Vgg | ResNet | BbnResNet | EraConvNet | MnistModel | EvaConvNet | Vit | TorchvisionModel | TimmModel,
    OneOf("model", default="convnet"),
]
