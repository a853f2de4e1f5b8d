"""Everything a training needs to go on from where it is: small dataclasses over torch objects."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

TRAIN_SUMS = ("loss", "top1", "images")
"""What is summed over the images of the current epoch."""


@dataclass(slots=True)
class Clock:
    """Wall time and throughput over all attempts of a run. Seconds."""

    seconds: float = 0.0
    """Whole run so far."""
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
    best: dict[str, float] = field(default_factory=dict)
    """Epoch (counted from 1) with the best ``val`` top1 so far, and its metrics."""
    final: dict[str, float] = field(default_factory=dict)
    """The newest metrics, under their names in tables (``val_top1``)."""


@dataclass(slots=True)
class TrainState:
    """One training in progress on this rank."""

    model: nn.Module
    """The network itself, neither compiled nor wrapped: its parameters are the ones that learn."""
    forward: nn.Module
    """What a training step calls: ``model``, compiled and wrapped as the run asks."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    sums: Tensor
    """(3,) float64 on the device: :data:`TRAIN_SUMS` of this rank over the current epoch."""
    first_bad_step: Tensor
    """() int64 on the device: the first step (counted from the start of the run) without a finite loss, or -1."""
    position: Position = field(default_factory=Position)
    clock: Clock = field(default_factory=Clock)

    def shared(self) -> dict[str, Any]:
        """What is equal on all ranks, as values that ``torch.load(weights_only=True)`` accepts."""
        position, clock = self.position, self.clock
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": dataclasses.asdict(position),
            "clock": dataclasses.asdict(clock),
        }

    def restore_shared(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`shared` gave."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.position = Position(**saved["position"])
        self.clock = Clock(**saved["clock"])
