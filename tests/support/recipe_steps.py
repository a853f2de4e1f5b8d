"""A few steps of recipes, on one rank or on its share of the ranks."""

from typing import Any

import numpy as np
import torch
from support.steps import ready
from torch import Tensor

from normhpc.train.step import train_step
from normhpc.train.world import World

RECIPES: dict[str, dict[str, Any]] = {
    "limits": {"lr": 0.1, "l1": 1e-3, "clip_norm": 0.5, "clip_adaptive": 0.05, "ema_decay": 0.8},
    "scaled": {"lr": 0.1, "lr_batch_size": 18, "lr_factors": [{"parameters": "*.bias", "factor": 2.0}]},
    "accumulated": {"lr": 0.1, "l1": 1e-3, "clip_norm": 0.5, "accumulate": 2, "ema_decay": 0.8},
    "muon": {"name": "muon", "lr": 0.02, "weight_decay": 0.01, "clip_norm": 0.5, "ema_decay": 0.8},
}
SMOOTH = {"model": {"name": "resnet8", "width": 4}, "act": "silu", "norm": {"name": "group", "groups": 2}}
"""Without kinks, so that ranks and one process differ by rounding alone."""


def six_steps(rank: int, size: int) -> dict[str, dict[str, Tensor]]:
    """By recipe: the weights after six steps of 9 images, and under ``average.`` their averages."""
    return {name: _after_steps(World(rank, size, torch.device("cpu")), optim) for name, optim in RECIPES.items()}


def _after_steps(world: World, optim: dict[str, Any]) -> dict[str, Tensor]:
    config, state, batches = ready(world, **SMOOTH, optim=optim)
    for step in range(6):
        rows = np.arange(9, dtype=np.int64) + step
        train_step(state, batches, rows, config, world, updates_per_epoch=4)
    weights = {name: parameter.detach() for name, parameter in state.model.named_parameters()}
    averages = state.average.state_dict() if state.average is not None else {}
    return weights | {f"average.{name}": value for name, value in averages.items()}
