"""Residual networks for small images."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from normhpc.config.base import PositiveInt
from normhpc.config.model.base import ModelPart


class ThreeStages(ModelPart):
    """What residual networks of depth 6n+2 have: three stages of n blocks; the second and third halve the image."""

    name: str = ""
    width: PositiveInt = 16
    """Channels of the first stage; the second has twice, the third four times as many."""

    @field_validator("name")
    @classmethod
    def _depth_is_6n_plus_2(cls, name: str) -> str:
        depth = _depth(name)
        if depth < 8 or (depth - 2) % 6:
            below = max(8, depth - (depth - 2) % 6)
            kind = name.rstrip("0123456789")
            raise ValueError(
                f"expected {kind}{{6n+2}} ({kind}8, {kind}14, {kind}20 ...), got {name}; near it: {kind}{below}"
            )
        return name

    @property
    def depth(self) -> int:
        """Layers with weights, the shortcuts not counted."""
        return _depth(self.name)

    @property
    def blocks_per_stage(self) -> int:
        """The n of 6n+2."""
        return (self.depth - 2) // 6

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return (self.width, 2 * self.width, 4 * self.width)

    def last_side(self, side: int) -> int:
        """Two convolutions of stride 2, which round up."""
        return -(-side // 4)


class ResNet(ThreeStages):
    """CIFAR ResNet of depth 6n+2 with three stages of n basic blocks (He et al. 2015, section 4.2).

    Widths are ``width``, 2 ``width`` and 4 ``width``; where the width changes the shortcut is a strided 1x1
    convolution with its own norm.
    """

    name: Annotated[str, Field(pattern=r"^resnet[0-9]+$", examples=["resnet{6n+2}"])] = "resnet20"
    residual: Literal["plain", "skipinit", "rezero", "fixup", "nf"] = "plain"
    """How a block adds its branch. ``skipinit`` multiplies each branch by a learned scalar that starts at 0 (De and Smith
    2020). ``rezero`` is the same computation (Bachlechner et al. 2020, where the network has no norm). ``fixup`` replaces
    norms by scaled initial weights, scalar biases and a scalar factor (Zhang et al. 2019) and needs norm none. ``nf``
    divides the input of each branch by its expected deviation (Brock et al. 2021) and needs scaled_weight_standardized, or
    none."""


class BbnResNet(ThreeStages):
    """BeyondBatchNorm's residual network: of depth 6n+2, twice as wide, with strided 3x3 convolutions as shortcuts."""

    name: Annotated[str, Field(pattern=r"^bbn_resnet[0-9]+$", examples=["bbn_resnet{6n+2}"])] = "bbn_resnet56"
    width: PositiveInt = 32
    """Channels of the first stage; the second has twice, the third four times as many."""
    residual: Literal["plain", "skipinit"] = "plain"
    """``skipinit`` multiplies each branch by a learned scalar that starts at 0 (De and Smith 2020)."""
    preact: bool = False
    """Norm and activation before each convolution of a block instead of behind it; none before the pooling."""
    act_before_sum: bool = False
    """The block's second activation ends the branch instead of following the sum."""
    joint_slot: Literal["branch", "after_sum"] = "branch"
    """Where a norm that is its own activation (EvoNorm, FRN with its threshold, SELU, the scaled relu of weight norm) acts
    at a block's end: on the branch, as any norm does, without its nonlinearity, or after the sum, in the place of the
    activation (BeyondBatchNorm), where only FRN leaves a norm on branch and shortcut."""

    @model_validator(mode="after")
    def _one_place_for_the_activation(self) -> "BbnResNet":
        if self.preact and self.act_before_sum:
            raise ValueError("expected one of preact and act_before_sum, got both: a preact branch ends with its conv")
        return self


def _depth(name: str) -> int:
    return int(re.sub(r"\D", "", name))
