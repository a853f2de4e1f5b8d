"""A run: one training, completely described."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from normhpc.config.base import NonNegativeInt, Part, PositiveInt
from normhpc.config.checks import CHECKS, findings
from normhpc.config.data import DataConfig, Digits
from normhpc.config.identity import run_id
from normhpc.config.model import Activation, ConvNet, ModelConfig
from normhpc.config.norm import BatchNorm, InstanceNorm, NormConfig
from normhpc.config.training import (
    AugmentConfig,
    Checkpoint,
    Cosine,
    CrossEntropy,
    LossConfig,
    NoAugment,
    NoProbes,
    OptimConfig,
    ProbesConfig,
    ScheduleConfig,
    Sgd,
)

Precision = Literal["fp32", "bf16", "fp16"]


class RunConfig(Part):
    """Everything that decides the result of one training. Named by the hash of it, :attr:`run_id`."""

    data: DataConfig = Digits()
    """The images."""
    model: ModelConfig = ConvNet()
    """The network."""
    norm: NormConfig = BatchNorm()
    """The normalization at every norm slot of the network."""
    act: Activation = "relu"
    """The activation that follows each norm, one slot with it."""
    augment: AugmentConfig = NoAugment()
    """Random changes of the training images."""
    loss: LossConfig = CrossEntropy()
    """What is minimized."""
    optim: OptimConfig = Sgd()
    """The optimizer."""
    schedule: ScheduleConfig = Cosine()
    """The learning rate over time, as a multiple of the optimizer's."""
    epochs: PositiveInt = 10
    """Passes over the training images."""
    batch_size: PositiveInt = 128
    """Images per optimizer step, over all ranks and micro-batches together."""
    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass; weights are always kept in fp32."""
    seed: Annotated[NonNegativeInt, Field(lt=2**63)] = 0
    """Seed of the weights, the order of the images and their augmentation."""
    probes: ProbesConfig = NoProbes()
    """What is measured inside the network while it trains."""
    checkpoint: Checkpoint = Checkpoint()
    """When the run saves itself; not part of the run id."""

    @model_validator(mode="after")
    def _parts_agree(self) -> "RunConfig":
        found = findings(CHECKS, {name: getattr(self, name) for name in RunConfig.model_fields})
        if found:
            path, message = found[0]
            raise PydanticCustomError("disagreement", "{path}: {message}", {"path": path, "message": message})
        return self

    @property
    def run_id(self) -> str:
        """16 hex digits that name this run on every machine and Python."""
        return run_id(self)

    @property
    def channels_last(self) -> bool:
        """Whether images and convolution weights lie in memory as NHWC, on any device."""
        asked = self.model.channels_last
        return not isinstance(self.norm, InstanceNorm) if asked == "auto" else asked

    def to_json(self) -> dict[str, Any]:
        """The complete configuration, defaults included, as JSON values; ``model_validate`` reads it back."""
        return self.model_dump(mode="json")
