"""Float64 formulas of every norm and activation, written from the papers; they share no code with normhpc.norms.

A formula takes the norm's configuration, x (N, C, H, W), the layer's parameters and buffers by name, and whether the
layer trains; it gives the normalized x without the activation. :func:`slot` is a whole slot, :func:`after_training`
what a training pass leaves in the running statistics, :func:`margin` how far an input is from where the slot has no
derivative.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

from normhpc.config import norm as configs

Array = NDArray[np.float64]
Values = dict[str, Array]
Formula = Callable[[Any, Array, Values, bool], Array]

OVER = {"batch": (0, 2, 3), "layer": (1, 2, 3), "pixel": (1,), "instance": (2, 3)}


def centre(x: Array, over: str) -> Array:
    return x.mean(axis=OVER[over], keepdims=True)


def spread(x: Array, over: str) -> Array:
    """The biased variance."""
    return ((x - centre(x, over)) ** 2).mean(axis=OVER[over], keepdims=True)


def power(x: Array, over: str) -> Array:
    """The mean of squares."""
    return (x * x).mean(axis=OVER[over], keepdims=True)


def column(values: Array) -> Array:
    """(C,) against (N, C, H, W)."""
    return values.reshape(1, -1, 1, 1)


def affine(y: Array, values: Values) -> Array:
    return y * column(values["weight"]) + column(values["bias"])


def none(config: configs.NoNorm, x: Array, values: Values, training: bool) -> Array:
    return x


# Over the batch


def batch_statistics(config: configs.BatchStatistics, x: Array, values: Values, training: bool) -> tuple[Array, Array]:
    """The mean and the variance that x is normalized by where the paper says mini-batch."""
    if training:
        return centre(x, "batch"), spread(x, "batch")
    channels = x.shape[1]
    variance = values.get("running_var", np.ones(channels))
    if getattr(config, "running", "") == "biased_corrected":
        count = x.size / channels
        variance = variance * count / (count - 1)
    return column(values.get("running_mean", np.zeros(channels))), column(variance)


def batch(config: configs.BatchNorm, x: Array, values: Values, training: bool) -> Array:
    """Ioffe and Szegedy 2015, algorithms 1 and 2: over the mini-batch and the positions, per channel."""
    mean, variance = batch_statistics(config, x, values, training)
    return affine((x - mean) / np.sqrt(variance + config.eps), values)


def stretches(config: configs.GhostBatchNorm, x: Array) -> list[Array]:
    return [x[first : first + config.ghost_size] for first in range(0, x.shape[0], config.ghost_size)]


def ghost_batch(config: configs.GhostBatchNorm, x: Array, values: Values, training: bool) -> Array:
    """Hoffer et al. 2017, algorithm 1."""
    if not training:
        return batch(config, x, values, training)  # type: ignore[arg-type]
    return np.concatenate([batch(config, part, values, training) for part in stretches(config, x)])  # type: ignore[arg-type]


def corrections(config: configs.BatchRenorm, x: Array, values: Values) -> tuple[Array, Array]:
    """r and d of Ioffe 2017, algorithm 1, with the bounds of this training pass."""
    progress = min(1.0, float(values["steps"]) / config.warmup_steps) if config.warmup_steps else 1.0
    r_max, d_max = 1 + (config.r_max - 1) * progress, config.d_max * progress
    here, so_far = (np.sqrt(variance + config.eps) for variance in (spread(x, "batch"), column(values["running_var"])))
    moved = (centre(x, "batch") - column(values["running_mean"])) / so_far
    return np.clip(here / so_far, 1 / r_max, r_max), np.clip(moved, -d_max, d_max)


def batch_renorm(config: configs.BatchRenorm, x: Array, values: Values, training: bool) -> Array:
    mean, variance = batch_statistics(config, x, values, training)
    y = (x - mean) / np.sqrt(variance + config.eps)
    if training:
        r, d = (values["r"], values["d"]) if "r" in values else corrections(config, x, values)
        y = y * r + d
    return affine(y, values)


def variance(config: configs.VarianceNorm, x: Array, values: Values, training: bool) -> Array:
    """Daneshmand et al. 2020, equation 1, as BeyondBatchNorm has it."""
    return affine(x / np.sqrt(batch_statistics(config, x, values, training)[1] + config.eps), values)


def mean_centering(config: configs.MeanCentring, x: Array, values: Values, training: bool) -> Array:
    return affine(x - batch_statistics(config, x, values, training)[0], values)


def batch_instance(config: configs.BatchInstanceNorm, x: Array, values: Values, training: bool) -> Array:
    """Nam and Kim 2018, equations 1 to 3."""
    mean, variance = batch_statistics(config, x, values, training)
    over_batch = (x - mean) / np.sqrt(variance + config.eps)
    over_plane = (x - centre(x, "instance")) / np.sqrt(spread(x, "instance") + config.eps)
    gate = column(values["gate"])
    return affine(gate * over_batch + (1 - gate) * over_plane, values)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def switchable(config: configs.SwitchableNorm, x: Array, values: Values, training: bool) -> Array:
    """Luo et al. 2019, equation 3, with the statistics each from its own definition instead of equation 5."""
    over_batch = batch_statistics(config, x, values, training)
    means = (centre(x, "instance"), centre(x, "layer"), over_batch[0])
    variances = (spread(x, "instance"), spread(x, "layer"), over_batch[1])
    mean = sum(share * part for share, part in zip(softmax(values["mean_weight"]), means, strict=True))
    variance = sum(share * part for share, part in zip(softmax(values["var_weight"]), variances, strict=True))
    return affine((x - mean) / np.sqrt(variance + config.eps), values)


def evonorm_b_sides(config: configs.EvoNormBatch, x: Array, values: Values, training: bool) -> tuple[Array, Array]:
    """What the denominator is the larger of: Liu et al. 2020, table 2 and appendix A."""
    over_batch = np.sqrt(batch_statistics(config, x, values, training)[1] + config.eps)
    if isinstance(config, configs.EvoNormB0):
        own = column(values["v"]) * x + np.sqrt(spread(x, "instance") + config.eps)
    elif isinstance(config, configs.EvoNormB1):
        own = (x + 1) * np.sqrt(power(x, "instance") + config.eps)
    else:
        own = np.sqrt(power(x, "instance") + config.eps) - x
    return over_batch, own


def evonorm_b(config: configs.EvoNormBatch, x: Array, values: Values, training: bool) -> Array:
    over_batch, own = evonorm_b_sides(config, x, values, training)
    return affine(x / np.where(over_batch > own, over_batch, own), values)


# Over one image


def groups_in(config: configs.ChannelGroups, channels: int) -> int:
    """The rules of Wu and He 2018 and of BeyondBatchNorm; shrinking as in the authors' code of EvoNorm."""
    if config.groups is not None:
        groups = config.groups
    elif config.group_size is not None:
        groups = channels // config.group_size
    else:
        p = config.p_grouping or 0.0
        groups = int(p) if p > 1 else math.ceil(channels * p)
    groups = max(1, min(groups, channels)) if config.indivisible == "shrink" else groups
    while config.indivisible == "shrink" and channels % groups:
        groups -= 1
    assert channels % groups == 0
    return groups


