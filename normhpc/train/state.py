"""Everything a training needs to go on from where it is: small dataclasses over torch objects."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normhpc.train.average import WeightAverage
from normhpc.train.probes.layers import LayerProbes


@dataclass(slots=True)
class Clock:
    """Wall time and throughput over all attempts of a run. Seconds."""

    seconds: float = 0.0
    """Whole run so far."""
    share_seconds: float = 0.0
    """Its share of them: while n runs are trained together in one process, 1/n of the time."""
    trained_together: int = 1
    """The most runs that took a step together with it, itself counted."""
    steady_images: int = 0
    """Images trained on in steady state: after the first epoch of an attempt, which may compile and warm up."""
    steady_seconds: float = 0.0
    """Time they took."""
    warm_images: int = 0
    """Images of the first epoch of the newest attempt, its first step left out: all there is in a run of one epoch."""
    warm_seconds: float = 0.0
    """Time they took."""
    epoch_seconds: float = 0.0
    """Training time of all epochs, without evaluation."""

    @property
    def images_per_second(self) -> float:
        """Throughput in steady state, or the nearest there is to it."""
        if self.steady_seconds > 0:
            return self.steady_images / self.steady_seconds
        return self.warm_images / self.warm_seconds if self.warm_seconds > 0 else 0.0


@dataclass(slots=True)
class Position:
    """How far a training has come."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the current epoch."""
    updates: int = 0
    """Optimizer updates applied since the start; fp16 leaves out steps whose gradients overflowed."""
    lowest_val_loss: float = math.inf
    """What a plateau schedule compares with; it alone sets these three."""
    epochs_without_fall: int = 0
    """Epochs in a row whose ``val`` loss was not enough below the lowest."""
    lr_drops: int = 0
    """How often a plateau has lowered the learning rate."""
    best: dict[str, float] = field(default_factory=dict)
    """Epoch (counted from 1) with the best ``val`` top1 (map_macro for several labels) so far, and its metrics."""
    final: dict[str, float] = field(default_factory=dict)
    """The newest metrics, under their names in tables (``val_top1``)."""


@dataclass(slots=True)
class EpochSums:
    """What this rank measured on the training images of the current epoch."""

    loss: float = 0.0
    """Sum of the losses of single images."""
    top1: int = 0
    """Images whose own label was the top class; 0 where images have several labels."""
    images: int = 0


class Measured(NamedTuple):
    """What one micro-batch measured, on the device. ``step`` counts from the start of the run."""

    step: int
    loss: Tensor
    """(): sum over images."""
    logits: Tensor
    """(N, classes)."""
    labels: Tensor
    """(N,) int64 or (N, K) uint8: the images' own, also where the loss saw mixed ones."""


@dataclass(slots=True)
class TrainState:
    """One training in progress on this rank."""

    model: nn.Module
    """The network itself, neither compiled nor wrapped: its parameters are the ones that learn."""
    forward: nn.Module
    """What a training step calls: ``model``, compiled and wrapped as the run asks."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    gradient_rules: tuple[Callable[[], None], ...] = ()
    """What is done to the gradients of the whole batch before every update."""
    post_steps: tuple[Callable[[], None], ...] = ()
    """What follows every update: the norms' own rules, then the average of the weights."""
    average: WeightAverage | None = None
    """What is evaluated in place of the weights."""
    lr: float = 0.0
    """Learning rate of the newest step, without the factors of single parameters."""
    probes: LayerProbes | None = None
    """What measures the layers, on rank 0 of a run that asks for it."""
    sums: EpochSums = field(default_factory=lambda: EpochSums())
    pending: list[Measured] = field(default_factory=list)
    """Measurements of the newest steps, still on the device and not yet in ``sums``."""
    first_bad_step: int | None = None
    """The first step (counted from the start of the run) whose loss is no number, as far as :meth:`settle` looked."""
    position: Position = field(default_factory=Position)
    clock: Clock = field(default_factory=Clock)

    def settle(self) -> None:
        """Read what the device measured since the last call. Waits for it, so not to be called at every step.

        Adds one step after another, so that the sums do not depend on how often this is called.
        """
        if not self.pending:
            return
        losses = torch.stack([measured.loss for measured in self.pending]).tolist()
        for measured, loss in zip(self.pending, losses, strict=True):
            self.sums.loss += loss
            self.sums.images += len(measured.labels)
            if self.first_bad_step is None and not math.isfinite(loss):
                self.first_bad_step = measured.step
        if self.pending[0].labels.ndim == 1:
            logits, labels = (
                torch.cat(parts) for parts in zip(*((m.logits, m.labels) for m in self.pending), strict=True)
            )
            self.sums.top1 += int((logits.argmax(dim=1) == labels).sum())
        self.pending.clear()

    def shared(self) -> dict[str, Any]:
        """What is equal on all ranks, as values that ``torch.load(weights_only=True)`` accepts."""
        position, clock = self.position, self.clock
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": dataclasses.asdict(position),
            "clock": dataclasses.asdict(clock),
            **average,
        }

    def restore_shared(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`shared` gave."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.position = Position(**saved["position"])
        self.clock = Clock(**saved["clock"])
