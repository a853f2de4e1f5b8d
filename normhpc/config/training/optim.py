"""The optimizer."""

from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.base import Fraction, NonNegativeFloat, Part, PositiveFloat, PositiveInt

Decay = Literal["weights", "all"]


class LrFactor(Part):
    """The learning rate of some parameters."""

    parameters: Annotated[str, Field(min_length=1)]
    """Pattern of their names in the network, as a shell has it: ``*.bias``, ``stages.0.*``."""
    factor: PositiveFloat
    """What their learning rate is multiplied by, beside the factor that the network itself gives them."""


class OptimPart(Part):
    """What every optimizer has."""

    decay: Decay = "weights"
    """``weights`` spares the parameters of norms, biases and scalars from weight decay; ``all`` decays everything."""
    l1: NonNegativeFloat = 0.0
    """L1 penalty: this times the sum of the magnitudes of all parameters is added to the loss."""
    accumulate: PositiveInt = 1
    """Micro-batches a rank splits its share of the batch into before each optimizer step, to save memory."""
    lr_batch_size: PositiveInt | None = None
    """Batch size that ``lr`` is meant for: it is multiplied by batch_size over this. Null takes ``lr`` as it is."""
    lr_factors: Annotated[tuple[LrFactor, ...], Field(strict=False)] = ()
    """Learning rates of single layers; where several patterns fit a parameter, the last one holds."""
    clip_norm: PositiveFloat | None = None
    """Scale all gradients down so that their common 2-norm is at most this (Pascanu et al. 2013)."""
    clip_adaptive: PositiveFloat | None = None
    """Scale each unit's gradient down to at most this times the norm of its weights, all but the classifier's.

    Adaptive gradient clipping (Brock et al. 2021, arXiv:2102.06171); norms of weights below 1e-3 count as 1e-3.
    """
    ema_decay: Fraction | None = None
    """Evaluate an exponential moving average of the weights with this decay per update; null evaluates the weights."""


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


class Muon(OptimPart):
    """Momentum made orthogonal, for weights of two and more dimensions but the classifier's; AdamW for the rest.

    A convolution's weight counts as the matrix of its filters (Jordan 2024, kellerjordan.github.io/posts/muon).
    """

    name: Literal["muon"] = "muon"
    lr: PositiveFloat = 0.02
    """Peak learning rate of the matrices."""
    momentum: Fraction = 0.95
    """Weight of the past update."""
    nesterov: bool = True
    """Nesterov's momentum."""
    weight_decay: NonNegativeFloat = 0.0
    """Share of each weight taken away per step, times the learning rate."""
    ns_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Newton-Schulz iterations."""
    rest_lr: PositiveFloat = 1e-3
    """Peak learning rate of AdamW (betas 0.9 and 0.95) on all other parameters."""
