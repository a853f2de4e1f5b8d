"""Networks of torchvision and timm, by name."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normhpc import norms
from normhpc.config.model import ZooModel
from normhpc.errors import InputError, Problem, did_you_mean
from normhpc.models.block import Layers

_SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
"""Sides of square images that networks are tried with to say which one a user needs."""
_WITH_SIDE_OUTPUTS = ("googlenet", "inception_v3")


def zoo_network(config: ZooModel, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> nn.Module:
    """The library's network for (N, *image_shape) images, with ``layers.norm`` at every place that has a norm.

    Weights are the library's own start, or those of the file ``config.weights``; auxiliary heads are left out. The
    rewritten network is a ``torch.fx.GraphModule`` whose state dict has the library's names. Raises
    :class:`InputError` for a name the library does not have, images or norms the network cannot take, and weights
    of another network.
    """
    library_network = {"torchvision": torchvision_network, "timm": timm_network}[config.library]
    network = library_network(config.known_as, image_shape[0], classes)
    example = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    if config.weights is not None:
        load_weights(network, Path(config.weights), classes)
    _check_size(network, example, config.name)
    if not config.replace_norms:
        return network
    try:
        return norms.swap(network, layers.norm, example, copy_affine=config.copy_affine)[0]
    except InputError as error:
        raise InputError([Problem(f"{config.name}: {problem}", path="model") for problem in error.problems]) from None


def torchvision_network(name: str, channels: int, classes: int) -> nn.Module:
    """A classifier of torchvision with fresh weights; its first convolution is made anew for other than 3 channels."""
    # Here, since it brings torch's compiler along, which costs networks of other kinds seconds.
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(Problem(_unknown("torchvision", name, known), path="model.name"))
    options = {"aux_logits": False, "init_weights": True} if name in _WITH_SIDE_OUTPUTS else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    if channels != 3:
        _widen(network, channels)
    return network


def timm_network(name: str, channels: int, classes: int) -> nn.Module:
    """A classifier of timm with fresh weights."""
    try:
        import timm
    except ImportError:
        raise InputError(
            Problem(f"timm/{name} needs timm, which is not installed here; pip install timm", path="model.name")
        ) from None
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(Problem(_unknown("timm", name, timm.list_models()), path="model.name"))
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    return network


def _unknown(library: str, name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known)
    return f"{library} has no classifier called {name!r}{hint}" + ("" if hint else f" among its {len(known)}")


def _widen(network: nn.Module, channels: int) -> None:
    """Another first convolution, for images of ``channels``, that starts by He et al. (normal, fan out)."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            owner, _, leaf = path.rpartition(".")
            conv = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            setattr(network.get_submodule(owner), leaf, conv)
            return


def load_weights(network: nn.Module, file: Path, classes: int) -> None:
    """Load a state dict by name. A head of another class count and a first layer for other channels stay fresh, told.

    Raises :class:`InputError` when the file cannot be read or its names or other shapes are those of another network.
    """
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _bad_weights(file, f"cannot be read ({error.strerror})") from None
    except Exception as error:
        # torch.load raises whatever unpickling a stranger's file raises
        raise _bad_weights(file, f"is no state dict ({str(error).splitlines()[0]})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _bad_weights(file, "is no state dict: expected tensors by name")
    own = network.state_dict()
    odd = [*(f"lacks {key}" for key in own if key not in state), *(f"has {key}" for key in state if key not in own)]
    if odd:
        raise _bad_weights(file, f"is of another network: it {', '.join(odd[:3])}" + ", ..." * (len(odd) > 3))
    other = [key for key in own if own[key].shape != state[key].shape]
    wrong = [key for key in other if not _may_differ(own[key], state[key], classes)]
    if wrong:
        key = wrong[0]
        shapes = f"{tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        raise _bad_weights(file, f"is of another network: {key} has the shape {shapes}")
    network.load_state_dict({key: value for key, value in state.items() if key not in other}, strict=False)
    if other:
        print(
            f"{file}: {', '.join(other)} not taken, because of other classes or channels", file=sys.stderr, flush=True
        )


def _may_differ(own: Tensor, given: Tensor, classes: int) -> bool:
    """Whether two shapes differ in classes alone, as a head's, or in image channels alone, as a first convolution's."""
    head = own.shape[0] == classes and own.shape[1:] == given.shape[1:]
    first = own.ndim == 4 == given.ndim and own.shape[:1] + own.shape[2:] == given.shape[:1] + given.shape[2:]
    return head or (first and 3 in (own.shape[1], given.shape[1]))


def _bad_weights(file: Path, why: str) -> InputError:
    return InputError(Problem(f"{file} {why}", path="model.weights"))


def _check_size(network: nn.Module, example: Tensor, name: str) -> None:
    """Raise :class:`InputError`, naming a size that works, when the network cannot take images of this one."""
    why = _failure(network, example)
    if why is None:
        return
    height, width = example.shape[2:]
    fitting = next(
        (size for size in _SIZES if _failure(network, example.new_zeros(2, example.shape[1], size, size)) is None), None
    )
    hint = f"; it takes {fitting}x{fitting}" if fitting is not None else ""
    raise InputError(Problem(f"{name} cannot take images of {height}x{width}{hint} ({why})", path="model.name"))


def _failure(network: nn.Module, images: Tensor) -> str | None:
    """Why ``network`` cannot take ``images``; None when it can. Nothing of it changes."""
    training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(images)
    except Exception as error:
        # a stranger's network refuses images in its own way
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    finally:
        network.train(training)
    return None if isinstance(logits, Tensor) else "it gives no logits"