def in_groups(x: Array, groups: int, centred: bool = True, less: int = 0) -> tuple[Array, Array]:
    """Per image over C / groups neighbouring channels and the positions: the mean and the mean square around it.

    Around 0 if not ``centred``; the squares' sum is divided by their number less ``less``.
    """
    images, channels = x.shape[:2]
    together = x.reshape(images, groups, -1)
    mean = together.mean(axis=2, keepdims=True)
    squares = (together - (mean if centred else 0)) ** 2
    mean_square = squares.sum(axis=2, keepdims=True) / (together.shape[2] - less)

    def of_channels(values: Array) -> Array:
        return np.repeat(values, channels // groups, axis=1).reshape(images, channels, 1, 1)

    return of_channels(mean), of_channels(mean_square)


def layer(config: configs.LayerNorm, x: Array, values: Values, training: bool) -> Array:
    """Ba et al. 2016, equation 3, of a whole image."""
    return affine((x - centre(x, "layer")) / np.sqrt(spread(x, "layer") + config.eps), values)


def layer_pixel(config: configs.LayerPixelNorm, x: Array, values: Values, training: bool) -> Array:
    """Ba et al. 2016, equation 3, of the vector of channels at each position."""
    return affine((x - centre(x, "pixel")) / np.sqrt(spread(x, "pixel") + config.eps), values)


def instance(config: configs.InstanceNorm, x: Array, values: Values, training: bool) -> Array:
    """Ulyanov et al. 2016, equation 4."""
    return affine((x - centre(x, "instance")) / np.sqrt(spread(x, "instance") + config.eps), values)


def group(config: configs.GroupNorm, x: Array, values: Values, training: bool) -> Array:
    """Wu and He 2018, section 3."""
    mean, variance = in_groups(x, groups_in(config, x.shape[1]), less=1 if config.unbiased else 0)
    return affine((x - mean) / np.sqrt(variance + config.eps), values)


def rms(config: configs.RmsNorm, x: Array, values: Values, training: bool) -> Array:
    """Zhang and Sennrich 2019, equation 4, of the vector of channels at each position."""
    return x / np.sqrt(power(x, "pixel") + config.eps) * column(values["weight"])


def frn(config: configs.FilterResponse, x: Array, values: Values, training: bool) -> Array:
    """Singh and Krishnan 2020, equations 1 to 3; a learned epsilon by its magnitude as in BeyondBatchNorm."""
    eps = np.abs(values["learned_eps"]) if config.learn_eps else config.eps
    return affine(x / np.sqrt(power(x, "instance") + eps), values)


def frn_tlu(config: configs.FilterResponseTlu, x: Array, values: Values, training: bool) -> Array:
    """Singh and Krishnan 2020, equation 4, which is an activation: a slot without one has no threshold."""
    z = frn(config, x, values, training)
    return np.maximum(z, column(values["threshold"])) if "threshold" in values else z


def grn(config: configs.GlobalResponseNorm, x: Array, values: Values, training: bool) -> Array:
    """Woo et al. 2023, algorithm 1."""
    norms = np.sqrt((x * x).sum(axis=(2, 3), keepdims=True))
    return x + affine(x * norms / (norms.mean(axis=1, keepdims=True) + config.eps), values)


def local_response(config: configs.LocalResponseNorm, x: Array, values: Values, training: bool) -> Array:
    """Krizhevsky et al. 2012, section 3.3, with alpha over the neighbours' mean as in torch.

    Of an even number of neighbours the one more lies before the channel.
    """
    y = np.empty_like(x)
    for channel in range(x.shape[1]):
        first = channel - config.size // 2
        near = x[:, max(0, first) : first + config.size]
        y[:, channel] = x[:, channel] / (config.k + config.alpha * (near**2).sum(axis=1) / config.size) ** config.beta
    return y


def evonorm_s_spread(config: configs.EvoNormSample, x: Array) -> Array:
    groups = groups_in(config, x.shape[1])
    return np.sqrt(in_groups(x, groups, centred=not isinstance(config, configs.EvoNormS2))[1] + config.eps)


def evonorm_s(config: configs.EvoNormSample, x: Array, values: Values, training: bool) -> Array:
    """Liu et al. 2020, table 2 and appendix A."""
    v = column(values["v"]) if isinstance(config, configs.EvoNormS0) else 1.0
    return affine(x * expit(v * x) / evonorm_s_spread(config, x), values)


def evonorm_alone(
    config: configs.EvoNormBatch | configs.EvoNormSample, x: Array, values: Values, training: bool
) -> Array:
    """Where no activation follows: affine as in the authors' code, or timm's S0a and its like for the batch."""
    if config.alone == "affine":
        return affine(x, values)
    if isinstance(config, configs.EvoNormSample):
        return affine(x / evonorm_s_spread(config, x), values)
    return affine(x / np.sqrt(batch_statistics(config, x, values, training)[1] + config.eps), values)


# Of single values

BOUNDED: dict[str, Callable[[Array], Array]] = {
    "erf": erf,
    "tanh": np.tanh,
    "arctan": lambda z: np.arctan(z) / (np.pi / 2),
    "isru": lambda z: z / np.sqrt(1 + z * z),
    "satursin": lambda z: np.where(z > np.pi / 2, 1.0, np.where(z < -np.pi / 2, -1.0, np.sin(z))),
    "expsign": lambda z: np.where(z > 0, 1 - np.exp(-np.abs(z)), np.exp(-np.abs(z)) - 1),
    "linear_clip": lambda z: np.where(z > 1, 1.0, np.where(z < -1, -1.0, z)),
}


def dyt(config: configs.DynamicTanh, x: Array, values: Values, training: bool) -> Array:
    """Zhu et al. 2025, algorithm 1."""
    return affine(np.tanh(values["alpha"] * x), values)


def derf(config: configs.DynamicErf, x: Array, values: Values, training: bool) -> Array:
    """Chen et al. 2025, equation 5."""
    return affine(erf(values["alpha"] * x + values["shift"]), values)


def pointwise(config: configs.PointwiseShape, x: Array, values: Values, training: bool) -> Array:
    """Chen et al. 2025, equation 5, with each function of its table of candidates."""
    return affine(BOUNDED[config.shape](values["alpha"] * x + values["shift"]), values)


def dyisru(config: configs.DynamicIsru, x: Array, values: Values, training: bool) -> Array:
    """Stollenwerk 2025, with the magnitude of C."""
    return affine(np.sqrt(x.shape[1]) * x / np.sqrt(x * x + np.abs(values["c"])), values)


def selu(config: configs.Selu, x: Array, values: Values, training: bool) -> Array:
    """Klambauer et al. 2017, equation 2 with the constants of equation 14."""
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(np.minimum(x, 0)) - 1))


