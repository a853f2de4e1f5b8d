"""Normalization layers for (N, C, H, W), each one module with the activation after it.

To add one: its config class in ``config/norm.py``, a class in this folder, a line in :data:`NORMS` and a float64
formula in ``tests/support/norm_formulas.py``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from normhpc.config import norm as configs
from normhpc.config.base import Part
from normhpc.errors import InputError, Problem
from normhpc.norms.activation import activate as activate
from normhpc.norms.activation import check_activation
from normhpc.norms.batch import Batch
from normhpc.norms.evonorm import EvoNormS
from normhpc.norms.group import Group, Instance, Layer
from normhpc.norms.plain import Plain
from normhpc.norms.pointwise import Pointwise
from normhpc.norms.rms import FilterResponse, Rms
from normhpc.norms.running import merged_running_statistics as merged_running_statistics
from normhpc.norms.running import running_statistics as running_statistics
from normhpc.norms.slot import Norm as Norm
from normhpc.norms.slot import ParamSpec as ParamSpec

NORMS: dict[type[Part], Callable[[Any, int, str], Norm]] = {
    configs.NoNorm: Plain,
    configs.BatchNorm: Batch,
    configs.LayerNorm: Layer,
    configs.InstanceNorm: Instance,
    configs.GroupNorm: Group,
    configs.RmsNorm: Rms,
    configs.FilterResponseNorm: FilterResponse,
    configs.EvoNormS0: EvoNormS,
    configs.EvoNormS1: EvoNormS,
    configs.EvoNormS2: EvoNormS,
    configs.DynamicTanh: Pointwise,
    configs.DynamicErf: Pointwise,
}
"""The layer of every norm a run can name."""

_SPEC: TypeAdapter[Part] = TypeAdapter(configs.NormConfig)


def build(spec: str | Mapping[str, Any] | Part, num_features: int, act: str = "relu") -> Norm:
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


def _parsed(spec: str | Mapping[str, Any] | Part) -> Part:
    if type(spec) in NORMS:
        assert isinstance(spec, Part)
        return spec
    try:
        return _SPEC.validate_python(dict(spec) if isinstance(spec, Mapping) else spec)
    except ValidationError as error:
        raise InputError(
            [
                # The first part of the place is the class that pydantic chose, which says nothing to a user.
                Problem(details["msg"], path=".".join(["norm", *map(str, details["loc"][1:])]))
                for details in error.errors()
            ]
        ) from None
