"""What the configurations of networks have in common."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from normhpc.config.base import OneOf, Part
from normhpc.config.norm.weight import ScaledWeightStandardized, WeightCentering, WeightNorm, WeightStandardized

Activation = Literal["relu", "leaky_relu", "silu", "gelu", "tanh", "none"]


class PlainConv(Part):
    """Convolution with the weight itself."""

    name: Literal["plain"] = "plain"


ConvConfig = Annotated[
    PlainConv | WeightNorm | WeightStandardized | ScaledWeightStandardized | WeightCentering,
    OneOf("conv", default="plain"),
]


def _auto_or_bool(value: Any) -> Any:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f"expected auto, true or false, got {value!r}")
    return value


class ModelPart(Part):
    """What every network has: how its convolutions are built and its computation is carried out."""

    conv: ConvConfig = PlainConv()
    """What is done to the weights of the convolutions, whatever the norm; a norm on weights says it itself."""
    conv_bias: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = "auto"
    """Whether the convolutions have a bias; ``auto``: those whose norm learns no shift of its own."""
    channels_last: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = "auto"
    """Store images and convolution weights as NHWC, mostly faster; ``auto``: unless the norm is instance, which is slower."""
    compile: bool = False
    """Compile the network with ``torch.compile``; slower to start, fuses norm and activation."""
    deterministic: bool = True
    """Only deterministic kernels, so that the same run repeats to the bit; slower on GPUs."""

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees; empty where only the network itself can tell."""
        return ()

    def last_side(self, side: int) -> int:
        """Rows of the last map with a norm for an image of ``side`` rows, and columns for columns; below 1 there is none."""
        return side

    def fewest_positions(self, height: int, width: int) -> int:
        """Positions of the smallest map that a norm sees for images of so many pixels."""
        return self.last_side(height) * self.last_side(width)
