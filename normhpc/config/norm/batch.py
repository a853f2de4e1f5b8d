"""Norms whose statistics are taken over the images of a batch."""

from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.base import NonNegativeFloat, PositiveFloat, PositiveInt
from normhpc.config.norm.base import BatchStatistics

Running = Literal["unbiased", "biased", "biased_from_one", "biased_corrected"]


class BatchNorm(BatchStatistics):
    """Statistics over the images of the batch and the positions, per channel (Ioffe and Szegedy 2015)."""

    name: Literal["batch"] = "batch"
    family = "hand-crafted"
    formula = "(x - mean(x, 'batch')) / std(x, 'batch') * weight + bias"
    reference = "Ioffe and Szegedy 2015, arXiv:1502.03167"

    running: Running = "unbiased"
    """What evaluation uses: the unbiased variance as in torch; the biased one; that with a running mean that starts at 1
    (BeyondBatchNorm); or that times m / (m - 1), m the values of the evaluated batch (Normalizations-in-Deep-Learning)."""


class GhostBatchNorm(BatchStatistics):
    """Batch norm of each stretch of ``ghost_size`` images on its own (Hoffer et al. 2017)."""

    name: Literal["ghost_batch"] = "ghost_batch"
    family = "hand-crafted"
    formula = "(x - mean(x, 'ghost')) / std(x, 'ghost') * weight + bias"
    reference = "Hoffer et al. 2017, arXiv:1705.08741"

    ghost_size: PositiveInt = 32
    """Images behind each statistic; a shorter stretch at the end of the batch counts as its own."""
    sync: Literal[False] = False
    """Never: a ghost batch lies on one rank."""


class BatchRenorm(BatchStatistics):
    """Batch norm moved towards the running statistics by a clipped, constant correction (Ioffe 2017)."""

    name: Literal["batch_renorm"] = "batch_renorm"
    family = "hand-crafted"
    formula = "((x - mean(x, 'batch')) / std(x, 'batch') * r + d) * weight + bias"
    reference = "Ioffe 2017, arXiv:1702.03275"

    r_max: Annotated[float, Field(ge=1)] = 3.0
    """The scale correction r lies in [1 / r_max, r_max] after the warm-up."""
    d_max: NonNegativeFloat = 5.0
    """The shift correction d lies in [-d_max, d_max] after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    """Training passes over which r_max rises from 1 and d_max from 0."""


class VarianceNorm(BatchStatistics):
    """Division by the standard deviation of the batch, no centring (Daneshmand et al. 2020)."""

    name: Literal["variance"] = "variance"
    family = "hand-crafted"
    formula = "x / std(x, 'batch') * weight + bias"
    reference = "Daneshmand et al. 2020, arXiv:2003.01652"

    running: Literal["unbiased", "biased"] = "unbiased"
    """Whether the running variance used for evaluation follows the unbiased or the biased variance of the batches."""


class MeanCentring(BatchStatistics):
    """Subtraction of the mean of the batch, no division: what is left of batch norm without its scale."""

    name: Literal["mean_centering"] = "mean_centering"
    family = "hand-crafted"
    formula = "(x - mean(x, 'batch')) * weight + bias"
    reference = "control of batch norm, as in Lubana et al. 2021, arXiv:2106.05956"


class BatchInstanceNorm(BatchStatistics):
    """Batch and instance norm mixed by a learned gate per channel (Nam and Kim 2018)."""

    name: Literal["batch_instance"] = "batch_instance"
    family = "hand-crafted"
    formula = (
        "(gate * (x - mean(x, 'batch')) / std(x, 'batch') + (1 - gate) * (x - mean(x, 'instance')) / std(x, 'instance'))"
        " * weight + bias"
    )
    reference = "Nam and Kim 2018, arXiv:1805.07925"

    gate_init: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Where the gate of every channel starts: 1 is batch norm, 0 instance norm."""
    train_gate: bool = True
    """Whether the gate learns; false keeps it where it starts, for comparison."""
    gate_lr_factor: PositiveFloat = 10.0
    """What the gate's learning rate is multiplied by."""


class SwitchableNorm(BatchStatistics):
    """Instance, layer and batch statistics mixed by learned softmax weights: selection by gradient (Luo et al. 2019)."""

    name: Literal["switchable"] = "switchable"
    family = "searched"
    formula = "(x - mixed_mean) / sqrt(mixed_var + eps) * weight + bias"
    reference = "Luo et al. 2019, arXiv:1806.10779"


class EvoNormBatch(BatchStatistics):
    """What the batch family of EvoNorms has; they own the activation."""

    family = "searched"
    reference = "Liu et al. 2020, arXiv:2004.02967"

    running: Literal["unbiased", "biased"] = "biased"
    """Whether the running variance follows the biased variance of the batches (the authors) or the unbiased one (timm)."""
    alone: Literal["affine", "normalize"] = "affine"
    """Where the network has no activation: x weight + bias (the authors), or batch norm without its mean."""


class EvoNormB0(EvoNormBatch):
    """Division by the larger of the batch's deviation and v x plus the instance's, found by evolution (Liu et al. 2020)."""

    name: Literal["evonorm_b0"] = "evonorm_b0"
    formula = "x / max(std(x, 'batch'), v * x + std(x, 'instance')) * weight + bias"


class EvoNormB1(EvoNormBatch):
    """Division by the larger of the batch's deviation and (x + 1) times the instance's rms (Liu et al. 2020)."""

    name: Literal["evonorm_b1"] = "evonorm_b1"
    formula = "x / max(std(x, 'batch'), (x + 1) * rms(x, 'instance')) * weight + bias"


class EvoNormB2(EvoNormBatch):
    """Division by the larger of the batch's deviation and the instance's rms minus x (Liu et al. 2020)."""

    name: Literal["evonorm_b2"] = "evonorm_b2"
    formula = "x / max(std(x, 'batch'), rms(x, 'instance') - x) * weight + bias"
