"""Parameters sorted by what may be done to them, and the optimizers over them."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from normhpc.config.training import Adam, AdamW, LrFactor, Muon, OptimConfig, Sgd
from normhpc.errors import InputError, Problem
from normhpc.models import classifier
from normhpc.norms import ParamSpec
from normhpc.train.muon import MuonAndAdamW
from normhpc.train.plain import PlainAdam, PlainAdamW, PlainSgd


@runtime_checkable
class DeclaresParameters(Protocol):
    """A module that says how its own parameters are to be treated: norms, residual scalars."""

    def param_specs(self) -> dict[str, ParamSpec]:
        """By parameter name."""
        ...


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameters in groups of equal weight decay, learning-rate factor and algorithm, in the order of the model.

    With ``optim.decay`` "weights", decay spares what a module declares so in ``param_specs`` and what is no weight of a
    convolution, linear layer or attention: biases, scalars, tokens, embeddings, tables of positions. The ``lr_factor`` of a group is the module's own times that of
    ``optim.lr_factors``. ``matrices`` is true for what Muon takes: weights in that sense of at least two rows and
    columns, but the classifier's; on all else its ``rest_lr`` is in the factor.

    Raises :class:`InputError` for each pattern that fits no parameter.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = factors_by_name(list(names.values()), optim.lr_factors)
    head = classifier(model)
    of_head = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in model.modules():
        specs = module.param_specs() if isinstance(module, DeclaresParameters) else {}
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            spec = specs.get(name)
            spared = not spec.decay if spec is not None else not _is_weight(module, name, parameter)
            decay = 0.0 if spared and optim.decay == "weights" else optim.weight_decay
            factor = (spec.lr_factor if spec is not None else 1.0) * wanted.get(names[id(parameter)], 1.0)
            matrix = False
            if isinstance(optim, Muon):
                matrix = not spared and _is_matrix(parameter) and id(parameter) not in of_head
                factor *= 1.0 if matrix else optim.rest_lr / optim.lr
            groups.setdefault((matrix, decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor, "matrices": matrix}
        for (matrix, decay, factor), parameters in groups.items()
    ]


def _is_weight(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether inputs are multiplied by it and added up; for modules that say nothing of it themselves."""
    return parameter.ndim >= 2 and name.endswith("weight") and not isinstance(module, nn.Embedding)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether there is more than one row and column: else it is a vector, which has no directions to make equal."""
    return parameter.ndim >= 2 and 1 < len(parameter) < parameter.numel()


def factors_by_name(names: Sequence[str], wanted: Sequence[LrFactor]) -> dict[str, float]:
    """The factor of each parameter that a pattern fits; where several do, the last one holds.

    Raises :class:`InputError` for each pattern that fits none of ``names``.
    """
    factors: dict[str, float] = {}
    problems = []
    for index, entry in enumerate(wanted):
        fitting = [name for name in names if fnmatchcase(name, entry.parameters)]
        factors |= dict.fromkeys(fitting, entry.factor)
        if not fitting:
            near = get_close_matches(entry.parameters, names, n=3, cutoff=0.5)
            hint = f"near it: {', '.join(near)}" if near else f"the network has {', '.join(names[:3])}, ..."
            message = f"expected a pattern that fits a parameter of the network, got {entry.parameters!r}; {hint}"
            problems.append(Problem(message, path=f"optim.lr_factors[{index}].parameters"))
    if problems:
        raise InputError(problems)
    return factors


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that ``optim`` names over all parameters of ``model``.

    Raises :class:`InputError` for patterns in ``optim.lr_factors`` that fit no parameter.
    """
    groups = parameter_groups(model, optim)
    match optim:
        case Sgd():
            sgd = PlainSgd(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)
            if optim.momentum:
                # Otherwise torch makes them at the first step without filling them, and an fp16 step that overflows
                # leaves that to nobody. From zero the first update is the gradient all the same.
                for parameter in model.parameters():
                    sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return sgd
        case Adam():
            return PlainAdam(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)
        case AdamW():
            return PlainAdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)
        case Muon():
            return MuonAndAdamW(groups, optim)


def peak_lr(optim: OptimConfig, batch_size: int) -> float:
    """``lr``, or ``lr`` x ``batch_size`` / ``lr_batch_size`` where the latter is given (Goyal et al. 2017)."""
    return optim.lr if optim.lr_batch_size is None else optim.lr * batch_size / optim.lr_batch_size


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
