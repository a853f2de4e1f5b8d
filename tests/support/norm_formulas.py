"""Float64 formulas of every norm and activation, written from the papers; they share no code with normhpc.norms.

A formula takes the norm's configuration, x (N, C, H, W) and the layer's parameters by name, and gives the
normalized x as in training, without the activation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from normhpc.config import norm as configs

Array = NDArray[np.float64]
Parameters = dict[str, Array]
Formula = Callable[[Any, Array, Parameters], Array]


def none(config: configs.NoNorm, x: Array, parameters: Parameters) -> Array:
    return x


def batch(config: configs.BatchNorm, x: Array, parameters: Parameters) -> Array:
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


def layer(config: configs.LayerNorm, x: Array, parameters: Parameters) -> Array:
    return grouped(x, 1, config.eps, parameters)


def instance(config: configs.InstanceNorm, x: Array, parameters: Parameters) -> Array:
    return grouped(x, x.shape[1], config.eps, parameters)


def group(config: configs.GroupNorm, x: Array, parameters: Parameters) -> Array:
    groups = config.groups if config.groups is not None else x.shape[1] // (config.group_size or 1)
    return grouped(x, groups, config.eps, parameters)


def rms(config: configs.RmsNorm, x: Array, parameters: Parameters) -> Array:
    """Zhang and Sennrich 2019, equation 4, of the vector of channels at each position."""
    y = np.empty_like(x)
    for image, row, place in np.ndindex(x.shape[0], *x.shape[2:]):
        values = x[image, :, row, place]
        y[image, :, row, place] = values / np.sqrt((values * values).sum() / values.size + config.eps)
    return y * column(parameters["weight"])


def frn(config: configs.FilterResponseNorm, x: Array, parameters: Parameters) -> Array:
    """Singh and Krishnan 2020, equations 1 to 4; the threshold where the layer has one."""
    y = np.empty_like(x)
    for image, channel in np.ndindex(*x.shape[:2]):
        plane = x[image, channel]
        y[image, channel] = plane / np.sqrt((plane * plane).sum() / plane.size + config.eps)
    z = y * column(parameters["weight"]) + column(parameters["bias"])
    if "threshold" not in parameters:
        return z
    threshold = column(parameters["threshold"]) + np.zeros_like(z)
    return np.where(z > threshold, z, threshold)


def dyt(config: configs.DynamicTanh, x: Array, parameters: Parameters) -> Array:
    """Zhu et al. 2025, algorithm 1."""
    z = parameters["alpha"] * x
    t = (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z))
    return t * column(parameters["weight"]) + column(parameters["bias"])


def evonorm_s(
    config: configs.EvoNormS0 | configs.EvoNormS1 | configs.EvoNormS2, x: Array, parameters: Parameters
) -> Array:
    """Liu et al. 2020, table 2; the layers with an activation."""
    y = np.empty_like(x)
    size = config.group_size or x.shape[1] // (config.groups or 1)
    v = parameters.get("v", np.ones(x.shape[1]))
    for image, channel in np.ndindex(*x.shape[:2]):
        first = channel - channel % size
        values = x[image, first : first + size]
        centre = 0 if isinstance(config, configs.EvoNormS2) else values.sum() / values.size
        spread = np.sqrt(((values - centre) ** 2).sum() / values.size + config.eps)
        plane = x[image, channel]
        y[image, channel] = plane / (1 + np.exp(-v[channel] * plane)) / spread
    return y * column(parameters["weight"]) + column(parameters["bias"])


def evonorm_alone(config: Any, x: Array, parameters: Parameters) -> Array:
    """As the authors' code has it where no activation follows."""
    return x * column(parameters["weight"]) + column(parameters["bias"])


BOUNDED: dict[str, Callable[[Array], Array]] = {
    "erf": erf,
    "tanh": np.tanh,
    "arctan": lambda z: np.arctan(z) / (np.pi / 2),
    "isru": lambda z: z / np.sqrt(1 + z * z),
    "satursin": lambda z: np.where(z > np.pi / 2, 1.0, np.where(z < -np.pi / 2, -1.0, np.sin(z))),
    "expsign": lambda z: np.where(z > 0, 1 - np.exp(-np.abs(z)), np.exp(-np.abs(z)) - 1),
}


def derf(config: configs.DynamicErf, x: Array, parameters: Parameters) -> Array:
    """Chen et al. 2025, equation 5, with each function of its table of candidates."""
    bounded = BOUNDED[config.shape](parameters["alpha"] * x + parameters["shift"])
    return bounded * column(parameters["weight"]) + column(parameters["bias"])


def owns_activation(config: Any) -> bool:
    """Whether the norm takes the place of the activation after it."""
    return isinstance(config, configs.EvoNormS0 | configs.EvoNormS1 | configs.EvoNormS2) or (
        isinstance(config, configs.FilterResponseNorm) and config.tlu
    )


def formula_of(config: Any, act: str) -> Formula:
    """The formula of a whole slot."""
    if act == "none" and isinstance(config, configs.EvoNormS0 | configs.EvoNormS1 | configs.EvoNormS2):
        return evonorm_alone
    formula = FORMULAS[type(config)]
    activation = ACTIVATIONS["none" if owns_activation(config) else act]
    return lambda config, x, parameters: activation(formula(config, x, parameters))


FORMULAS: dict[type, Formula] = {
    configs.NoNorm: none,
    configs.BatchNorm: batch,
    configs.LayerNorm: layer,
    configs.InstanceNorm: instance,
    configs.GroupNorm: group,
    configs.RmsNorm: rms,
    configs.FilterResponseNorm: frn,
    configs.EvoNormS0: evonorm_s,
    configs.EvoNormS1: evonorm_s,
    configs.EvoNormS2: evonorm_s,
    configs.DynamicTanh: dyt,
    configs.DynamicErf: derf,
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
