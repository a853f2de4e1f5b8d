"""A training under way on this rank: what it learns from, where it writes, and how it agrees with its peers."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.data import Batches, rank_share
from normhpc.errors import InputError, Problem
from normhpc.norms import merged_running_statistics, running_statistics
from normhpc.record import RecordWriter, RunFolder, RunInfo
from normhpc.train.checkpoint import load_checkpoint, save_checkpoint
from normhpc.train.metrics import summed_loss
from normhpc.train.precision import autocast
from normhpc.train.setup import (
    build_batches,
    build_state,
    images_per_statistic,
    machine_facts,
)
from normhpc.train.state import TrainState
from normhpc.train.stop import Agreement, StopRequest
from normhpc.train.world import World


@dataclass(slots=True)
class Training:
    """Everything the loop works on. ``writer`` is there on rank 0 alone."""

    folder: RunFolder
    run_id: str
    config: RunConfig
    world: World
    state: TrainState
    train: Batches
    val: Batches
    test: Batches
    data_digest: str
    writer: RecordWriter | None
    stop: StopRequest
    agreement: Agreement
    epochs_before: int = 0
    """Epochs that earlier attempts finished."""
    epoch_seconds: float = 0.0
    """Training time of the newest epoch in this attempt."""
    last_save: float = field(default_factory=time.monotonic)
    last_tick: float = field(default_factory=time.monotonic)
    counted_until: float = 0.0
    """The ``perf_counter`` up to which the clock's ``epoch_seconds`` are counted."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in the training images; the rest, other images each epoch, is left out."""
        return len(self.train) // self.config.batch_size

    @property
    def shares(self) -> list[int]:
        """Images of a global batch that each rank takes."""
        ranks = range(self.world.size)
        slices = [rank_share(self.config.batch_size, rank, self.world.size) for rank in ranks]
        return [part.stop - part.start for part in slices]

    def tick(self) -> None:
        """Add the wall time since the last call to the run's clock."""
        now = time.monotonic()
        self.state.clock.seconds += now - self.last_tick
        self.last_tick = now

    def tell(self, kind: str, **details: object) -> None:
        """Append an event, on rank 0."""
        if self.writer is not None:
            self.writer.event(kind, **details)


def prepare(folder: RunFolder, info: RunInfo, world: World, stop: StopRequest, writer: RecordWriter | None) -> Training:
    """Load the images, build the network and take up the newest checkpoint.

    Raises :class:`InputError` when the batch does not fit the images or the ranks.
    """
    config = info.config
    images = image_data.load(config.data)
    _check_batch(config, len(images.train), world.size, str(folder.run_json))
    training = Training(
        folder=folder,
        run_id=info.run_id,
        config=config,
        world=world,
        state=build_state(config, world),
        train=build_batches(config, images, images.train, world, train=True),
        val=build_batches(config, images, images.val, world, train=False),
        test=build_batches(config, images, images.test, world, train=False),
        data_digest=images.digest,
        writer=writer,
        stop=stop,
        agreement=Agreement(world),
    )
    resumed = load_checkpoint(folder, info.run_id, training.state, world, training.shares)
    _settle_buckets(training)
    position = training.state.position
    training.epochs_before = position.epoch
    pids = world.gather(os.getpid())
    training.tell(
        "resumed" if resumed else "started",
        **machine_facts(world),
        pids=pids,
        epoch=position.epoch,
        step=position.step,
        images_per_rank=training.shares,
        images_per_statistic=images_per_statistic(training.state.model, config, training.shares),
        data_digest=images.digest,
    )
    return training


