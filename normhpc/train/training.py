"""A training under way on this rank: what it learns from, where it writes, and how it agrees with its peers."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.config.training import LayerProbes, Plateau
from normhpc.data import Batches, order, rank_share
from normhpc.errors import DataError, InputError, Problem
from normhpc.norms import pooled_statistics, running_statistics
from normhpc.record import RecordWriter, RunFolder, RunInfo
from normhpc.train.checkpoint import load_checkpoint, save_checkpoint
from normhpc.train.losses import summed_loss
from normhpc.train.precision import autocast
from normhpc.train.probes import ProbeRecorder
from normhpc.train.setup import (
    build_batches,
    build_state,
    check_shares,
    images_per_statistic,
    machine_facts,
    shares_of,
    weights_sha256,
)
from normhpc.train.state import TrainState
from normhpc.train.stop import Agreement, Decision, StopRequest
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
    weights_sha256: str | None
    pixel_mean: tuple[float, ...]
    """Mean of each channel of the training images, in 0..1 units."""
    pixel_std: tuple[float, ...]
    """Standard deviation (biased) of each channel of the training images, in 0..1 units."""
    classes: tuple[str, ...]
    """Name of each label."""
    writer: RecordWriter | None
    stop: StopRequest
    agreement: Agreement
    prefix: str = ""
    """What stands before each line it prints: where several are trained together, which one it is."""
    decision: Decision = field(default_factory=Decision)
    """What all ranks decided after the newest step."""
    probes: ProbeRecorder = field(init=False)
    epochs_before: int = 0
    """Epochs that earlier attempts finished."""
    epoch_seconds: float = 0.0
    """Training time of the newest epoch in this attempt."""
    last_save: float = field(default_factory=time.monotonic)
    last_tick: float = field(default_factory=time.monotonic)
    together: int = 1
    """Runs that this process trains at present, this one counted."""
    counted_until: float = 0.0
    """The ``perf_counter`` up to which the clock's ``epoch_seconds`` are counted."""

    def __post_init__(self) -> None:
        self.probes = ProbeRecorder(
            self.folder,
            self.config,
            self.world,
            self.state.probes,
            steps_per_epoch=self.steps_per_epoch,
            images_per_rank=self.shares,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in the training images; the rest is left out, other images each epoch if shuffled."""
        return len(self.train) // self.config.batch_size

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """The training images in the order in which ``epoch`` takes them."""
        if self.config.data.order == "stored":
            return np.arange(len(self.train))
        return order(len(self.train), self.config.seed, epoch)

    @property
    def shares(self) -> list[int]:
        """Images of a global batch that each rank takes."""
        return shares_of(self.config.batch_size, self.world.size)

    def tick(self) -> None:
        """Add the wall time since the last call to the run's clock."""
        now = time.monotonic()
        self.state.clock.seconds += now - self.last_tick
        self.state.clock.share_seconds += (now - self.last_tick) / self.together
        self.last_tick = now

    def tell(self, kind: str, **details: object) -> None:
        """Append an event, on rank 0."""
        if self.writer is not None:
            self.writer.event(kind, **details)


class Splits(NamedTuple):
    """The images of a run, and what is known of them."""

    train: Batches
    val: Batches
    test: Batches
    digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


def prepare(
    folder: RunFolder,
    info: RunInfo,
    world: World,
    stop: StopRequest,
    writer: RecordWriter | None,
    *,
    beside: Training | None = None,
    trained_with: Sequence[str] = (),
) -> Training:
    """Load the images, build the network and take up the newest checkpoint.

    ``beside`` is a run that differs by its seed alone: its images are used, not loaded once more. ``trained_with`` are
    the ids of all runs that this process is to train together, for the record.

    Raises :class:`InputError` when the batch does not fit the images or the ranks, or the schedule or the learning
    rates of single layers not the images or the network; :class:`DataError` when ranks have other images.
    """
    config = info.config
    splits = _splits_of(beside, config.seed) if beside is not None else _load_splits(config, world)
    _check_same_images(splits.digest, world, str(folder.run_json))
    _check_batch(config, len(splits.train), world.size, str(folder.run_json))
    _check_val(config, len(splits.val), str(folder.run_json))
    state = build_state(config, world)
    training = Training(
        folder=folder,
        run_id=info.run_id,
        config=config,
        world=world,
        state=state,
        train=splits.train,
        val=splits.val,
        test=splits.test,
        data_digest=splits.digest,
        weights_sha256=weights_sha256(config) if world.leads else None,
        pixel_mean=splits.mean,
        pixel_std=splits.std,
        classes=splits.classes,
        writer=writer,
        stop=stop,
        agreement=Agreement(world),
    )
    resumed = load_checkpoint(folder, info.run_id, splits.digest, training.state, world, training.shares)
    _settle_buckets(training)
    position = training.state.position
    training.epochs_before = position.epoch
    training.probes.go_on_from(epoch=position.epoch, step=position.step)
    pids = world.gather(os.getpid())
    training.tell(
        "resumed" if resumed else "started",
        **machine_facts(world),
        pids=pids,
        epoch=position.epoch,
        step=position.step,
        images_per_rank=training.shares,
        images_per_statistic=images_per_statistic(training.state.model, config, training.shares),
        data_digest=splits.digest,
        weights_sha256=training.weights_sha256,
        **({"trained_with": list(trained_with)} if trained_with else {}),
    )
    return training


def _load_splits(config: RunConfig, world: World) -> Splits:
    images = image_data.load(config.data)
    return Splits(
        train=build_batches(config, images, images.train, world, train=True),
        val=build_batches(config, images, images.val, world, train=False),
        test=build_batches(config, images, images.test, world, train=False),
        digest=images.digest,
        mean=images.mean,
        std=images.std,
        classes=images.classes,
    )


def _splits_of(beside: Training, seed: int) -> Splits:
    return Splits(
        train=beside.train.with_seed(seed),
        val=beside.val,
        test=beside.test,
        digest=beside.data_digest,
        mean=beside.pixel_mean,
        std=beside.pixel_std,
        classes=beside.classes,
    )


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
    images, _, targets = training.train.train(rows, epoch=0)
    with autocast(training.config.precision, world.device):
        loss = summed_loss(state.forward(images), targets, training.config.loss)
    torch.autograd.backward(loss)
    state.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, value in state.model.named_buffers():
            value.copy_(buffers[name])


def _check_same_images(digest: str, world: World, file: str) -> None:
    """Raise :class:`DataError` on every rank where one has other images: each node may read a copy of its own."""
    digests: list[str] = world.broadcast(world.gather(digest))
    for rank, other in enumerate(digests):
        if other != digests[0]:
            message = (
                f"expected the same images on all ranks, got digest {digests[0]} on rank 0 and {other} on rank {rank}; "
                "bring the copies on the nodes up to date"
            )
            raise DataError(Problem(message, path="data.path", file=file))


def _check_batch(config: RunConfig, rows: int, ranks: int, file: str) -> None:
    if config.batch_size > rows:
        raise InputError(
            Problem(
                f"expected at most the {rows} training images of {config.data.name}, got {config.batch_size}; "
                "use a smaller batch",
                path="batch_size",
                file=file,
            )
        )
    check_shares(config, ranks, file)


def _check_val(config: RunConfig, rows: int, file: str) -> None:
    if rows > 0:
        return
    if isinstance(config.schedule, Plateau):
        message = (
            f"plateau follows the val loss, but no image of {config.data.name} is held out; "
            "raise data.val_fraction or use another schedule"
        )
        raise InputError(Problem(message, path="schedule", file=file))
    if isinstance(config.probes, LayerProbes) and config.probes.feature_quantiles:
        message = (
            f"features are those of the val images, but no image of {config.data.name} is held out; "
            "raise data.val_fraction or leave it out"
        )
        raise InputError(Problem(message, path="probes.feature_quantiles", file=file))


def save(training: Training) -> bool:
    """Write the checkpoint; called by all ranks at the same step. False on rank 0 when it could not be written.

    A disk that cannot take it is told as a warning and the training goes on: the last checkpoint is still good,
    and a later one may succeed.
    """
    training.tick()
    write_probes(training)
    saved = False
    with unwritten_told(training, "checkpoint"):
        save_checkpoint(training.folder, training.run_id, training.data_digest, training.state, training.world)
        saved = True
    training.last_save = time.monotonic()
    return saved


def write_probes(training: Training, *, before_step: int | None = None) -> None:
    """Bring what the probes measured into the record, without what was measured at ``before_step`` or later."""
    with unwritten_told(training, "probes.h5"):
        training.probes.write(before_step=before_step)


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
def as_evaluated(training: Training) -> Iterator[None]:
    """The network as it is evaluated and kept: averaged weights where the run asks for them, merged statistics."""
    average = training.state.average
    with contextlib.nullcontext() if average is None else average.in_place_of_weights(), merged_statistics(training):
        yield


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
    for name, value in pooled_statistics(gather_statistics(own, training.world), weights).items():
        own[name].copy_(value)
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
