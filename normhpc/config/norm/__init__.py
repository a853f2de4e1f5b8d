"""The normalization layers a run can name. ``docs/norms/`` shows them all with formulas and sources."""

from typing import Annotated

from normhpc.config.base import OneOf
from normhpc.config.norm.base import BatchStatistics as BatchStatistics
from normhpc.config.norm.base import ChannelGroups as ChannelGroups
from normhpc.config.norm.base import NormPart as NormPart
from normhpc.config.norm.batch import BatchInstanceNorm as BatchInstanceNorm
from normhpc.config.norm.batch import BatchNorm as BatchNorm
from normhpc.config.norm.batch import BatchRenorm as BatchRenorm
from normhpc.config.norm.batch import EvoNormB0 as EvoNormB0
from normhpc.config.norm.batch import EvoNormB1 as EvoNormB1
from normhpc.config.norm.batch import EvoNormB2 as EvoNormB2
from normhpc.config.norm.batch import EvoNormBatch as EvoNormBatch
from normhpc.config.norm.batch import GhostBatchNorm as GhostBatchNorm
from normhpc.config.norm.batch import MeanCentring as MeanCentring
from normhpc.config.norm.batch import SwitchableNorm as SwitchableNorm
from normhpc.config.norm.batch import VarianceNorm as VarianceNorm
from normhpc.config.norm.formula import FormulaNorm as FormulaNorm
from normhpc.config.norm.pointwise import DynamicErf as DynamicErf
from normhpc.config.norm.pointwise import DynamicIsru as DynamicIsru
from normhpc.config.norm.pointwise import DynamicTanh as DynamicTanh
from normhpc.config.norm.pointwise import NoNorm as NoNorm
from normhpc.config.norm.pointwise import PointwiseShape as PointwiseShape
from normhpc.config.norm.pointwise import Selu as Selu
from normhpc.config.norm.sample import EvoNormS0 as EvoNormS0
from normhpc.config.norm.sample import EvoNormS1 as EvoNormS1
from normhpc.config.norm.sample import EvoNormS2 as EvoNormS2
from normhpc.config.norm.sample import EvoNormSample as EvoNormSample
from normhpc.config.norm.sample import FilterResponse as FilterResponse
from normhpc.config.norm.sample import FilterResponseNorm as FilterResponseNorm
from normhpc.config.norm.sample import FilterResponseTlu as FilterResponseTlu
from normhpc.config.norm.sample import GlobalResponseNorm as GlobalResponseNorm
from normhpc.config.norm.sample import GroupNorm as GroupNorm
from normhpc.config.norm.sample import InstanceNorm as InstanceNorm
from normhpc.config.norm.sample import LayerNorm as LayerNorm
from normhpc.config.norm.sample import LayerPixelNorm as LayerPixelNorm
from normhpc.config.norm.sample import LocalResponseNorm as LocalResponseNorm
from normhpc.config.norm.sample import RmsNorm as RmsNorm
from normhpc.config.norm.weight import ScaledWeightStandardized as ScaledWeightStandardized
from normhpc.config.norm.weight import WeightCentering as WeightCentering
from normhpc.config.norm.weight import WeightNorm as WeightNorm
from normhpc.config.norm.weight import WeightPart as WeightPart
from normhpc.config.norm.weight import WeightStandardized as WeightStandardized

NormConfig = Annotated[
    NoNorm
    | BatchNorm
    | GhostBatchNorm
    | BatchRenorm
    | VarianceNorm
    | MeanCentring
    | LayerNorm
    | LayerPixelNorm
    | RmsNorm
    | InstanceNorm
    | GroupNorm
    | BatchInstanceNorm
    | SwitchableNorm
    | FilterResponseNorm
    | FilterResponseTlu
    | GlobalResponseNorm
    | LocalResponseNorm
    | EvoNormB0
    | EvoNormB1
    | EvoNormB2
    | EvoNormS0
    | EvoNormS1
    | EvoNormS2
    | DynamicTanh
    | DynamicErf
    | DynamicIsru
    | PointwiseShape
    | Selu
    | WeightNorm
    | WeightStandardized
    | ScaledWeightStandardized
    | WeightCentering
    | FormulaNorm,
    OneOf("norm", default="batch"),
]