def _settle_buckets(training: Training) -> None:
    """Let DDP arrange its gradients for good, by one pass that learns nothing.

    It arranges them anew after its first backward pass, and where a value lies decides in which order its addends
    from more than two ranks are summed: without this, the first step after a resumption would round otherwise than
    the same step of the uninterrupted run.
    """
    state, world = training.state, training.world
    if world.size <= 2 or not isinstance(state.forward, DistributedDataParallel):
        return
    buffers = {name: value.clone() for name, value in state.model.named_buffers()}
    rows = np.arange(training.shares[world.rank])
    rows = rows[rank_share(len(rows), 0, training.config.optim.accumulate)]  # a micro-batch, as in every step
    images, labels = training.train.train(rows, epoch=0)
    with autocast(training.config.precision, world.device):
        loss = summed_loss(state.forward(images), labels, training.config.loss)
    torch.autograd.backward(loss)
    state.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, value in state.model.named_buffers():
            value.copy_(buffers[name])


def _check_batch(config: RunConfig, rows: int, ranks: int, file: str) -> None:
    if config.batch_size > rows:
        raise InputError(
            Problem(
                f"expected at most the {rows} training images of {config.data.name}, got {config.batch_size}",
                path="batch_size",
                file=file,
            )
        )
    least = ranks * config.optim.accumulate
    if config.batch_size < least:
        raise InputError(
            Problem(
                f"expected at least {least} images, one for each of {config.optim.accumulate} micro-batches on "
                f"{ranks} ranks, got {config.batch_size}",
                path="batch_size",
                file=file,
            )
        )


def save(training: Training) -> bool:
    """Write the checkpoint; called by all ranks at the same step. False on rank 0 when it could not be written.

    A disk that cannot take it is told as a warning and the training goes on: the last checkpoint is still good,
    and a later one may succeed.
    """
    training.tick()
    saved = False
    with unwritten_told(training, "checkpoint"):
        save_checkpoint(training.folder, training.run_id, training.state, training.world)
        saved = True
    training.last_save = time.monotonic()
    return saved


@contextlib.contextmanager
def unwritten_told(training: Training, what: str) -> Iterator[None]:
    """Turn an error of the disk while ``what`` is written into a warning, which a full disk may swallow as well."""
    try:
        yield
    except OSError as error:
        message = f"{what} not saved: {error.strerror or error}; training goes on from memory"
        with contextlib.suppress(OSError):
            print(message, flush=True)
        with contextlib.suppress(OSError):
            training.tell("warning", message=message)


def save_due(training: Training) -> bool:
    """Whether this rank's clock asks for a checkpoint. Only rank 0's counts."""
    minutes = training.config.checkpoint.every_minutes
    return training.world.leads and minutes is not None and time.monotonic() - training.last_save >= 60 * minutes


@contextlib.contextmanager
def merged_statistics(training: Training) -> Iterator[None]:
    """Evaluate with the running statistics of all ranks: swapped in, and each rank's own put back afterwards.

    Norms whose ranks normalize by their own share of the batch keep their own statistics while they train, which
    is what makes a resumed run equal to the uninterrupted one.
    """
    own = running_statistics(training.state.model)
    if training.world.size == 1 or not own:
        yield
        return
    kept = {name: value.clone() for name, value in own.items()}
    weights = torch.tensor(training.shares, device=training.world.device)
    gathered = gather_statistics(own, training.world)
    for slot in sorted({name.rpartition(".")[0] for name in own}):
        prefix = f"{slot}." if slot else ""
        mean_name, variance_name = f"{prefix}running_mean", f"{prefix}running_var"
        mean, variance = merged_running_statistics(gathered[mean_name], gathered[variance_name], weights)
        own[mean_name].copy_(mean)
        own[variance_name].copy_(variance)
    try:
        yield
    finally:
        for name, value in kept.items():
            own[name].copy_(value)


def gather_statistics(own: dict[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """Every rank's running statistics, stacked as (ranks, ...), on every rank."""
    flat = torch.cat([value.reshape(-1) for value in own.values()])
    # zeros from all others: a sum that moves the values without changing a bit
    stacked = world.sum(
        torch.stack([flat if rank == world.rank else torch.zeros_like(flat) for rank in range(world.size)])
    )
    parts = torch.split(stacked, [value.numel() for value in own.values()], dim=1)
    return {name: part.reshape(world.size, *own[name].shape) for name, part in zip(own, parts, strict=True)}
