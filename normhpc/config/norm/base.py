"""What the configurations of norms have in common."""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from normhpc.config.base import Part, PositiveFloat, PositiveInt

Family = Literal["hand-crafted", "searched", "activation replaced", "norm-free"]
"""The factor of the study that a norm belongs to."""
Scope = Literal["batch", "sample", "pixel", "value", "weight"]
"""What a statistic is taken over: several images, one image, one position's channels, nothing, or a filter's weights."""


class NormPart(Part):
    """A norm: how it is called and what the catalogue says of it."""

    name: str = ""
    family: ClassVar[Family]
    scope: ClassVar[Scope]
    formula: ClassVar[str]
    """What the slot computes before the activation, in the language of ``formula`` norms."""
    reference: ClassVar[str]
    """Where it was published, or what it is."""

    @property
    def reach(self) -> Scope:
        """What its own statistics are taken over; :attr:`scope` is that of all norms of its kind."""
        return self.scope


class BatchStatistics(NormPart):
    """What every norm over the images of the batch has."""

    scope = "batch"

    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics used for evaluation (torch's convention)."""
    sync: bool = False
    """Statistics over the batches of all ranks; otherwise every rank normalizes by its own share of the batch."""


class ChannelGroups(NormPart):
    """What every norm over groups of neighbouring channels has. Give one of ``groups``, ``group_size``, ``p_grouping``."""

    scope: ClassVar[Scope] = "sample"

    groups: PositiveInt | None = 32
    """Number of groups in every layer; must divide the channels. Null when one of the other two is given."""
    group_size: PositiveInt | None = None
    """Channels per group in every layer, instead of ``groups``; must divide the channels."""
    p_grouping: PositiveFloat | None = None
    """BeyondBatchNorm's rule, instead of ``groups``: above 1 the number of groups, else ceil(channels x p) groups."""
    indivisible: Literal["refuse", "shrink"] = "refuse"
    """When the groups do not divide the channels: an error, or the next smaller number of groups that does."""
    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""

    @model_validator(mode="before")
    @classmethod
    def _another_rule_replaces_groups(cls, value: Any) -> Any:
        if isinstance(value, dict) and "groups" not in value:
            other = [value.get(field) for field in ("group_size", "p_grouping")]
            if any(rule is not None for rule in other):
                return {**value, "groups": None}
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> "ChannelGroups":
        rules = {name: getattr(self, name) for name in ("groups", "group_size", "p_grouping")}
        if sum(rule is not None for rule in rules.values()) != 1:
            given = ", ".join(f"{name}={rule}" for name, rule in rules.items() if rule is not None)
            raise ValueError(f"expected one of groups, group_size and p_grouping, got {given or 'none of them'}")
        return self

    @property
    def rule(self) -> tuple[str, float]:
        """The field that decides the groups and its value."""
        for name in ("groups", "group_size"):
            if (value := getattr(self, name)) is not None:
                return name, value
        assert self.p_grouping is not None
        return "p_grouping", self.p_grouping

    def groups_of(self, channels: int) -> int | None:
        """Number of groups in a layer of so many channels; None where the rule does not divide them."""
        if self.groups is not None:
            wanted: float = self.groups
        elif self.group_size is not None:
            wanted = channels / self.group_size
        else:
            assert self.p_grouping is not None
            wanted = int(self.p_grouping) if self.p_grouping > 1 else math.ceil(channels * self.p_grouping)
        if wanted >= 1 and wanted == int(wanted) and channels % int(wanted) == 0:
            return int(wanted)
        if self.indivisible == "refuse":
            return None
        return next(groups for groups in range(max(1, min(channels, int(wanted))), 0, -1) if channels % groups == 0)
