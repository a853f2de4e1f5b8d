"""A trained network from the record of its run, asked about any images as its run asks it about ``test``."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc import data as image_data
from normhpc import models
from normhpc.config import RunConfig
from normhpc.data import UNITS, ImageData, ImageSplit
from normhpc.errors import CheckpointError, InputError
from normhpc.record import RunFolder, RunInfo, read_summary
from normhpc.train.checkpoint import last_weights
from normhpc.train.evaluate import BLOCK
from normhpc.train.precision import autocast
from normhpc.train.setup import build_batches
from normhpc.train.startup import prepare_torch
from normhpc.train.world import World


@dataclass(frozen=True, slots=True)
class Trained:
    """A network as its run evaluates it, and what must be known to show it images."""

    config: RunConfig
    model: nn.Module
    """In evaluation mode, on :attr:`device`."""
    device: torch.device
    pixel_mean: tuple[float, ...]
    """Mean of each channel of the training images, in 0..1 units."""
    pixel_std: tuple[float, ...]
    """Standard deviation of each channel of the training images, in 0..1 units."""
    classes: tuple[str, ...]
    """Name of each label."""

    def logits(self, pixels: NDArray[np.generic], block: int | None = None) -> Iterator[Tensor]:
        """Logits (B, outputs) in fp32 on the CPU of (N, H, W, C) stored values, ``block`` images after another.

        With the blocks of the evaluation, which None takes, they are its bits.
        """
        split = ImageSplit(torch.from_numpy(pixels), torch.zeros(len(pixels), dtype=torch.int64))
        data = ImageData(
            self.config.data.name,
            split,
            split,
            split,
            self.classes,
            self.pixel_mean,
            self.pixel_std,
            digest="",
            unit=UNITS[split.images.dtype],
        )
        batches = build_batches(self.config, data, split, World(0, 1, self.device), train=False)
        size = block or BLOCK
        for start in range(0, len(pixels), size):
            # inside the loop: a generator must not leave the mode switched on for whoever takes its values
            with torch.inference_mode():
                images, _ = batches.evaluate(start, min(len(pixels), start + size))
                with autocast(self.config.precision, self.device):
                    answer = self.model(images)
            yield answer.float().cpu()


def load_trained(folder: RunFolder, info: RunInfo, weights: Path, device_name: str | None = None) -> Trained:
    """The network of a run with the ``weights`` in its ``best.pt`` or ``checkpoint.pt``.

    On the device of that name; for None on a GPU if there is one.
    Reads the images of the run only where its summary does not say what predicting needs of them. Raises
    :class:`InputError` for weights that are damaged or of another network; only ``checkpoint.pt`` says which run it is of.
    """
    config = info.config
    prepare_torch(config, info.resources)
    device = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = models.build(_without_first_weights(config))
    try:
        state = (
            _best_weights(weights) if weights == folder.best else last_weights(folder, info.run_id, config.batch_size)
        )
    except CheckpointError as error:
        raise InputError(str(error)) from None
    _check_fit(weights, model.state_dict(), state)
    model.load_state_dict(state)
    model = model.to(device).eval()
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    facts = read_summary(folder) or {}
    if not {"pixel_mean", "pixel_std", "classes"} <= facts.keys():
        images = image_data.load(config.data)
        return Trained(config, model, device, images.mean, images.std, images.classes)
    mean, std, classes = (tuple(facts[name]) for name in ("pixel_mean", "pixel_std", "classes"))
    return Trained(config, model, device, mean, std, classes)


def _without_first_weights(config: RunConfig) -> RunConfig:
    """``config`` without the file that the run started from: all of its weights are replaced."""
    if getattr(config.model, "weights", None) is None:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": None})})


def _best_weights(file: Path) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: damaged, cannot be read ({first}); use --weights last") from None
    if not isinstance(state, dict):
        raise InputError(f"{file}: expected the weights of a network, got {type(state).__name__}; use --weights last")
    return state


def _check_fit(file: Path, wanted: dict[str, Tensor], given: dict[str, Any]) -> None:
    """Raise :class:`InputError` where ``given`` are not the weights of the network that ``wanted`` is of."""
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    found = {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in given.items()}
    odd = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
    if odd:
        expected, got = (_spelled(of.get(odd[0])) for of in (shapes, found))
        raise InputError(
            f"{file}: weights of another network: {odd[0]}: expected {expected}, got {got}; "
            f"put back the file that this run wrote, or delete {file.parent} and launch the sweep again"
        )


def _spelled(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return "none"
    return "x".join(map(str, shape)) or "a number"
