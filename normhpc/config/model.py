"""The networks a run can name. Every one takes any norm and activation at each of its slots."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from normhpc.config.base import OneOf, Part, PositiveInt

Activation = Literal["relu", "leaky_relu", "silu", "gelu", "tanh", "none"]


class ModelPart(Part):
    """What every network has: how its computation is carried out."""

    channels_last: bool = False
    """Store images and convolution weights as NHWC; faster on GPUs with tensor cores for most norms."""
    compile: bool = False
    """Compile the network with ``torch.compile``; slower to start, fuses norm and activation."""
    deterministic: bool = True
    """Only deterministic kernels, so that the same run repeats to the bit; slower on GPUs."""


class ConvNet(ModelPart):
    """A small plain network: per width one 3x3 convolution, norm and activation, then 2x2 max pooling; linear head."""

    name: Literal["convnet"] = "convnet"
    widths: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=6)] = (32, 64)
    """Output channels of each convolution."""

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return self.widths


class ResNet(ModelPart):
    """CIFAR ResNet of depth 6n+2 with three stages of n basic blocks (He et al. 2015, section 4.2).

    Widths are ``width``, 2 ``width`` and 4 ``width``; where the width changes the shortcut is a strided 1x1
    convolution with its own norm.
    """

    name: Annotated[str, Field(pattern=r"^resnet[0-9]+$", examples=["resnet{6n+2}"])] = "resnet20"
    width: PositiveInt = 16
    """Channels of the first stage."""
    residual: Literal["plain", "skipinit"] = "plain"
    """``skipinit`` multiplies each branch by a learned scalar that starts at 0 (De and Smith 2020)."""

    @field_validator("name")
    @classmethod
    def _depth_is_6n_plus_2(cls, name: str) -> str:
        depth = _resnet_depth(name)
        if depth < 8 or (depth - 2) % 6:
            below = max(8, depth - (depth - 2) % 6)
            raise ValueError(
                f"expected resnet{{6n+2}} (resnet8, resnet14, resnet20 ...), got {name}; near it: resnet{below}"
            )
        return name

    @property
    def depth(self) -> int:
        """Layers with weights, the 1x1 shortcuts not counted."""
        return _resnet_depth(self.name)

    @property
    def blocks_per_stage(self) -> int:
        """The n of 6n+2."""
        return (self.depth - 2) // 6

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return (self.width, 2 * self.width, 4 * self.width)


def _resnet_depth(name: str) -> int:
    return int(re.sub(r"\D", "", name))


ModelConfig = Annotated[ConvNet | ResNet, OneOf("model", default="convnet")]
