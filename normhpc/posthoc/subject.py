"""A trained run that is analysed: its network and its images, each loaded when it is first asked for."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.config.data import Shards
from normhpc.data import Batches, ImageData, Split, centre_and_scale, in_memory, order
from normhpc.errors import InputError
from normhpc.posthoc.kept import WeightsFile
from normhpc.posthoc.pictures import to_look_at
from normhpc.posthoc.progress import with_bar
from normhpc.record import RunFolder, RunInfo, read_summary

SEED = 0x706F7374
"""Seed of every draw of an analysis; a constant, so that all runs are measured with the same draws."""

T = TypeVar("T")


class TrainedNetwork(Protocol):
    """A trained network, as :class:`normhpc.train.trained.Trained` is one."""

    @property
    def model(self) -> nn.Module:
        """In evaluation mode, on :attr:`device`."""

    @property
    def device(self) -> torch.device:
        """What it computes on."""

    def logits(self, pixels: NDArray[np.generic], block: int | None = None) -> Iterator[Tensor]:
        """Logits (B, outputs) of (N, H, W, C) stored values, in the run's own precision."""


Load = Callable[[RunFolder, RunInfo, Path, str | None], TrainedNetwork]
"""(run, what its ``run.json`` says, file of weights, device or None) to its network."""


@dataclass
class Subject:
    """What the analyses of one run share."""

    folder: RunFolder
    info: RunInfo
    weights: WeightsFile
    load: Load
    console: Console
    about: Mapping[str, Any] = field(default_factory=dict)
    """What results say of how they were computed."""
    images_asked: int | None = None
    """``--images``."""
    device_asked: str | None = None
    """``--device``."""

    @cached_property
    def network(self) -> TrainedNetwork:
        """The network with the weights."""
        return self.load(self.folder, self.info, self.weights.path, self.device_asked)

    @cached_property
    def data(self) -> ImageData:
        """The images of the run. Raises :class:`~normhpc.errors.InputError` when it learned from others."""
        images = image_data.load(self.config.data)
        recorded = (read_summary(self.folder) or {}).get("data_digest", images.digest)
        if recorded != images.digest:
            raise InputError(
                f"{self.folder.path}: expected the images that the run was trained on (digest {recorded}), "
                f"got others (digest {images.digest}); put the files back, or delete {self.folder.path} and "
                "launch the sweep again"
            )
        return images

    @property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return self.info.config

    @property
    def model(self) -> nn.Module:
        """The network, in evaluation mode."""
        return self.network.model

    @property
    def device(self) -> torch.device:
        """What the network computes on."""
        return self.network.device

    @property
    def multiple(self) -> bool:
        """Whether an image has any number of labels."""
        return self.config.data.labels() == "multi"

    def provenance(self, images_asked: int | None) -> dict[str, Any]:
        """What a result says of how it was computed."""
        return {**self.about, "device": str(self.device), "images_asked": images_asked}

    def count(self, default: int, available: int) -> int:
        """Images to take: as many as were asked for, else ``default``, but no more than are ``available``."""
        return min(self.images_asked or default, available)

    def sample(self, split: Split, count: int) -> NDArray[np.int64]:
        """``count`` rows of ``split``, the same for all runs on the same images: the first of a fixed permutation."""
        return order(len(split), SEED, epoch=0)[:count]

    def normalized(self, split: Split, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in fp32 as the network sees them without augmentation, and labels, on its device."""
        batches = Batches(
            in_memory(split, rows),
            *centre_and_scale(self.data, self.config.data.normalize),
            device=self.device,
            augment=None,
            seed=SEED,
            channels_last=self.config.channels_last,
            crop=self.config.data.crop if isinstance(self.config.data, Shards) else None,
            resize=self.config.data.resize,
            unit=self.data.unit,
        )
        return batches.evaluate(0, len(rows))

    def pictures(self, split: Split, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(N, H, W, C) to look at, see :func:`~normhpc.posthoc.pictures.to_look_at`."""
        return to_look_at(self.data, self.config.data, split, rows)

    def grey(self) -> Tensor:
        """(1, C, 1, 1): what the mean of each channel of the training images is to the network."""
        mean, std = (torch.tensor(part, dtype=torch.float64) for part in self._centre_and_scale)
        pixel = torch.tensor(self.data.mean, dtype=torch.float64)
        return ((pixel - mean) / std).float().view(1, -1, 1, 1).to(self.device)

    @property
    def _centre_and_scale(self) -> tuple[Sequence[float], Sequence[float]]:
        mean, std = centre_and_scale(self.data, self.config.data.normalize)
        return mean, [deviation or 1.0 for deviation in std]

    def with_bar(
        self, items: Iterable[T], label: str, total: int, size: Callable[[T], int] = lambda item: 1
    ) -> Generator[T]:
        """``items``, with a bar on a terminal after the first second."""
        return with_bar(items, label, total, self.console, size=size)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a run's evaluation, (), as a mean over images.

    Cross entropy for labels (N,), binary cross entropy for labels (N, K) of 0 and 1, its mean over classes. Without
    smoothing or weight decay, and the same whatever loss the run was trained with, so that runs can be compared.
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    logits = logits[:, : labels.shape[1]]
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
