"""From a configuration to a training that is ready to start."""

import hashlib
import platform
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normhpc import models
from normhpc.config import RunConfig
from normhpc.config.checks import too_few_images
from normhpc.config.data import Shards
from normhpc.config.training import LayerProbes as LayerProbesConfig
from normhpc.data import Batches, ImageData, Split, centre_and_scale, rank_share, step_seed
from normhpc.errors import InputError, Problem
from normhpc.norms import Norm
from normhpc.train.average import WeightAverage
from normhpc.train.gradients import gradient_rules
from normhpc.train.optimizer import build_optimizer
from normhpc.train.precision import gradient_scaler
from normhpc.train.probes import LayerProbes, check_classifier
from normhpc.train.state import TrainState
from normhpc.train.world import World


def build_state(config: RunConfig, world: World) -> TrainState:
    """The network with seeded weights, its optimizer and everything else, on this rank's device.

    Raises :class:`~normhpc.errors.InputError` for what the network cannot take.
    """
    model = models.build(config).to(world.device)
    if config.model.deterministic and world.device.type == "cuda":
        refuse_nondeterministic_pools(model)
    if config.channels_last:
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
    average = WeightAverage(model, config.optim.ema_decay) if config.optim.ema_decay is not None else None
    post_steps = [module.post_step for module in model.modules() if isinstance(module, Norm) and module.has_post_step()]
    return TrainState(
        model=model,
        forward=forward,
        optimizer=build_optimizer(model, config.optim),
        scaler=gradient_scaler(config.precision, world.device),
        gradient_rules=gradient_rules(model, config.optim),
        post_steps=(*post_steps, *([average.update] if average is not None else [])),
        average=average,
        probes=layer_probes(model, config, world),
    )


def layer_probes(model: nn.Module, config: RunConfig, world: World) -> LayerProbes | None:
    """What measures the layers of ``model``, if this rank does.

    Raises :class:`~normhpc.errors.InputError` when features are asked of a network that does not give any.
    """
    probes = config.probes
    if not isinstance(probes, LayerProbesConfig):
        return None
    if probes.feature_quantiles:
        check_classifier(model, config.model.name)
    return LayerProbes(model, probes.measures, probes.every_steps) if probes.measures and world.leads else None


def refuse_nondeterministic_pools(model: nn.Module) -> None:
    """Raise :class:`InputError` where a GPU has no deterministic gradient for a layer of ``model``.

    So for adaptive pooling to more than one pixel, as in VGG and AlexNet; to one it is a mean.
    """
    pools = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1))
    ]
    if pools:
        message = (
            f"true, but torch has no deterministic gradient on GPUs for the adaptive pooling of {', '.join(pools)}; "
            "set model.deterministic: false"
        )
        raise InputError(Problem(message, path="model.deterministic"))


def build_batches(config: RunConfig, data: ImageData, split: Split, world: World, *, train: bool) -> Batches:
    """``split`` on this rank's device; augmented only for training."""
    return Batches(
        split,
        *centre_and_scale(data, config.data.normalize),
        device=world.device,
        augment=config.augment if train else None,
        seed=config.seed,
        channels_last=config.channels_last,
        crop=config.data.crop if isinstance(config.data, Shards) else None,
        resize=config.data.resize,
        unit=data.unit,
    )


def seed_step(seed: int, step: int, world: World) -> None:
    """Make dropout and other draws inside the network a function of (seed, step, rank): nothing to save for resuming."""
    value = step_seed(seed, step, world.rank) >> 1
    torch.default_generator.manual_seed(value)
    if world.device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)


def shares_of(batch_size: int, ranks: int) -> list[int]:
    """Images of a global batch that each of so many ranks takes."""
    slices = [rank_share(batch_size, rank, ranks) for rank in range(ranks)]
    return [part.stop - part.start for part in slices]


def micro_batches(rows: int, world: World, accumulate: int) -> list[slice]:
    """The parts of a global batch of so many images that this rank learns from, one after another."""
    share = rank_share(rows, world.rank, world.size)
    parts = [rank_share(share.stop - share.start, piece, accumulate) for piece in range(accumulate)]
    return [slice(share.start + part.start, share.start + part.stop) for part in parts]


def check_shares(config: RunConfig, ranks: int, file: str = "") -> None:
    """Raise :class:`InputError`, with ``file`` as its place, unless each micro-batch of each rank has an image."""
    message = too_few_images(config.batch_size, config.optim.accumulate, ranks)
    if message:
        raise InputError(Problem(message, path="batch_size", file=file))


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


def weights_sha256(config: RunConfig) -> str | None:
    """SHA-256, in hex, of the file that the network's weights come from; None where they are fresh."""
    weights = getattr(config.model, "weights", None)
    if weights is None:
        return None
    with Path(weights).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
