"""What counts as a norm and what as an activation in networks that were written elsewhere."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from normhpc.norms.slot import Norm

Layout = Literal["planes", "tokens", "rows"]
"""What a norm takes: (N, C, H, W); (N, ..., C); (N, C) or (N, C, L)."""

_PER_IMAGE = (_BatchNorm, _InstanceNorm, nn.GroupNorm)
_PER_TOKEN = (nn.LayerNorm, nn.RMSNorm)
_BY_NAME = ("FrozenBatchNorm", "RmsNorm", "SimpleNorm")
"""How the names of norms begin that torchvision and timm derive from nothing but nn.Module."""

_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "leakyrelu": "leaky_relu",
    "leaky_relu": "leaky_relu",
    "prelu": "prelu",
    "elu": "elu",
    "celu": "celu",
    "selu": "selu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelutanh": "gelu_tanh",
    "quickgelu": "quick_gelu",
    "mish": "mish",
    "hardswish": "hardswish",
    "hardmish": "hardmish",
    "tanh": "tanh",
}
"""Names of modules, functions and methods, in small letters, and what a plan calls them. Gates (sigmoid) are not here."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation of a network and how to compute it on its own."""

    name: str
    apply: Any
    """Tensor to tensor."""


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a norm that can be replaced, with or without an activation of its own."""
    own = isinstance(module, (Norm, *_PER_IMAGE, *_PER_TOKEN))
    return own or (type(module).__name__.startswith(_BY_NAME) and channels_of(module) is not None)


def holds_norm(module: nn.Module) -> bool:
    """Whether a norm is inside ``module``, itself not counted."""
    return any(is_norm(part) for part in module.modules() if part is not module)


def channels_of(norm: nn.Module) -> int | None:
    """Channels of a norm; None for one over several dimensions of fixed size, which no slot can take."""
    for name in ("num_features", "num_channels"):
        if isinstance(count := getattr(norm, name, None), int):
            return count
    shape = getattr(norm, "normalized_shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) == 1 else None
    weight = getattr(norm, "weight", None)
    return int(weight.numel()) if isinstance(weight, torch.Tensor) else None


def per_token(norm: nn.Module) -> bool:
    """Whether ``norm`` takes its statistics over the channels of each token or pixel, as layer norm does."""
    return isinstance(norm, _PER_TOKEN) or type(norm).__name__.startswith(("RmsNorm", "SimpleNorm"))


def layout_of(norm: nn.Module, shape: torch.Size) -> Layout | None:
    """How the channels lie in an input of ``shape``; None where a slot has no view of it (3-D images)."""
    if per_token(norm):
        return "planes" if "2d" in type(norm).__name__ else "tokens"
    return {2: "rows", 3: "rows", 4: "planes"}.get(len(shape))  # type: ignore[return-value]


def own_activation(norm: nn.Module) -> str:
    """The activation inside a norm (timm's norms with activation, the slots of normhpc); ``none`` without one."""
    act = getattr(norm, "act", None)
    if isinstance(act, str):
        return act
    return "none" if act is None or isinstance(act, nn.Identity) else _module_name(act) or type(act).__name__.lower()


def activation_at(call: fx.Node, root: nn.Module) -> Activation | None:
    """The activation that ``call`` is, as module, function or method; None for anything else."""
    if call.op == "call_module":
        module = root.get_submodule(str(call.target))
        act = _module_name(module)
        return Activation(act, module) if act else None
    if call.op not in ("call_function", "call_method"):
        return None
    settings = [*call.args[1:], *(value for key, value in call.kwargs.items() if key != "input")]
    if any(isinstance(value, fx.Node) for value in settings):
        return None
    spelled = call.target if isinstance(call.target, str) else getattr(call.target, "__name__", "")
    name = _ACTIVATIONS.get(spelled.rstrip("_").lower(), "")
    if not name:
        return None
    arguments, named = tuple(call.args[1:]), {key: value for key, value in call.kwargs.items() if key != "input"}
    slope = named.get("negative_slope", arguments[0] if arguments else 0.01)
    named.pop("inplace", None)

    def apply(x: torch.Tensor) -> Any:
        function = getattr(torch.Tensor, call.target) if isinstance(call.target, str) else call.target
        return function(x.clone(), *arguments, **named)

    return Activation(_with_settings(name, slope, named.get("approximate", "none")), apply)


def is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is an activation by the name of its class; gates (sigmoid) are none."""
    return bool(_module_name(module))


def _module_name(module: nn.Module) -> str:
    """What a plan calls the activation ``module``; empty for a module that is none."""
    name = _ACTIVATIONS.get(type(module).__name__.lower(), "")
    approximate = getattr(module, "approximate", "none")
    return _with_settings(name, getattr(module, "negative_slope", 0.01), approximate)


def _with_settings(name: str, slope: Any, approximate: Any) -> str:
    if name == "leaky_relu" and slope != 0.01:
        return f"leaky_relu({slope})"
    return "gelu_tanh" if name == "gelu" and approximate == "tanh" else name
