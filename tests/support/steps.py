"""Single training steps on random images."""

from typing import Any

import torch
from support.trainings import TINY

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.data import Batches
from normhpc.train.setup import build_batches, build_state
from normhpc.train.state import TrainState
from normhpc.train.world import World

ALONE = World(0, 1, torch.device("cpu"))


def ready(world: World = ALONE, **changes: Any) -> tuple[RunConfig, TrainState, Batches]:
    """A run of :data:`~support.trainings.TINY` with top-level ``changes``, its state and its training images."""
    config = RunConfig.model_validate({**TINY, **changes})
    torch.manual_seed(config.seed)
    images = image_data.load(config.data)
    state = build_state(config, world)
    return config, state, build_batches(config, images, images.train, world, train=True)
