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


class GroupNorm(Part):
    """Statistics per image over groups of channels and the positions (Wu and He 2018). Give ``groups`` or ``group_size``."""

    name: Literal["group"] = "group"
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
    def _one_of_the_two(self) -> "GroupNorm":
        if (self.groups is None) == (self.group_size is None):
            raise ValueError(
                f"expected either groups or group_size, got groups={self.groups} and group_size={self.group_size}"
            )
        return self


NormConfig = Annotated[
    NoNorm | BatchNorm | LayerNorm | InstanceNorm | GroupNorm,
    OneOf("norm", default="batch"),
]