FORMULAS: dict[type, Formula] = {
    configs.NoNorm: none,
    configs.BatchNorm: batch,
    configs.GhostBatchNorm: ghost_batch,
    configs.BatchRenorm: batch_renorm,
    configs.VarianceNorm: variance,
    configs.MeanCentring: mean_centering,
    configs.BatchInstanceNorm: batch_instance,
    configs.SwitchableNorm: switchable,
    configs.EvoNormB0: evonorm_b,
    configs.EvoNormB1: evonorm_b,
    configs.EvoNormB2: evonorm_b,
    configs.LayerNorm: layer,
    configs.LayerPixelNorm: layer_pixel,
    configs.RmsNorm: rms,
    configs.InstanceNorm: instance,
    configs.GroupNorm: group,
    configs.FilterResponseNorm: frn,
    configs.FilterResponseTlu: frn_tlu,
    configs.GlobalResponseNorm: grn,
    configs.LocalResponseNorm: local_response,
    configs.EvoNormS0: evonorm_s,
    configs.EvoNormS1: evonorm_s,
    configs.EvoNormS2: evonorm_s,
    configs.DynamicTanh: dyt,
    configs.DynamicErf: derf,
    configs.DynamicIsru: dyisru,
    configs.PointwiseShape: pointwise,
    configs.Selu: selu,
}

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "tanh": np.tanh,
}


