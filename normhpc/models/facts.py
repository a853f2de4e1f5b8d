"""What a network is made of, found by sending one batch through it: sizes, parameters, multiply-adds, norms.

A row is a module that was called. What a network computes outside of modules has no row and no multiply-adds: the sum
of a residual block, the attention of timm's and torchvision's own modules (not torch's, which is one), layers whose
weights another module uses without calling them (swin of torchvision). Receptive fields are in :mod:`normhpc.models.receptive`. Example::

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
from torch.utils._pytree import tree_leaves

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
    """Shape of the first tensor it was given; () for none."""
    output_size: tuple[int, ...]
    """Shape of its result, or of the first tensor in it."""
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

    A layer is a norm, torch's multi-head attention, a module with parameters of its own, or one without children;
    identities and what gives no tensor are left out. The pass is one of evaluation and leaves the model as it was.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    counted: set[int] = set()
    rows: list[LayerFacts] = []

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            given, results = tensors((inputs, named)), tensors(output)
            if not results:
                return
            fresh = [parameter for parameter in _own_parameters(module) if id(parameter) not in counted]
            counted.update(map(id, fresh))
            parameters = sum(parameter.numel() for parameter in fresh)
            rows.append(
                LayerFacts(
                    name,
                    type(module).__name__,
                    tuple(given[0].shape) if given else (),
                    tuple(results[0].shape),
                    parameters,
                    parameters / total if total else 0.0,
                    _multiply_adds(module, inputs, named, results[0]),
                )
            )

        return hook

    handles = [layer.register_forward_hook(hook_of(name), with_kwargs=True) for name, layer in _layers(model)]
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
    attention the products q k^T and (q k^T) v, torch's multi-head attention also its linear layers; any other layer its
    parameters times the images. torchinfo, which knows modules with parameters alone, leaves out attention's products
    and counts a linear layer on tokens once an image.
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


def tensors(values: Any) -> list[Tensor]:
    """The tensors among arguments or results of a module."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


_WHOLE = (Norm, nn.MultiheadAttention)
"""Layers that are one with the modules inside them, which they may use without calling them."""


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    wholes = [module for module in model.modules() if isinstance(module, _WHOLE)]
    inside_wholes = {id(part) for whole in wholes for part in whole.modules() if part is not whole}
    for name, module in model.named_modules():
        if id(module) in inside_wholes or isinstance(module, nn.Identity):
            continue
        if isinstance(module, _WHOLE) or not any(module.children()) or any(True for _ in _own_parameters(module)):
            yield name, module


def _own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    return module.parameters(recurse=isinstance(module, _WHOLE))


def _multiply_adds(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> int:
    if isinstance(module, nn.MultiheadAttention):
        given = dict(zip(("query", "key"), inputs, strict=False)) | named
        return _attention_multiply_adds(module, given["query"], given["key"])
    if isinstance(module, DotProduct):
        (queries, *_) = tensors(inputs)
        return 2 * queries.numel() * queries.shape[2]
    parameters = sum(parameter.numel() for parameter in _own_parameters(module))
    if isinstance(module, nn.Conv2d):
        return parameters * (output.numel() // module.out_channels)
    if isinstance(module, nn.Linear):
        return parameters * (output.numel() // module.out_features)
    return parameters * len(output)


def _attention_multiply_adds(attention: nn.MultiheadAttention, query: Tensor, key: Tensor) -> int:
    """Linear layers make q of each token and k and v of each that it looks at; two products; a last linear layer."""
    width = attention.embed_dim
    images = 1 if query.ndim == 2 else query.shape[0 if attention.batch_first else 1]
    tokens, seen = (x.numel() // (images * x.shape[-1]) for x in (query, key))
    bias = 0 if attention.in_proj_bias is None else width
    inward = tokens * (width * width + bias) + seen * (width * (attention.kdim + attention.vdim) + 2 * bias)
    outward = tokens * sum(parameter.numel() for parameter in attention.out_proj.parameters())
    learned = 0 if attention.bias_k is None else 1  # a key and a value more, the same for every image
    products = 2 * tokens * (seen + learned + attention.add_zero_attn) * width
    each: int = inward + outward + learned * 2 * width + products
    return images * each


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)
