"""Hooks that measure every layer in one pass forwards and backwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc.config.training import Measure
from normhpc.errors import InputError, Problem
from normhpc.models.activation import is_activation
from normhpc.norms import Norm
from normhpc.norms.surgery import kinds
from normhpc.record.probes import Column
from normhpc.train.probes import measures

ACTIVATION_MEASURES = ("activation_variance", "activation_cosine", "activation_rank")
CONV_MEASURES = ("conv_std", "gradient_norm")
NORM_MEASURES = ("norm_mean", "norm_variance", "dead_channels")


class Place(NamedTuple):
    """A module that is measured."""

    name: str
    module: nn.Module
    kinds: tuple[str, ...]
    """``conv``; ``norm``, ``activation`` or both; or none for what only tells where the channels lie."""


class Row(NamedTuple):
    """What one step measured, on the device."""

    step: int
    images: int
    values: Tensor
    """(columns,) fp32; for a rank the number of samples with a length, still to be divided by the eigenvalue."""
    krylov: Tensor
    """(activations, 2, k), see :func:`~normhpc.train.probes.measures.krylov_coefficients`."""


class Channels(NamedTuple):
    """Where the channels of a tensor of ``dims`` dimensions lie, and how many there are."""

    dims: int
    axis: int
    channels: int


@dataclass(slots=True)
class Reading:
    """The pass being measured: ``images`` in the micro-batch, and what the hooks have found so far."""

    images: int
    wanted: frozenset[str]
    values: dict[Column, Tensor] = field(default_factory=dict)
    grams: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    channels: "Channels | None" = None
    """Where the convolution, linear layer or norm called last put its channels."""
    loss_gradient: Tensor | None = None
    _newest: tuple[Tensor, int, tuple[Tensor, Tensor]] | None = None
    """The tensor whose moments were taken last: what a convolution gives is what the norm behind it takes.

    With its version, since an activation may have overwritten it.
    """

    def watch(self, loss: Tensor) -> None:
        """Tell the loss, summed over the images, before its backward pass: gradients are measured against its own."""

        def keep(gradient: Tensor) -> None:
            self.loss_gradient = gradient.detach()

        loss.register_hook(keep)  # type: ignore[no-untyped-call]

    def named(self, place: Place) -> str:
        """The name of this call of the module."""
        self.calls[place.name] = call = self.calls.get(place.name, 0) + 1
        return place.name if call == 1 else f"{place.name}:{call}"

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of each channel of x (N, C, H, W), taken once for calls in a row."""
        if self._newest is None or self._newest[0] is not x or self._newest[1] != x._version:
            self._newest = (x, x._version, measures.channel_moments(x.detach()))
        return self._newest[2]

    def conv(self, name: str, output: Tensor) -> None:
        """Measure the output of a convolution, now and when its gradient comes."""
        if "conv_std" in self.wanted:
            self.values[Column(name, "conv", "conv_std")] = self.moments(output)[1].sqrt().mean()
        if "gradient_norm" in self.wanted and output.requires_grad:
            place = Column(name, "conv", "gradient_norm")
            self.values[place] = torch.full((), torch.nan, device=output.device)  # its column, in order of the layers

            def keep(gradient: Tensor) -> None:
                assert self.loss_gradient is not None, "watch was not told the loss"
                length = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)
                self.values[place] = length / (self.loss_gradient * self.images)

            output.register_hook(keep)  # type: ignore[no-untyped-call]

    def norm(self, name: str, x: Tensor, output: Tensor) -> None:
        """Measure the input of a slot, and the output of its channels."""
        if "norm_mean" in self.wanted:
            self.values[Column(name, "norm", "norm_mean")] = self.moments(x)[0].abs().mean()
        if "norm_variance" in self.wanted:
            self.values[Column(name, "norm", "norm_variance")] = self.moments(x)[1].mean()
        if "dead_channels" in self.wanted:
            self.values[Column(name, "norm", "dead_channels")] = measures.dead_share(output.detach())

    def activation(self, name: str, output: Tensor) -> None:
        """Measure what an activation gives."""
        if "activation_variance" in self.wanted and (planes := as_planes(output, self.channels)) is not None:
            self.values[Column(name, "activation", "activation_variance")] = self.moments(planes)[1].mean()
        if self.wanted & {"activation_cosine", "activation_rank"}:
            self.grams[name] = measures.gram(as_samples(output.detach(), self.images))

    def row(self, step: int) -> tuple[list[Column], Row]:
        """All of it as one row, and the columns it has."""
        krylov = next(iter(self.values.values()), torch.empty(0)).new_empty(0)
        if self.grams:
            unit, count = measures.unit_grams(torch.stack(list(self.grams.values())))
            if "activation_cosine" in self.wanted:
                self._fill("activation_cosine", measures.mean_cosines(unit, count))
            if "activation_rank" in self.wanted:
                self._fill("activation_rank", count)
                krylov = measures.krylov_coefficients(unit)
        columns = list(self.values)
        values = torch.stack([value.float() for value in self.values.values()])
        return columns, Row(step, self.images, values, krylov)

    def _fill(self, measure: str, values: Tensor) -> None:
        self.values |= {
            Column(name, "activation", measure): value for name, value in zip(self.grams, values, strict=True)
        }