# Whole slots


def is_evonorm(config: Any) -> bool:
    return isinstance(config, configs.EvoNormBatch | configs.EvoNormSample)


def owns_activation(config: Any) -> bool:
    """Whether the norm takes the place of the activation after it."""
    if isinstance(config, configs.FormulaNorm):
        return config.owns_act
    return is_evonorm(config) or isinstance(config, configs.FilterResponseTlu | configs.Selu)


def slot(config: Any, act: str, x: Array, values: Values, training: bool = True) -> Array:
    """What the slot of a norm and the activation after it gives."""
    formula = FORMULAS[type(config)]
    if act == "none" and is_evonorm(config):
        formula = evonorm_alone
    if act == "none" and isinstance(config, configs.Selu):
        formula = none
    return ACTIVATIONS["none" if owns_activation(config) else act](formula(config, x, values, training))


def starts(config: Any, act: str, channels: int) -> Values:
    """The parameters of a new slot, and the buffers that are parameters of other settings."""
    ones, zeros = np.ones(channels), np.zeros(channels)
    both: Values = {"weight": ones, "bias": zeros}
    if isinstance(config, configs.NoNorm | configs.LocalResponseNorm | configs.Selu):
        return {}
    if isinstance(config, configs.RmsNorm):
        return {"weight": ones}
    if isinstance(config, configs.GlobalResponseNorm):
        return {"weight": zeros, "bias": zeros}
    if isinstance(config, configs.EvoNormB0 | configs.EvoNormS0) and act != "none":
        both["v"] = ones
    if isinstance(config, configs.FilterResponseTlu) and act != "none":
        both["threshold"] = zeros
    if isinstance(config, configs.FilterResponse) and config.learn_eps:
        both["learned_eps"] = np.array(config.eps)
    if isinstance(config, configs.BatchInstanceNorm):
        both["gate"] = config.gate_init * ones
    if isinstance(config, configs.SwitchableNorm):
        both |= {"mean_weight": np.ones(3), "var_weight": np.ones(3)}
    if isinstance(config, configs.DynamicTanh | configs.DynamicErf | configs.PointwiseShape):
        both["alpha"] = np.array(config.alpha)
    if isinstance(config, configs.DynamicErf | configs.PointwiseShape):
        both["shift"] = np.array(0.0)
    if isinstance(config, configs.DynamicIsru):
        both["c"] = np.array(float(channels) if config.c is None else config.c)
    return both


