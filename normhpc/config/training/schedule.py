"""The learning rate over time."""

from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.base import Fraction, NonNegativeFloat, NonNegativeInt, Part, PositiveFloat, PositiveInt


class SchedulePart(Part):
    """What every schedule has. The learning rate is set before each optimizer step."""

    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs over which the learning rate rises linearly to its peak; may be a fraction of one."""


class Constant(SchedulePart):
    """The peak learning rate throughout."""

    name: Literal["constant"] = "constant"


class Cosine(SchedulePart):
    """Half a cosine from the peak after warmup down to ``final_factor`` x peak at the end."""

    name: Literal["cosine"] = "cosine"
    final_factor: Fraction = 0.0
    """Learning rate at the end, as a share of the peak."""


class Step(SchedulePart):
    """Multiply by ``factor`` after every ``every_epochs`` epochs."""

    name: Literal["step"] = "step"
    every_epochs: PositiveInt = 30
    """Epochs between two drops."""
    factor: PositiveFloat = 0.1
    """What the learning rate is multiplied by."""


class MultiStep(SchedulePart):
    """Multiply by ``factor`` after each of the epochs in ``milestones``."""

    name: Literal["multistep"] = "multistep"
    milestones: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]
    """Finished epochs after which the learning rate drops, ascending."""
    factor: PositiveFloat = 0.1
    """What the learning rate is multiplied by."""


class TwoLevel(SchedulePart):
    """The peak until a share of the steps after warmup is done, then ``factor`` x peak."""

    name: Literal["two_level"] = "two_level"
    drop_at: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Share of the optimizer steps after warmup at which the learning rate drops."""
    factor: PositiveFloat = 0.1
    """What the learning rate is multiplied by."""


class Plateau(SchedulePart):
    """Multiply by ``factor`` whenever the ``val`` loss has not fallen for more than ``patience`` epochs in a row."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What the learning rate is multiplied by."""
    patience: NonNegativeInt = 10
    """Epochs without a lower loss that are let pass."""
    threshold: Fraction = 1e-4
    """Share of the lowest loss so far by which a loss must be lower to count."""