class LayerProbes:
    """Measures a network every so many steps; the numbers stay on the device until :meth:`settled` is asked for them.

    Hooks are registered for the measured passes alone: between two of them a step costs what it costs without probes.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[Measure], every_steps: int) -> None:
        self.every_steps = every_steps
        self.columns: tuple[Column, ...] = ()
        """What is measured, in the order of the first measured pass; empty before it."""
        self._wanted: frozenset[str] = frozenset(wanted)
        self._places = list(measured_places(model))
        self._pending: list[Row] = []

    def measuring(self, step: int, images: int) -> AbstractContextManager[Reading | None]:
        """Measures the pass inside it, if the step (counted from the start of the run) is to be measured."""
        return self._reading(step, images) if step % self.every_steps == 0 else nullcontext()

    @contextmanager
    def _reading(self, step: int, images: int) -> Iterator[Reading]:
        reading = Reading(images, self._wanted)
        handles = [place.module.register_forward_hook(_hook(place, reading)) for place in self._places]
        try:
            yield reading
        finally:
            for handle in handles:
                handle.remove()
        if not reading.values and not reading.grams:
            return
        with torch.no_grad():
            columns, row = reading.row(step)
        if not self.columns:
            self.columns = tuple(columns)
        if self.columns != tuple(columns):
            message = (
                f"expected a network that goes through the same layers in every step, but step {step} went through "
                "others than the first one; leave feature_quantiles alone with probes.measures: [], or set probes: none"
            )
            raise InputError(Problem(message, path="probes.measures"))
        self._pending.append(row)

    def settled(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """Steps (rows,), images (rows,) and values (rows, columns) measured since :meth:`clear`. Waits for the device."""
        steps = np.array([row.step for row in self._pending], np.int64)
        images = np.array([row.images for row in self._pending], np.int32)
        if not self._pending:
            return steps, images, np.empty((0, len(self.columns)), np.float32)
        # one copy of everything, since each makes the processor wait
        parts = [part for row in self._pending for part in (row.values, row.krylov)]
        flat = torch.cat([part.flatten() for part in parts]).cpu()
        everything = torch.split(flat, [part.numel() for part in parts])
        values = torch.stack(everything[::2]).float()
        ranks = [number for number, column in enumerate(self.columns) if column.measure == "activation_rank"]
        if ranks:
            # not in one stack: the first micro-batch may have one image more in a resumed run of other ranks
            krylov = [part.view(row.krylov.shape) for part, row in zip(everything[1::2], self._pending, strict=True)]
            largest = torch.stack([measures.largest_eigenvalues(coefficients) for coefficients in krylov])
            count = values[:, ranks]
            values[:, ranks] = torch.where(count == 0, 0.0, count / largest).float()
        return steps, images, values.numpy()

    def clear(self) -> None:
        """Forget what :meth:`settled` gives: it is written."""
        self._pending.clear()


def measured_places(model: nn.Module) -> Iterator[Place]:
    """What is measured in ``model``, and what tells where channels lie. What is inside a slot is part of it."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        if isinstance(module, Norm):
            inside += (f"{name}.",)
            yield Place(name, module, ("norm", "activation") if module.owns_act or module.act != "none" else ("norm",))
        elif isinstance(module, nn.Conv2d):
            yield Place(name, module, ("conv",))
        elif is_activation(module):
            yield Place(name, module, ("activation",))
        elif isinstance(module, nn.Linear) or kinds.is_norm(module):
            yield Place(name, module, ())


def channel_axis(module: nn.Module, shape: torch.Size) -> int:
    """Where a convolution, linear layer or norm puts the channels of an output of ``shape``."""
    if isinstance(module, nn.Linear):
        return -1
    layer_norm = not isinstance(module, Norm | nn.Conv2d) and kinds.layout_of(module, shape) == "tokens"
    return -1 if layer_norm else 1


def as_planes(x: Tensor, newest: Channels | None) -> Tensor | None:
    """(N, C, H, W) of itself, of (N, H, W, C), tokens (N, S, C) and features (N, C), without a copy; None if unknown.

    The channels lie where the layer before, the ``newest``, put them, if x has as many there; a layer that gave another
    number of them or of dimensions tells nothing. Features need none to tell.
    """
    if x.dim() == 2:
        return x[:, :, None, None]
    if newest is None or x.dim() not in (3, 4) or x.dim() != newest.dims or x.shape[newest.axis] != newest.channels:
        return None
    if newest.axis != 1:
        x = x.movedim(newest.axis, 1)
    return x if x.dim() == 4 else x.unsqueeze(3)


def as_samples(x: Tensor, images: int) -> Tensor:
    """(images, D): the numbers of each image in any order, which no product of two images depends on."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(images, -1)


def _hook(place: Place, reading: Reading) -> Callable[[nn.Module, Any, Any], None]:
    def measure(module: nn.Module, inputs: Any, output: Any) -> None:
        # inside autocast a product of samples would be one of halves
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            name = reading.named(place)
            if place.kinds != ("activation",):
                axis = channel_axis(module, output.shape)
                reading.channels = Channels(output.dim(), axis, output.shape[axis])
            if "conv" in place.kinds:
                reading.conv(name, output)
            if "norm" in place.kinds:
                reading.norm(name, inputs[0], output)
            if "activation" in place.kinds:
                reading.activation(name, output)

    return measure
