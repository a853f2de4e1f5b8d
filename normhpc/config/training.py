"""How a run learns: augmentation, loss, optimizer, schedule, and what it saves on the way."""

from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    Part,
    PositiveFloat,
    PositiveInt,
    outside_identity,
)


class NoAugment(Part):
    """Training images as they are."""

    name: Literal["none"] = "none"


class StandardAugment(Part):
    """The augmentation of the CIFAR papers, drawn anew for every image and epoch."""

    name: Literal["standard"] = "standard"
    flip: bool = True
    """Mirror left to right with probability 1/2."""
    crop_padding: NonNegativeInt = 4
    """Zero-pad by this many pixels on each side and cut out the original size at a random place."""


class CrossEntropy(Part):
    """Softmax cross entropy of single labels, mean over the global batch."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Fraction = 0.0
    """Weight of the uniform distribution mixed into the labels."""


Decay = Literal["weights", "all"]


class OptimPart(Part):
    """What every optimizer has."""

    decay: Decay = "weights"
    """``weights`` spares the parameters of norms, biases and scalars from weight decay; ``all`` decays everything."""
    accumulate: PositiveInt = 1
    """Micro-batches a rank splits its share of the batch into before each optimizer step, to save memory."""


class Sgd(OptimPart):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.1
    """Peak learning rate."""
    momentum: Fraction = 0.9
    """Weight of the past update."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty, added to the gradient."""


class Adam(OptimPart):
    """Adam with the L2 penalty in the gradient (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    beta1: Fraction = 0.9
    """Decay of the running mean of gradients."""
    beta2: Fraction = 0.999
    """Decay of the running mean of squared gradients."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty, added to the gradient."""


class AdamW(OptimPart):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    beta1: Fraction = 0.9
    """Decay of the running mean of gradients."""
    beta2: Fraction = 0.999
    """Decay of the running mean of squared gradients."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.01
    """Share of each weight taken away per step, times the learning rate."""


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


class NoProbes(Part):
    """Nothing is measured inside the network."""

    name: Literal["none"] = "none"


class Checkpoint(Part):
    """When the run saves itself. Never changes a result, so it is not part of the run id."""

    every_epochs: PositiveInt | None = outside_identity(1)
    """Save after every so many epochs; the last epoch is always saved. Null for never."""
    every_steps: PositiveInt | None = outside_identity(None)
    """Save after every so many optimizer steps, also in the middle of an epoch."""
    every_minutes: PositiveFloat | None = outside_identity(10.0)
    """Save when so many minutes have passed since the last save, also in the middle of an epoch."""
    keep_best: bool = outside_identity(False)
    """Keep ``best.pt``, the weights of the epoch with the best ``val`` top1 so far."""


AugmentConfig = Annotated[NoAugment | StandardAugment, OneOf("augmentation", default="standard")]
LossConfig = Annotated[CrossEntropy, OneOf("loss", default="cross_entropy")]
OptimConfig = Annotated[Sgd | Adam | AdamW, OneOf("optimizer", default="sgd")]
ScheduleConfig = Annotated[Constant | Cosine | Step | MultiStep, OneOf("schedule", default="cosine")]
ProbesConfig = Annotated[NoProbes, OneOf("probe set", default="none")]
