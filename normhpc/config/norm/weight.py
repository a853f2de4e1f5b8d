"""Methods on the weights of the convolutions instead of the activations behind them."""

from typing import Literal

from normhpc.config.base import NonNegativeFloat, PositiveFloat
from normhpc.config.norm.base import NormPart


class WeightPart(NormPart):
    """What every method on weights has: the slot keeps the activation alone, the formula is that of a filter w of n weights."""

    scope = "weight"


class WeightNorm(WeightPart):
    """Each filter divided by its length and multiplied by a learned gain (Salimans and Kingma 2016)."""

    name: Literal["weight"] = "weight"
    family = "hand-crafted"
    formula = "gain * w / (norm(w, 'filter') + eps)"
    reference = "Salimans and Kingma 2016, arXiv:1602.07868"

    init: Literal["norm", "one"] = "norm"
    """Where the gain starts: at the filter's length, which leaves the network as it is, or at 1 (BeyondBatchNorm)."""
    eps: NonNegativeFloat = 0.0
    """Added to the length; BeyondBatchNorm has 1e-5."""
    scaled_relu: bool = False
    """In the place of the activation sqrt(2 pi / (pi - 1)) (relu(x) - 1 / sqrt(2 pi)): mean 0 and variance 1 for normal
    x (Arpit et al. 2016)."""


class WeightStandardized(WeightPart):
    """Each filter less its mean and over its standard deviation (Qiao et al. 2019)."""

    name: Literal["weight_standardized"] = "weight_standardized"
    family = "hand-crafted"
    formula = "(w - mean(w, 'filter')) / (sqrt(var(w, 'filter')) + eps)"
    reference = "Qiao et al. 2019, arXiv:1903.10520"

    unbiased: bool = True
    """Divide the variance by the number of weights less one (the authors), or by their number (timm)."""
    eps_at: Literal["outside", "inside"] = "outside"
    """Where eps is added: to the standard deviation (the authors), or to the variance (timm, with 1e-6)."""
    eps: PositiveFloat = 1e-5
    """Keeps a filter of equal weights finite."""


class ScaledWeightStandardized(WeightPart):
    """Filters of mean 0 and variance 1 / n, times a learned gain and the activation's constant (Brock et al. 2021)."""

    name: Literal["scaled_weight_standardized"] = "scaled_weight_standardized"
    family = "norm-free"
    formula = "gain * gamma * (w - mean(w, 'filter')) / sqrt(max(n * var(w, 'filter'), eps))"
    reference = "Brock et al. 2021, arXiv:2101.08692 and arXiv:2102.06171"

    gamma: Literal["estimated", "exact", "one"] = "estimated"
    """The constant of the activation: the authors' and timm's estimate, 1 / its standard deviation under normal x, or 1."""
    eps_at: Literal["floor", "inside", "outside"] = "floor"
    """What eps does: the least n var(w) (the authors), added to var(w) (timm, with 1e-6), or to std(w) (BeyondBatchNorm,
    with 1e-5 and the exact gamma)."""
    eps: PositiveFloat = 1e-4
    """Keeps a filter of equal weights finite."""


class WeightCentering(WeightPart):
    """Each filter less its mean: weight standardization without its scale (BeyondBatchNorm)."""

    name: Literal["weight_centering"] = "weight_centering"
    family = "hand-crafted"
    formula = "w - mean(w, 'filter')"
    reference = "BeyondBatchNorm; in Huang et al. 2017, arXiv:1710.02338, together with weight norm"
