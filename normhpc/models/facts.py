"""What a network is made of, found by sending one batch through it: sizes, parameters, multiply-adds, norms.

A row is a module that was called. What a network computes outside of modules, such as the sum of a residual block, has
no row and no multiply-adds. Receptive fields are in :mod:`normhpc.models.receptive`. Example::

    model = models.build(config)
    for row in summarize(model, torch.zeros(32, *config.data.image_shape())):
        print(row.name, row.output_size, row.parameters)
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from normhpc.config.norm.base import Scope
from normhpc.models.vit import DotProduct
from normhpc.norms import Norm


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One call of one layer."""

    name: str
    """Its place in the network, as in ``named_modules``."""
    kind: str
    """Its class."""
    input_size: tuple[int, ...]
    """Shape of its first argument."""
    output_size: tuple[int, ...]
    """Shape of its result."""
    parameters: int
    """Numbers learned in the layer itself; each is counted at its first call alone."""
    share: float
    """``parameters`` as a fraction of the network's."""
    multiply_adds: int
    """By the convention of :func:`multiply_adds`."""


@dataclass(frozen=True, slots=True)
class NormSite:
    """One norm of a network."""

    name: str
    """Its place in the network, as in ``named_modules``."""
    channels: int
    act: str
    """The activation in its slot; "own" where the norm is its own activation."""
    scope: Scope
    """What its statistics are taken over."""


def summarize(model: nn.Module, example: Tensor) -> list[LayerFacts]:
    """The layers of ``model`` in the order in which they finish on ``example``, a batch (N, C, H, W) on its device.

    A layer is a norm, a module with parameters of its own, or one without children; identities are left out. The pass
    is one of evaluation and leaves the model as it was.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    counted: set[int] = set()
    rows: list[LayerFacts] = []

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            fresh = [parameter for parameter in _own_parameters(module) if id(parameter) not in counted]
            counted.update(map(id, fresh))
            parameters = sum(parameter.numel() for parameter in fresh)
            rows.append(
                LayerFacts(
                    name,
                    type(module).__name__,
                    tuple(inputs[0].shape),
                    tuple(output.shape),
                    parameters,
                    parameters / total if total else 0.0,
                    _multiply_adds(module, inputs[0], output),
                )
            )

        return hook

    handles = [layer.register_forward_hook(hook_of(name)) for name, layer in _layers(model)]
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiplications with addition of one forward pass over ``example``, by torchinfo's convention.

    A convolution or linear layer takes its parameters, bias included, times the positions and images of its output;
    attention the products q k^T and (q k^T) v; any other layer its parameters times the images. torchinfo, which knows
    modules with parameters alone, leaves out attention's products and counts a linear layer on tokens once an image.
    """
    return sum(row.multiply_adds for row in summarize(model, example))


def norm_sites(model: nn.Module) -> list[NormSite]:
    """The norms of ``model``, in the order in which it defines them."""
    return [
        NormSite(name, module.num_features, "own" if module.owns_act else module.act, module.scope)
        for name, module in model.named_modules()
        if isinstance(module, Norm)
    ]


def show_summary(rows: Sequence[Any]) -> Table:
    """A table of facts for ``rich.print``: a column a field of LayerFacts, NormSite or ReceptiveField."""
    table = Table()
    if not rows:
        return table
    names = [field.name for field in dataclasses.fields(rows[0])]
    for name in names:
        numbers = isinstance(getattr(rows[0], name), int | float)
        table.add_column(name.replace("_", " "), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(_shown(getattr(row, name)) for name in names))
    return table


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation without gradients; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    inside_norms = {id(part) for norm in norms for part in norm.modules() if part is not norm}
    for name, module in model.named_modules():
        if id(module) in inside_norms or isinstance(module, nn.Identity):
            continue
        if isinstance(module, Norm) or not any(module.children()) or any(True for _ in _own_parameters(module)):
            yield name, module


def _own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    return module.parameters(recurse=isinstance(module, Norm))


def _multiply_adds(module: nn.Module, x: Tensor, output: Tensor) -> int:
    if isinstance(module, DotProduct):
        return 2 * x.numel() * x.shape[2]
    parameters = sum(parameter.numel() for parameter in _own_parameters(module))
    if isinstance(module, nn.Conv2d):
        return parameters * (output.numel() // module.out_channels)
    if isinstance(module, nn.Linear):
        return parameters * (output.numel() // module.out_features)
    return parameters * len(output)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)
