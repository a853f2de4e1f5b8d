"""Quantiles of the features that the classifier sees."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc.errors import InputError, Problem
from normhpc.models import classifier
from normhpc.train.world import World


def check_classifier(model: nn.Module, name: str) -> None:
    """Raise :class:`~normhpc.errors.InputError` when the classifier is no linear layer, whose input would be the features."""
    if not isinstance(classifier(model), nn.Linear):
        message = (
            f"expected none, {name} does not end with a linear layer whose input would be its features; leave it out"
        )
        raise InputError(Problem(message, path="probes.feature_quantiles"))


@contextmanager
def kept_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that gets the features (N, F) of each pass through ``model``: the input of its classifier.

    ``model`` is one that :func:`check_classifier` takes.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any) -> None:
        kept.append(inputs[0].detach().flatten(1))

    layer = classifier(model)
    assert layer is not None, "check_classifier was not asked"
    handle = layer.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def feature_quantiles(kept: list[Tensor], quantiles: tuple[float, ...], world: World) -> NDArray[np.float64]:
    """Quantiles, by NumPy's linear rule, of all numbers that the ranks kept; called by all ranks, the same on all.

    A quantile of numbers one of which is NaN is NaN. Raises :class:`~normhpc.errors.InputError` when there are none.
    """
    own = torch.cat([features.float().flatten() for features in kept]) if kept else torch.empty(0, device=world.device)
    counts = torch.zeros(world.size, dtype=torch.int64, device=world.device)
    counts[world.rank] = len(own)
    lengths = world.sum(counts).tolist()
    if sum(lengths) == 0:
        message = "expected none, the network does not call the linear layer that stands last in it; leave it out"
        raise InputError(Problem(message, path="probes.feature_quantiles"))
    # each rank's numbers at their own place in zeros: a sum that moves them without changing a bit
    everything = torch.zeros(sum(lengths), device=world.device)
    start = sum(lengths[: world.rank])
    everything[start : start + len(own)] = own
    numbers = world.sum(everything).cpu().numpy().astype(np.float64)
    found: NDArray[np.float64] = np.quantile(numbers, quantiles)
    return found
