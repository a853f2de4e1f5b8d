"""Networks of torchvision and timm, by name."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normhpc import norms
from normhpc.config.model import ZooModel
from normhpc.config.model.zoo import unknown_network
from normhpc.errors import InputError, Problem
from normhpc.models.block import Layers

_SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
"""Sides of square images that networks are tried with to say which one a user needs."""
_WITH_SIDE_OUTPUTS = ("googlenet", "inception_v3")


def zoo_network(config: ZooModel, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> nn.Module:
    """The library's network for (N, *image_shape) images, with ``layers.norm`` at every place that has a norm.

    Weights are the library's own start, or those of the file ``config.weights``; auxiliary heads are left out. The
    rewritten network is a ``torch.fx.GraphModule`` whose state dict has the library's names; with a norm that learns no
    shift its convolutions have biases, which start at 0. Raises
    :class:`InputError` for a name the library does not have, images or norms the network cannot take, and weights
    of another network.
    """
    library_network = {"torchvision": torchvision_network, "timm": timm_network}[config.library]
    network = library_network(config.known_as, image_shape[0], classes)

    def of_one_more() -> nn.Module:
        with torch.random.fork_rng([]):
            return library_network(config.known_as, image_shape[0] + 1, classes + 1)

    example = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    if config.weights is not None:
        load_weights(network, Path(config.weights).expanduser(), of_one_more)
    _check_size(network, example, config.name)
    if not config.replace_norms:
        return network
    try:
        return norms.swap(network, layers.norm, example, copy_affine=config.copy_affine, add_biases=True)[0]
    except InputError as error:
        raise InputError([Problem(f"{config.name}: {problem}", path="model") for problem in error.problems]) from None


def torchvision_network(name: str, channels: int, classes: int) -> nn.Module:
    """A classifier of torchvision with fresh weights; its first convolution is made anew for other than 3 channels."""
    # Here, since it brings torch's compiler along, which costs networks of other kinds seconds.
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(Problem(unknown_network("torchvision", name, known), path="model.name"))
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
        raise InputError(Problem(unknown_network("timm", name, timm.list_models()), path="model.name"))
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    return network


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


def load_weights(network: nn.Module, file: Path, of_one_more: Callable[[], nn.Module]) -> None:
    """Load a state dict by name. A head of another class count and a first layer for other channels stay fresh, told.

    Taken as they are found: under ``state_dict`` or ``model``, names that begin with ``module.`` (saved from DDP), old
    names of torchvision's DenseNets, no ``num_batches_tracked`` (saved by torch before 0.4.1), auxiliary heads, which
    are left out. ``of_one_more`` builds the same network for one class and one image channel more: what is of another
    size in it is all that may be of another size in the file.

    Raises :class:`InputError` when the file cannot be read or its names or other shapes are those of another network.
    """
    own = network.state_dict()
    state = _named_as(own, _state_in(file))
    odd = [*(f"lacks {key}" for key in own if key not in state), *(f"has {key}" for key in state if key not in own)]
    if odd:
        raise _bad_weights(file, f"is of another network: it {', '.join(odd[:3])}" + ", ..." * (len(odd) > 3))
    other = [key for key in own if own[key].shape != state[key].shape]
    if other:
        grown = of_one_more().state_dict()
        for key in other:
            if not _may_differ(state[key].shape, own[key].shape, grown[key].shape):
                shapes = f"{tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
                raise _bad_weights(file, f"is of another network: {key} has the shape {shapes}")
    network.load_state_dict({key: value for key, value in state.items() if key not in other}, strict=False)
    if other:
        print(
            f"{file}: {', '.join(other)} not taken, because of other classes or channels", file=sys.stderr, flush=True
        )


def _state_in(file: Path) -> dict[str, Tensor]:
    """The state dict in ``file``, unwrapped."""
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _bad_weights(file, f"cannot be read ({error.strerror})") from None
    except Exception as error:
        # torch.load raises whatever unpickling a stranger's file raises
        raise _bad_weights(file, f"is no state dict ({str(error).splitlines()[0]})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _bad_weights(file, "is no state dict: expected tensors by name")
    return state


_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
"""``norm.1.weight`` for what torchvision calls ``norm1.weight`` since names of modules may not hold a dot."""
_SIDE_OUTPUTS = ("aux1.", "aux2.", "AuxLogits.")


def _named_as(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` by the names that ``own`` has, where it is known how they come to differ."""
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if key in own or not key.startswith(_SIDE_OUTPUTS)}
    counts = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    return counts | state


def _may_differ(given: torch.Size, own: torch.Size, grown: torch.Size) -> bool:
    """Whether ``given`` is ``own`` but for dimensions that follow the number of classes or of image channels."""
    return len(given) == len(own) == len(grown) and all(
        one == two or two != more for one, two, more in zip(given, own, grown, strict=True)
    )


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
