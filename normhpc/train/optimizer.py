"""Parameters sorted by what may be done to them, and the optimizers over them."""

import inspect
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import nn

from normhpc.config.training import Adam, AdamW, OptimConfig, Sgd
from normhpc.norms import ParamSpec


@runtime_checkable
class DeclaresParameters(Protocol):
    """A module that says how its own parameters are to be treated: norms, residual scalars."""

    def param_specs(self) -> dict[str, ParamSpec]:
        """By parameter name."""
        ...


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameters in groups of equal weight decay and learning-rate factor, in the order of the model.

    With ``optim.decay`` "weights", decay spares what a module declares so in ``param_specs`` and every parameter
    of fewer than two dimensions (biases, scalars); each group carries its ``lr_factor``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in model.modules():
        specs = module.param_specs() if isinstance(module, DeclaresParameters) else {}
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            spec = specs.get(name)
            spared = not spec.decay if spec is not None else parameter.ndim < 2
            decay = 0.0 if spared and optim.decay == "weights" else optim.weight_decay
            groups.setdefault((decay, spec.lr_factor if spec is not None else 1.0), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def without_compiler(kind: type[Kind]) -> type[Kind]:
    """``kind`` with plain methods instead of those that import ``torch._dynamo`` at their first call.

    That import only tells a compiler how to treat an optimizer that it is asked to trace, which is never done here,
    and it takes longer than a small run trains. What else the wrappers do, turning gradients off, is kept.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[Kind], type(kind.__name__, (kind,), methods))


PlainSgd = without_compiler(torch.optim.SGD)
PlainAdam = without_compiler(torch.optim.Adam)
PlainAdamW = without_compiler(torch.optim.AdamW)


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that ``optim`` names over all parameters of ``model``."""
    groups = parameter_groups(model, optim)
    match optim:
        case Sgd():
            return PlainSgd(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)
        case Adam():
            return PlainAdam(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)
        case AdamW():
            return PlainAdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
