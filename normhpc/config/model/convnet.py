"""Plain convolutional networks."""

from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.base import PositiveInt
from normhpc.config.model.base import ModelPart


class ConvNet(ModelPart):
    """A small plain network: per width one 3x3 convolution, norm and activation, then 2x2 max pooling; linear head."""

    name: Literal["convnet"] = "convnet"
    widths: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=6)] = (32, 64)
    """Output channels of each convolution."""

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return self.widths

    def last_side(self, side: int) -> int:
        """A pooling, which rounds down, between each two layers."""
        return side >> len(self.widths) - 1