def buffers(config: Any, act: str, channels: int) -> Values:
    """The running statistics of a new slot."""
    if not isinstance(config, configs.BatchStatistics):
        return {}
    if isinstance(config, configs.EvoNormBatch) and act == "none" and config.alone == "affine":
        return {}
    from_one = isinstance(config, configs.BatchNorm) and config.running == "biased_from_one"
    # Both, also where a formula reads one: ranks need both to say what their statistics are together.
    found = {"running_mean": np.full(channels, 1.0 if from_one else 0.0), "running_var": np.ones(channels)}
    if isinstance(config, configs.BatchRenorm):
        found["steps"] = np.array(0)
    return found


def after_training(config: Any, x: Array, values: Values) -> Values:
    """The running statistics after a training pass over x; they were ``values`` before."""
    parts = stretches(config, x) if isinstance(config, configs.GhostBatchNorm) else [x]
    mean = sum(len(part) * centre(part, "batch").ravel() for part in parts) / len(x)
    unbiased = getattr(config, "running", "unbiased") == "unbiased"
    variance = 0
    for part in parts:
        count = part.size / part.shape[1]
        variance = variance + len(part) * spread(part, "batch").ravel() * (count / (count - 1) if unbiased else 1)
    newest = {"running_mean": mean, "running_var": variance / len(x)}
    moved = {
        name: (1 - config.momentum) * values[name] + config.momentum * newest[name] for name in newest if name in values
    }
    return moved | ({"steps": values["steps"] + 1} if "steps" in values else {})


def held(config: Any, x: Array, values: Values, training: bool) -> Values:
    """What the paper takes as constant when it differentiates at x."""
    if not training or not isinstance(config, configs.BatchRenorm):
        return {}
    r, d = corrections(config, x, values)
    return {"r": r, "d": d}


def margin(config: Any, act: str, x: Array, values: Values, training: bool = True) -> float:
    """The smallest distance of a value from where the slot jumps in its derivative."""
    if isinstance(config, configs.Selu):
        return math.inf if act == "none" else float(np.abs(x).min())
    distance = math.inf
    if isinstance(config, configs.EvoNormBatch) and act != "none":
        over_batch, own = evonorm_b_sides(config, x, values, training)
        distance = float(np.abs(over_batch - own).min())
    if isinstance(config, configs.FilterResponseTlu) and act != "none":
        distance = float(np.abs(frn(config, x, values, training) - column(values["threshold"])).min())
    if isinstance(config, configs.PointwiseShape) and config.shape == "linear_clip":
        distance = float(np.abs(np.abs(values["alpha"] * x + values["shift"]) - 1).min())
    if act in ("relu", "leaky_relu") and not owns_activation(config):
        distance = min(distance, float(np.abs(slot(config, "none", x, values, training)).min()))
    for name in ("learned_eps", "c"):
        if name in values:
            distance = min(distance, float(np.abs(values[name])))
    return distance


def gradient(function: Callable[[Array], Array], at: Array, cotangent: Array, step: float = 1e-6) -> Array:
    """d sum(cotangent * function(at)) / d at by central differences; good to about 1e-9 of the result's scale."""
    slopes = np.empty(at.size)
    for index in range(at.size):
        moved = np.tile(at.astype(np.float64).ravel(), (2, 1))
        moved[:, index] += (step, -step)
        above, below = (float((cotangent * function(values.reshape(at.shape))).sum()) for values in moved)
        slopes[index] = (above - below) / (2 * step)
    return slopes.reshape(at.shape)
