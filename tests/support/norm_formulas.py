"""Float64 formulas of every norm and activation, written from the papers; they share no code with normhpc.norms.

A formula takes the norm's configuration, x (N, C, H, W) and the layer's parameters by name, and gives the
normalized x as in training, without the activation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from normhpc.config.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, NoNorm

Array = NDArray[np.float64]
Parameters = dict[str, Array]
Formula = Callable[[Any, Array, Parameters], Array]


def none(config: NoNorm, x: Array, parameters: Parameters) -> Array:
    return x


def batch(config: BatchNorm, x: Array, parameters: Parameters) -> Array:
    """Ioffe and Szegedy 2015, algorithm 1: over the mini-batch and the positions, per channel."""
    y = np.empty_like(x)
    for channel in range(x.shape[1]):
        values = x[:, channel]
        mean = values.sum() / values.size
        variance = ((values - mean) ** 2).sum() / values.size
        y[:, channel] = (values - mean) / np.sqrt(variance + config.eps)
    return y * column(parameters["weight"]) + column(parameters["bias"])


def grouped(x: Array, groups: int, eps: float, parameters: Parameters) -> Array:
    """Wu and He 2018, section 3: per image over C / groups neighbouring channels and the positions."""
    y = np.empty_like(x)
    size = x.shape[1] // groups
    for image in range(x.shape[0]):
        for first in range(0, x.shape[1], size):
            values = x[image, first : first + size]
            mean = values.sum() / values.size
            variance = ((values - mean) ** 2).sum() / values.size
            y[image, first : first + size] = (values - mean) / np.sqrt(variance + eps)
    return y * column(parameters["weight"]) + column(parameters["bias"])


def layer(config: LayerNorm, x: Array, parameters: Parameters) -> Array:
    return grouped(x, 1, config.eps, parameters)


def instance(config: InstanceNorm, x: Array, parameters: Parameters) -> Array:
    return grouped(x, x.shape[1], config.eps, parameters)


def group(config: GroupNorm, x: Array, parameters: Parameters) -> Array:
    groups = config.groups if config.groups is not None else x.shape[1] // (config.group_size or 1)
    return grouped(x, groups, config.eps, parameters)


FORMULAS: dict[type, Formula] = {
    NoNorm: none,
    BatchNorm: batch,
    LayerNorm: layer,
    InstanceNorm: instance,
    GroupNorm: group,
}

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "tanh": np.tanh,
}


def column(values: Array) -> Array:
    """(C,) against (N, C, H, W)."""
    return values.reshape(1, -1, 1, 1)


def gradient(function: Callable[[Array], Array], at: Array, cotangent: Array, step: float = 1e-6) -> Array:
    """d sum(cotangent * function(at)) / d at by central differences; good to about 1e-9 of the result's scale."""
    slopes = np.empty(at.size)
    for index in range(at.size):
        moved = np.tile(at.astype(np.float64).ravel(), (2, 1))
        moved[:, index] += (step, -step)
        above, below = (float((cotangent * function(values.reshape(at.shape))).sum()) for values in moved)
        slopes[index] = (above - below) / (2 * step)
    return slopes.reshape(at.shape)
