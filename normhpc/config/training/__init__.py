"""How a run learns: augmentation, loss, optimizer, schedule, probes, and what it saves on the way."""

from typing import Annotated

from normhpc.config.base import OneOf
from normhpc.config.training.augment import NoAugment as NoAugment
from normhpc.config.training.augment import StandardAugment as StandardAugment
from normhpc.config.training.checkpoint import Checkpoint as Checkpoint
from normhpc.config.training.loss import Asymmetric as Asymmetric
from normhpc.config.training.loss import BinaryCrossEntropy as BinaryCrossEntropy
from normhpc.config.training.loss import CrossEntropy as CrossEntropy
from normhpc.config.training.optim import Adam as Adam
from normhpc.config.training.optim import AdamW as AdamW
from normhpc.config.training.optim import LrFactor as LrFactor
from normhpc.config.training.optim import Muon as Muon
from normhpc.config.training.optim import Sgd as Sgd
from normhpc.config.training.probes import LayerProbes as LayerProbes
from normhpc.config.training.probes import Measure as Measure
from normhpc.config.training.probes import NoProbes as NoProbes
from normhpc.config.training.schedule import Constant as Constant
from normhpc.config.training.schedule import Cosine as Cosine
from normhpc.config.training.schedule import MultiStep as MultiStep
from normhpc.config.training.schedule import Plateau as Plateau
from normhpc.config.training.schedule import Step as Step
from normhpc.config.training.schedule import TwoLevel as TwoLevel

AugmentConfig = Annotated[NoAugment | StandardAugment, OneOf("augmentation", default="standard")]
LossConfig = Annotated[CrossEntropy | BinaryCrossEntropy | Asymmetric, OneOf("loss", default="cross_entropy")]
OptimConfig = Annotated[Sgd | Adam | AdamW | Muon, OneOf("optimizer", default="sgd")]
ScheduleConfig = Annotated[
    Constant | Cosine | Step | MultiStep | TwoLevel | Plateau, OneOf("schedule", default="cosine")
]
ProbesConfig = Annotated[NoProbes | LayerProbes, OneOf("probe set", default="none")]
