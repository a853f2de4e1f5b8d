"""Grad-CAM: where in an image a network finds what speaks for a class (Selvaraju et al. 2017, arXiv:1610.02391)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.errors import InputError

_POOLS = ("MaxPool", "AvgPool", "LPPool", "FractionalMaxPool")


class Place(NamedTuple):
    """Where in a network maps are taken."""

    name: str
    """Of the module."""
    side: Literal["input", "output"]
    """What of the module is taken."""
    grid: tuple[int, int] | None
    """Rows and columns of the patches that tokens (N, S, C) end with; None for a map (N, C, H, W)."""


class Maps(NamedTuple):
    """Maps of N images, and what they are of."""

    values: Tensor
    """(N, H, W) in the precision of the network, from 0 to 1; all zero where nothing speaks for the class."""
    zero: Tensor
    """(N,) bool: maps that are all zero."""
    logits: Tensor
    """(N, outputs) of the same pass."""


def place_of(model: nn.Module, images: Tensor) -> Place:
    """Where Grad-CAM of ``model`` is taken, found by one pass of ``images`` (N, C, H, W) and not by names.

    With attention over tokens, which a convolution has made of patches: the input of the last attention, because
    behind it nothing but the class token reaches the logits. Otherwise the output that is computed last of all maps
    of more than one position that no pooling has made: the last block of a ResNet, the last convolution, norm or
    activation before the pooling of a VGG.

    Raises :class:`~normhpc.errors.InputError` when there is neither.
    """
    attention: list[Place] = []
    maps: list[Place] = []
    last_is_tokens = False
    patches: tuple[int, int] | None = None
    pooled: list[Tensor] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal last_is_tokens, patches
            first = inputs[0] if inputs else None
            if (
                "Attention" in type(module).__name__
                and isinstance(first, Tensor)
                and first.ndim == 3
                and len(first) == len(images)
                and patches is not None
                and patches[0] * patches[1] <= first.shape[1]
            ):
                attention.append(Place(name, "input", patches))
            if not isinstance(output, Tensor) or len(output) != len(images):
                return
            if isinstance(module, nn.Conv2d):
                patches = (output.shape[2], output.shape[3])
            if type(module).__name__.removeprefix("Adaptive").startswith(_POOLS):
                pooled.append(output)
            elif output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                if not any(output is other for other in pooled):
                    maps.append(Place(name, "output", None))
                    last_is_tokens = False
            elif output.ndim == 3 and output.shape[1] > 1:
                last_is_tokens = True

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    if attention:
        return attention[-1]
    if not maps or last_is_tokens:
        raise InputError(
            "saliency: expected a network of maps, or with modules of attention over tokens; found neither"
        )
    return maps[-1]


def grad_cam(model: nn.Module, place: Place, images: Tensor, classes: Tensor) -> Maps:
    """Maps of ``images`` (N, C, H, W) for one class (N,) each, from the logits z, not from probabilities.

    alpha_k = mean over positions of dz_c/dA_k; ReLU(sum_k alpha_k A_k), bilinear to H x W, divided by its maximum.
    Tokens are laid out as their patches lie; those before them (class, registers) are left out.
    """
    with torch.enable_grad(), _seen(model, place) as seen:
        logits: Tensor = model(images)
        activation = seen[-1]
        # a product, since picking has no deterministic gradient on every GPU
        picked = F.one_hot(classes, logits.shape[1]).to(logits.dtype)
        (gradient,) = torch.autograd.grad((logits * picked).sum(), activation)
    with torch.no_grad():
        values, slopes = (_as_map(part, place.grid) for part in (activation, gradient))
        raw = (slopes.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1, keepdim=True).relu()
        large = F.interpolate(raw, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        peak = large.amax(dim=(1, 2))
        zero = ~(peak > 0)
        return Maps(large / torch.where(zero, 1.0, peak)[:, None, None], zero, logits.detach())


@contextmanager
def _seen(model: nn.Module, place: Place) -> Iterator[list[Tensor]]:
    """A list that gets what ``place`` names in each pass."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any = None) -> None:
        seen.append(inputs[0] if place.side == "input" else output)

    module = model.get_submodule(place.name)
    handle = module.register_forward_pre_hook(keep) if place.side == "input" else module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _as_map(values: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(N, C, h, w) of a map, or of tokens (N, S, C) whose last h x w are a grid of patches."""
    if grid is None:
        return values.detach()
    patches = values.detach()[:, values.shape[1] - grid[0] * grid[1] :]
    return patches.transpose(1, 2).reshape(len(patches), -1, *grid)
