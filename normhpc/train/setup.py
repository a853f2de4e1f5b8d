"""From a configuration to a training that is ready to start."""

import platform
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normhpc import models
from normhpc.config import RunConfig
from normhpc.data import Batches, ImageData, ImageSplit, rank_share, step_seed
from normhpc.norms import Norm
from normhpc.train.optimizer import build_optimizer
from normhpc.train.precision import gradient_scaler
from normhpc.train.state import TrainState
from normhpc.train.world import World


def build_state(config: RunConfig, world: World) -> TrainState:
    """The network with seeded weights, its optimizer and everything else, on this rank's device."""
    model = models.build(config).to(world.device)
    if config.model.channels_last:
        model = model.to(memory_format=torch.channels_last)
    forward: nn.Module = model
    if config.model.compile:
        forward = cast(nn.Module, torch.compile(forward, dynamic=False))
    if world.size > 1:
        forward = DistributedDataParallel(
            forward,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            forward_sync_buffers=False,  # running statistics are merged exactly where they are used
        )
    return TrainState(
        model=model,
        forward=forward,
        optimizer=build_optimizer(model, config.optim),
        scaler=gradient_scaler(config.precision, world.device),
        post_steps=tuple(
            module.post_step for module in model.modules() if isinstance(module, Norm) and module.has_post_step()
        ),
    )


def build_batches(config: RunConfig, data: ImageData, split: ImageSplit, world: World, *, train: bool) -> Batches:
    """``split`` on this rank's device; augmented only for training."""
    return Batches(
        split,
        data.mean,
        data.std,
        device=world.device,
        augment=config.augment if train else None,
        seed=config.seed,
        channels_last=config.model.channels_last,
    )


def seed_step(seed: int, step: int, world: World) -> None:
    """Make dropout and other draws inside the network a function of (seed, step, rank): nothing to save for resuming."""
    value = step_seed(seed, step, world.rank) >> 1
    torch.default_generator.manual_seed(value)
    if world.device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)


def images_per_statistic(model: nn.Module, config: RunConfig, shares: list[int]) -> list[int] | None:
    """Images behind each batch statistic, its distinct values over ranks and micro-batches; None without any."""
    slots = [module for module in model.modules() if isinstance(module, Norm) and module.scope == "batch"]
    if not slots:
        return None
    pieces = config.optim.accumulate
    parts = [[rank_share(share, piece, pieces) for piece in range(pieces)] for share in shares]
    sizes = [[part.stop - part.start for part in rank] for rank in parts]
    if getattr(config.norm, "sync", False):
        sizes = [[sum(piece) for piece in zip(*sizes, strict=True)]]
    behind = {size for slot in slots for rank in sizes for share in rank for size in slot.images_per_statistic(share)}
    return sorted(behind, reverse=True)


def machine_facts(world: World) -> dict[str, Any]:
    """What the run computes on, for the ``started`` event."""
    cuda = world.device.type == "cuda"
    return {
        "host": platform.node(),
        "ranks": world.size,
        "device": torch.cuda.get_device_name(world.device) if cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
    }
