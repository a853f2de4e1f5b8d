"""Vision transformer."""

from typing import Literal

from pydantic import model_validator

from normhpc.config.base import Fraction, PositiveInt
from normhpc.config.model.base import Activation, ModelPart


class Vit(ModelPart):
    """Pre-norm vision transformer (Dosovitskiy et al. 2020), in the size of gxh2932/Thesis: 6 blocks of 384 channels.

    The slots are norms alone, on the tokens of an image as positions of one column: norms of a sample see all tokens,
    ``layer_pixel``, ``rms``, ``dyt`` and ``derf`` each token on its own. The run's ``act`` is not used, except where
    ``mlp_act`` is null.
    """

    name: Literal["vit"] = "vit"
    image_size: PositiveInt | None = 224
    """Rows and columns that images are resized to inside the network (bilinear); null for the size of the data."""
    patch: PositiveInt = 16
    """Rows and columns of a patch, which becomes one token; must divide the image."""
    depth: PositiveInt = 6
    """Transformer blocks."""
    heads: PositiveInt = 12
    """Attention heads; must divide ``width``."""
    width: PositiveInt = 384
    """Channels of a token."""
    mlp_width: PositiveInt = 1536
    """Channels inside each block's MLP."""
    mlp_act: Activation | None = "gelu"
    """Activation inside each block's MLP; null for the run's ``act``."""
    dropout: Fraction = 0.0
    """Share of values zeroed after the position embedding, the attention and both layers of the MLP."""
    norm_act: bool = False
    """Give norms that own an activation (the EvoNorms, frn_tlu, selu) theirs at every slot; other norms stay alone."""
    head_classes: PositiveInt | None = None
    """Outputs of the head; null for the classes of the data. 1000 gives the parameter counts of gxh2932/Thesis."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Vit":
        if self.width % self.heads:
            raise ValueError(
                f"heads: {self.heads} do not divide the {self.width} channels of width; "
                f"what does: {', '.join(str(n) for n in range(1, self.width + 1) if self.width % n == 0)}"
            )
        if self.image_size is not None and self.image_size % self.patch:
            raise ValueError(
                f"patch: {self.patch} does not divide image_size {self.image_size}; "
                f"nearest sizes that it divides: {self._sizes_near(self.image_size)}"
            )
        return self

    def _sizes_near(self, size: int) -> str:
        below = size // self.patch * self.patch
        return f"{below} and {below + self.patch}" if below else str(self.patch)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image of so many pixels."""
        if self.image_size is not None:
            height = width = self.image_size
        return height // self.patch, width // self.patch

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return (self.width,)
