"""Normalization layers for (N, C, H, W), each one module with the activation after it.

To add one: its config class in ``config/norm/``, a class in this folder, a line in :data:`NORMS` and a float64
formula in ``tests/support/norm_formulas.py``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from normhpc.config import norm as configs
from normhpc.config.base import Part
from normhpc.config.norm import NormPart
from normhpc.config.problems import dotted, findings_of
from normhpc.errors import InputError, Problem
from normhpc.norms.activation import activate as activate
from normhpc.norms.activation import check_activation
from normhpc.norms.batch import Batch, BatchInstance, BatchRenorm, GhostBatch, MeanCentring, Switchable, Variance
from normhpc.norms.evonorm import EvoNormB0, EvoNormB1, EvoNormB2, EvoNormS
from normhpc.norms.formula import FormulaLayer
from normhpc.norms.group import Group, Instance, Layer, LayerPixel
from normhpc.norms.plain import Plain
from normhpc.norms.plan import NormPlan as NormPlan
from normhpc.norms.plan import Site as Site
from normhpc.norms.plan import plan_of as plan_of
from normhpc.norms.pointwise import DynamicIsru, Pointwise, Selu
from normhpc.norms.rms import FilterResponse, GlobalResponse, LocalResponse, Rms
from normhpc.norms.running import merged_running_statistics as merged_running_statistics
from normhpc.norms.running import pooled_statistics as pooled_statistics
from normhpc.norms.running import running_statistics as running_statistics
from normhpc.norms.slot import Norm as Norm
from normhpc.norms.slot import ParamSpec as ParamSpec
from normhpc.norms.surgery import replace_norms
from normhpc.norms.weight import WeightSlot

NORMS: dict[type[NormPart], Callable[[Any, int, str], Norm]] = {
    configs.NoNorm: Plain,
    configs.BatchNorm: Batch,
    configs.GhostBatchNorm: GhostBatch,
    configs.BatchRenorm: BatchRenorm,
    configs.VarianceNorm: Variance,
    configs.MeanCentring: MeanCentring,
    configs.LayerNorm: Layer,
    configs.LayerPixelNorm: LayerPixel,
    configs.RmsNorm: Rms,
    configs.InstanceNorm: Instance,
    configs.GroupNorm: Group,
    configs.BatchInstanceNorm: BatchInstance,
    configs.SwitchableNorm: Switchable,
    configs.FilterResponseNorm: FilterResponse,
    configs.FilterResponseTlu: FilterResponse,
    configs.GlobalResponseNorm: GlobalResponse,
    configs.LocalResponseNorm: LocalResponse,
    configs.EvoNormB0: EvoNormB0,
    configs.EvoNormB1: EvoNormB1,
    configs.EvoNormB2: EvoNormB2,
    configs.EvoNormS0: EvoNormS,
    configs.EvoNormS1: EvoNormS,
    configs.EvoNormS2: EvoNormS,
    configs.DynamicTanh: Pointwise,
    configs.DynamicErf: Pointwise,
    configs.DynamicIsru: DynamicIsru,
    configs.PointwiseShape: Pointwise,
    configs.Selu: Selu,
    configs.WeightNorm: WeightSlot,
    configs.WeightStandardized: WeightSlot,
    configs.ScaledWeightStandardized: WeightSlot,
    configs.WeightCentering: WeightSlot,
    configs.FormulaNorm: FormulaLayer,
}
"""The layer of every norm a run can name."""


class _Spec(Part):
    """A norm at the path that it has in a run."""

    norm: configs.NormConfig


def build(spec: str | Mapping[str, Any] | NormPart, num_features: int, act: str = "relu") -> Norm:
    """The layer ``spec`` names, for ``num_features`` channels, followed by the activation ``act``.

    ``spec`` is a name (``"batch"``), a mapping with fields (``{"name": "group", "groups": 8}``) or the ``norm``
    of a RunConfig; ``act="none"`` gives the norm alone. Raises :class:`~normhpc.errors.InputError`, with every
    mistake, for an unknown name or field, and for channels the norm cannot take.
    """
    check_activation(act)
    if num_features < 1:
        raise InputError(f"num_features: expected a positive number of channels, got {num_features}")
    config = _parsed(spec)
    return NORMS[type(config)](config, num_features, act)


def swap(
    model: nn.Module,
    spec: str | Mapping[str, Any] | NormPart,
    example_input: Tensor,
    *,
    copy_affine: bool = False,
    add_biases: bool = False,
) -> tuple[nn.Module, NormPlan]:
    """``model`` with the norm ``spec`` at every place that had one, and the plan of which layer stands where.

    A norm whose output goes into an activation alone becomes one slot with it (``norm_act``), a norm of tokens or
    pixels, as layer norm, a slot of each token (``token``), any other a norm without activation (``lone``).
    Activations behind additions stay. A slot ends with the activation of its place; one it does not know (relu6,
    hardswish) stays a call behind it, unless the norm takes an activation's place itself. Slots start fresh, also
    where the network had started its own at 0; ``copy_affine`` takes over weight, bias and running statistics.
    Where the norm learns no shift and those it replaces did, ``add_biases`` gives convolutions that have no bias, because
    a norm followed, one from 0; the plan says how many (``biases_added``).

    ``model`` is not changed. ``example_input`` (N, C, H, W) is an input it can take. Before anything is replaced,
    the rewritten network with its own norms must give the same outputs to the bit, in training and in evaluation.
    Raises :class:`~normhpc.errors.InputError` when it does not, when the network cannot be traced or has no norm,
    and with every place that cannot take the norm.
    """
    config = _parsed(spec)
    return replace_norms(
        model,
        config,
        lambda channels, act: NORMS[type(config)](config, channels, act),
        example_input,
        copy_affine=copy_affine,
        add_biases=add_biases,
    )


def _parsed(spec: str | Mapping[str, Any] | NormPart) -> NormPart:
    if type(spec) in NORMS:
        assert isinstance(spec, NormPart)
        return spec
    try:
        return _Spec.model_validate({"norm": dict(spec) if isinstance(spec, Mapping) else spec}).norm
    except ValidationError as error:
        found = findings_of(error, _Spec)
    raise InputError(Problem(finding.message, dotted(finding.path)) for finding in found)
