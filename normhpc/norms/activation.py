"""The activations a slot can end with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from normhpc.errors import InputError, did_you_mean

ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu", "tanh", "none")
"""Names :func:`activate` takes; ``none`` is the identity."""


def check_activation(name: str) -> None:
    """Raise :class:`~normhpc.errors.InputError` unless ``name`` is one of :data:`ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        hint = did_you_mean(name, ACTIVATIONS)
        raise InputError(f"act: expected one of {', '.join(ACTIVATIONS)}, got {name!r}{hint}")


def activate(x: Tensor, name: str, *, overwrite: bool) -> Tensor:
    """Apply the activation ``name`` elementwise; ``overwrite`` says that ``x`` is nobody else's and may be reused.

    Slope of leaky_relu 0.01, gelu by erf, as in torch.
    """
    if name == "none":
        return x
    if name == "relu":
        if torch.compiler.is_compiling():
            # Same value and gradient as F.relu (0 at 0, NaN stays NaN), but it fuses without storing a mask
            # for the backward pass and stays vectorized on CPUs.
            return torch.where(x <= 0, 0.0, x)
        return F.relu(x, inplace=overwrite)
    if name == "leaky_relu":
        return F.leaky_relu(x, inplace=overwrite)
    if name == "silu":
        return F.silu(x)
    if name == "gelu":
        return F.gelu(x)
    assert name == "tanh", name
    return torch.tanh(x)
