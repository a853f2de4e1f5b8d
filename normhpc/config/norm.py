"""The normalization layers a run can name. Formulas and sources: ``docs/norms.md`` and the layers' docstrings."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from normhpc.config.base import OneOf, Part, PositiveFloat, PositiveInt


class NoNorm(Part):
    """No normalization: the activation alone. The control of every study."""

    name: Literal["none"] = "none"


class BatchNorm(Part):
    """Statistics over the images of the batch and the positions, per channel (Ioffe and Szegedy 2015)."""

    name: Literal["batch"] = "batch"
    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics used for evaluation (torch's convention)."""
    sync: bool = False
    """Statistics over the batches of all ranks; otherwise every rank normalizes by its own share of the batch."""


class LayerNorm(Part):
    """Statistics per image over channels and positions, affine per channel (Ba et al. 2016)."""

    name: Literal["layer"] = "layer"
    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""


class InstanceNorm(Part):
    """Statistics per image and channel over the positions, with affine (Ulyanov et al. 2016)."""

    name: Literal["instance"] = "instance"
    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""


class ChannelGroups(Part):
    """What every norm over groups of neighbouring channels has. Give ``groups`` or ``group_size``."""

    name: str = ""
    groups: PositiveInt | None = 32
    """Number of groups in every layer; must divide the channels. Null when ``group_size`` is given."""
    group_size: PositiveInt | None = None
    """Channels per group in every layer, instead of ``groups``; must divide the channels."""
    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""

    @model_validator(mode="before")
    @classmethod
    def _size_replaces_groups(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("group_size") is not None and "groups" not in value:
            return {**value, "groups": None}
        return value

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "ChannelGroups":
        if (self.groups is None) == (self.group_size is None):
            raise ValueError(
                f"expected either groups or group_size, got groups={self.groups} and group_size={self.group_size}"
            )
        return self


class GroupNorm(ChannelGroups):
    """Statistics per image over groups of channels and the positions (Wu and He 2018). Give ``groups`` or ``group_size``."""

    name: Literal["group"] = "group"


class EvoNormS0(ChannelGroups):
    """x sigmoid(v x) over the standard deviation of groups, found by evolution; owns the activation (Liu et al. 2020)."""

    name: Literal["evonorm_s0"] = "evonorm_s0"


class EvoNormS1(ChannelGroups):
    """x sigmoid(x) over the standard deviation of groups, found by evolution; owns the activation (Liu et al. 2020)."""

    name: Literal["evonorm_s1"] = "evonorm_s1"


class EvoNormS2(ChannelGroups):
    """x sigmoid(x) over the root mean square of groups, found by evolution; owns the activation (Liu et al. 2020)."""

    name: Literal["evonorm_s2"] = "evonorm_s2"


class RmsNorm(Part):
    """Division by the root mean square over the channels at each position, no centring (Zhang and Sennrich 2019)."""

    name: Literal["rms"] = "rms"
    eps: PositiveFloat = 1e-6
    """Added to the mean square, inside the square root."""


class FilterResponseNorm(Part):
    """Division by the root mean square of each plane, with a learned threshold as activation (Singh and Krishnan 2020)."""

    name: Literal["frn"] = "frn"
    eps: PositiveFloat = 1e-6
    """Added to the mean square, inside the square root."""
    tlu: bool = True
    """Whether max(z, threshold), learned per channel, takes the place of the network's activation."""


class DynamicTanh(Part):
    """tanh(alpha x) with affine in the place of a norm, no statistics (Zhu et al. 2025)."""

    name: Literal["dyt"] = "dyt"
    alpha: PositiveFloat = 0.5
    """Where the learned scalar alpha starts."""


class DynamicErf(Part):
    """erf(alpha x + shift) with affine in the place of a norm: the winner of a search, or a runner-up (Chen et al. 2025)."""

    name: Literal["derf"] = "derf"
    shape: Literal["erf", "tanh", "arctan", "isru", "satursin", "expsign"] = "erf"
    """The bounded function."""
    alpha: PositiveFloat = 0.5
    """Where the learned scalar alpha starts; the shift starts at 0."""


NormConfig = Annotated[
    NoNorm
    | BatchNorm
    | LayerNorm
    | InstanceNorm
    | GroupNorm
    | RmsNorm
    | FilterResponseNorm
    | EvoNormS0
    | EvoNormS1
    | EvoNormS2
    | DynamicTanh
    | DynamicErf,
    OneOf("norm", default="batch"),
]
