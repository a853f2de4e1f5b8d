"""Norms whose statistics are taken over one image or one position of it."""

from typing import Literal

from normhpc.config.base import PositiveFloat, PositiveInt
from normhpc.config.norm.base import ChannelGroups, NormPart


class LayerNorm(NormPart):
    """Statistics per image over channels and positions, affine per channel (Ba et al. 2016)."""

    name: Literal["layer"] = "layer"
    family = "hand-crafted"
    scope = "sample"
    formula = "(x - mean(x, 'layer')) / std(x, 'layer') * weight + bias"
    reference = "Ba et al. 2016, arXiv:1607.06450"

    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""


class LayerPixelNorm(NormPart):
    """Statistics over the channels at each position: the layer norm of transformers and ConvNeXt (Ba et al. 2016)."""

    name: Literal["layer_pixel"] = "layer_pixel"
    family = "hand-crafted"
    scope = "pixel"
    formula = "(x - mean(x, 'pixel')) / std(x, 'pixel') * weight + bias"
    reference = "Ba et al. 2016, arXiv:1607.06450; at every position as in Liu et al. 2022, arXiv:2201.03545"

    eps: PositiveFloat = 1e-6
    """Added to the variance, inside the square root."""


class RmsNorm(NormPart):
    """Division by the root mean square over the channels at each position, no centring (Zhang and Sennrich 2019)."""

    name: Literal["rms"] = "rms"
    family = "hand-crafted"
    scope = "pixel"
    formula = "x / rms(x, 'pixel') * weight"
    reference = "Zhang and Sennrich 2019, arXiv:1910.07467"

    eps: PositiveFloat = 1e-6
    """Added to the mean square, inside the square root."""


class InstanceNorm(NormPart):
    """Statistics per image and channel over the positions, with affine (Ulyanov et al. 2016)."""

    name: Literal["instance"] = "instance"
    family = "hand-crafted"
    scope = "sample"
    formula = "(x - mean(x, 'instance')) / std(x, 'instance') * weight + bias"
    reference = "Ulyanov et al. 2016, arXiv:1607.08022"

    eps: PositiveFloat = 1e-5
    """Added to the variance, inside the square root."""


class GroupNorm(ChannelGroups):
    """Statistics per image over groups of channels and the positions (Wu and He 2018)."""

    name: Literal["group"] = "group"
    family = "hand-crafted"
    formula = "(x - mean(x, 'group')) / std(x, 'group') * weight + bias"
    reference = "Wu and He 2018, arXiv:1803.08494"

    unbiased: bool = False
    """Divide the variance by the number of values less one, as BeyondBatchNorm does."""


class FilterResponse(NormPart):
    """What filter response norm has with and without its threshold."""

    scope = "sample"
    reference = "Singh and Krishnan 2020, arXiv:1911.09737"

    eps: PositiveFloat = 1e-6
    """Added to the mean square, inside the square root."""
    learn_eps: bool = False
    """Learn one scalar e for the layer from ``eps`` and add its magnitude, as for maps of a single pixel."""


class FilterResponseNorm(FilterResponse):
    """Division by the root mean square of each plane, no centring (Singh and Krishnan 2020)."""

    name: Literal["frn"] = "frn"
    family = "hand-crafted"
    formula = "x / rms(x, 'instance') * weight + bias"


class FilterResponseTlu(FilterResponse):
    """Filter response norm with a learned threshold in the place of the activation (Singh and Krishnan 2020)."""

    name: Literal["frn_tlu"] = "frn_tlu"
    family = "activation replaced"
    formula = "max(x / rms(x, 'instance') * weight + bias, threshold)"


class GlobalResponseNorm(NormPart):
    """Each plane scaled by its norm against the mean of all planes' norms, on top of x (Woo et al. 2023)."""

    name: Literal["grn"] = "grn"
    family = "hand-crafted"
    scope = "sample"
    formula = "x + weight * x * norm(x, 'instance') / (mean(norm(x, 'instance'), 'pixel') + eps) + bias"
    reference = "Woo et al. 2023, arXiv:2301.00808"

    eps: PositiveFloat = 1e-6
    """Added to the mean norm of the planes."""


class LocalResponseNorm(NormPart):
    """Division by a power of the squares of neighbouring channels: AlexNet's, a historical control."""

    name: Literal["local_response"] = "local_response"
    family = "hand-crafted"
    scope = "pixel"
    formula = "x / (k + alpha * neighbours(x**2))**beta"
    reference = "Krizhevsky et al. 2012, section 3.3"

    size: PositiveInt = 5
    """Channels that are averaged: the channel itself and its neighbours, zeros beyond the ends."""
    alpha: PositiveFloat = 1e-4
    """Factor of the mean of squares, as in torch."""
    beta: PositiveFloat = 0.75
    """Exponent."""
    k: PositiveFloat = 1.0
    """What the mean of squares is added to."""


class EvoNormSample(ChannelGroups):
    """What the sample family of EvoNorms has; they own the activation."""

    family = "searched"
    reference = "Liu et al. 2020, arXiv:2004.02967"

    alone: Literal["affine", "normalize"] = "affine"
    """Where the network has no activation: x weight + bias (the authors), or x over the spread (timm's S0a to S2a)."""


class EvoNormS0(EvoNormSample):
    """x sigmoid(v x) over the standard deviation of groups, found by evolution (Liu et al. 2020)."""

    name: Literal["evonorm_s0"] = "evonorm_s0"
    formula = "x * sigmoid(v * x) / std(x, 'group') * weight + bias"


class EvoNormS1(EvoNormSample):
    """x sigmoid(x) over the standard deviation of groups, found by evolution (Liu et al. 2020)."""

    name: Literal["evonorm_s1"] = "evonorm_s1"
    formula = "x * sigmoid(x) / std(x, 'group') * weight + bias"


class EvoNormS2(EvoNormSample):
    """x sigmoid(x) over the root mean square of groups, found by evolution (Liu et al. 2020)."""

    name: Literal["evonorm_s2"] = "evonorm_s2"
    formula = "x * sigmoid(x) / rms(x, 'group') * weight + bias"
