"""Slots without statistics: nothing, or a bounded function of single values."""

from typing import Literal

from normhpc.config.base import PositiveFloat
from normhpc.config.norm.base import NormPart


class NoNorm(NormPart):
    """No normalization: the activation alone. The control of every study."""

    name: Literal["none"] = "none"
    family = "norm-free"
    scope = "value"
    formula = "x"
    reference = "the control; its convolutions have a bias"


class DynamicTanh(NormPart):
    """tanh(alpha x) with affine in the place of a norm (Zhu et al. 2025)."""

    name: Literal["dyt"] = "dyt"
    family = "norm-free"
    scope = "value"
    formula = "tanh(alpha * x) * weight + bias"
    reference = "Zhu et al. 2025, arXiv:2503.10622"

    alpha: PositiveFloat = 0.5
    """Where the learned scalar alpha starts."""


class DynamicErf(NormPart):
    """erf(alpha x + shift) with affine in the place of a norm, the winner of a search (Chen et al. 2025)."""

    name: Literal["derf"] = "derf"
    family = "searched"
    scope = "value"
    formula = "erf(alpha * x + shift) * weight + bias"
    reference = "Chen et al. 2025, arXiv:2512.10938"

    alpha: PositiveFloat = 0.5
    """Where the learned scalar alpha starts; the shift starts at 0."""


class DynamicIsru(NormPart):
    """x over sqrt(x^2 + C), C learned, with affine: dynamic tanh derived from layer norm (Stollenwerk 2025)."""

    name: Literal["dyisru"] = "dyisru"
    family = "norm-free"
    scope = "value"
    formula = "sqrt(channels) * x / sqrt(x**2 + abs(c)) * weight + bias"
    reference = "Stollenwerk 2025, arXiv:2503.21708"

    c: PositiveFloat | None = None
    """Where the learned scalar c starts; null for the number of channels, at which the slope at 0 is 1."""


class PointwiseShape(NormPart):
    """A bounded function of alpha x + shift: the candidates of the search that found Derf (Chen et al. 2025)."""

    name: Literal["pointwise"] = "pointwise"
    family = "searched"
    scope = "value"
    formula = "shape(alpha * x + shift) * weight + bias"
    reference = "Chen et al. 2025, arXiv:2512.10938"

    shape: Literal["tanh", "erf", "arctan", "isru", "satursin", "expsign", "linear_clip"] = "isru"
    """The function, rising from -1 to 1."""
    alpha: PositiveFloat = 0.5
    """Where the learned scalar alpha starts; the shift starts at 0."""


class Selu(NormPart):
    """The self-normalizing activation in the place of norm and activation (Klambauer et al. 2017)."""

    name: Literal["selu"] = "selu"
    family = "norm-free"
    scope = "value"
    formula = "1.0507009873554805 * elu(x, 1.6732632423543772)"
    reference = "Klambauer et al. 2017, arXiv:1706.02515"
