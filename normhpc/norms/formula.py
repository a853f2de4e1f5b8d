"""A norm written as a formula: its tree, computed with torch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.formula import (
    SCALARS,
    VECTORS,
    Binary,
    Call,
    Formula,
    Moment,
    Negative,
    Number,
    Variable,
    combined,
    written,
)
from normhpc.config.formula import nodes as nodes_of
from normhpc.config.norm import FormulaNorm
from normhpc.norms.group import number_of_groups
from normhpc.norms.lean import over_batch, per_image
from normhpc.norms.moments import POSITIONS, batch_moments, column, follow
from normhpc.norms.slot import Norm, memory_format_of

_STARTS = {"weight": 1.0, "bias": 0.0, **VECTORS, **SCALARS}


class FormulaLayer(Norm):
    """y = act(formula(x) * weight + bias), the formula that of the configuration.

    Of weight, bias, u and v (C,) and of a and b () the layer has those that occur. Moments over the batch are those of
    the batch, its variance biased, while training, and running ones in evaluation; with ``sync`` those of all ranks.
    With ``owns_act`` there is no act behind the formula, and without an activation no formula: x * weight + bias.

    Raises :class:`~normhpc.errors.InputError` when the groups of a moment do not divide the channels, and when training
    takes a moment over the batch of one value per channel.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, config: FormulaNorm, num_features: int, act: str) -> None:
        owns_act = config.owns_act and act != "none"
        super().__init__(num_features, act)
        self.owns_act = owns_act
        self.tree = config.tree(act=act != "none")
        self.scope = config.reach if owns_act or not config.owns_act else "value"
        self.shifts = config.affine
        self.groups = number_of_groups(config, num_features)
        self.eps = config.eps
        self.momentum = config.momentum
        self.unbiased = config.running == "unbiased"
        self.sync = config.sync
        occurring = {node.name for node in nodes_of(self.tree) if isinstance(node, Variable)}
        self.learned = [name for name in _STARTS if name in occurring]
        for name in self.learned:
            shape = () if name in SCALARS else (num_features,)
            self.register_parameter(name, nn.Parameter(torch.full(shape, _STARTS[name])))
        if self.scope == "batch":
            self.register_buffer("running_mean", torch.zeros(num_features))
            self.register_buffer("running_var", torch.ones(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        # not by get_parameter, which refuses the tensors that functional_call puts in a parameter's place
        parameters = tuple(getattr(self, name) for name in self.learned)
        if self.scope != "batch":
            return per_image(self._formula, x, *parameters)
        if not self.training:
            return per_image(self._of_batch, x, self.running_mean.clone(), self.running_var.clone(), *parameters)
        moments = batch_moments(x, sync=self.sync)
        variance = moments.unbiased if self.unbiased else moments.variance
        follow(self.running_mean, self.running_var, moments.mean, variance, self.momentum)
        return over_batch(self._of_batch, x, moments, *parameters)

    def _formula(self, x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(self.learned, parameters, strict=True))
        return evaluate(self.tree, x, None, None, named, self.groups, self.eps)

    def _of_batch(self, x: Tensor, mean: Tensor, variance: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(self.learned, parameters, strict=True))
        return evaluate(self.tree, x, mean, variance, named, self.groups, self.eps)

    def local_statistics(self) -> tuple[str, ...]:
        """The running statistics, unless there are none or all ranks keep the same."""
        return () if self.sync or self.scope != "batch" else ("running_mean", "running_var")

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, {written(self.tree)}, groups={self.groups}, eps={self.eps:g}, sync={self.sync}"


def evaluate(
    formula: Formula,
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    parameters: Mapping[str, Tensor],
    groups: int,
    eps: float,
) -> Tensor:
    """``formula`` of ``x`` (N, C, H, W), any number of whole images in fp32 or better: a tensor of the same kind.

    ``mean`` and ``variance`` (C,) are those of the batch, None where the formula has no moments over it; ``parameters``
    are of shape (C,) or (). Differentiable in all of them; ``x`` itself for the formula ``x``, otherwise a new tensor.
    """
    y = _Evaluation(x, mean, variance, parameters, groups, eps).of(formula)
    if y.shape != x.shape:
        y = y.expand_as(x).contiguous(memory_format=memory_format_of(x))
    return y


class _Evaluation:
    def __init__(
        self,
        x: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        parameters: Mapping[str, Tensor],
        groups: int,
        eps: float,
    ) -> None:
        self.x, self.mean, self.variance = x, mean, variance
        self.parameters, self.groups, self.eps = parameters, groups, eps

    def of(self, formula: Formula) -> Tensor:
        """A tensor that broadcasts to the input's shape."""
        value = self.value(formula)
        return value if isinstance(value, Tensor) else self.number(value)

    def number(self, value: float) -> Tensor:
        return torch.full((), value, dtype=self.x.dtype, device=self.x.device)

    def value(self, formula: Formula) -> Tensor | float:
        """The same, with numbers left as numbers."""
        if isinstance(formula, Number):
            return formula.value
        if isinstance(formula, Variable):
            return self.variable(formula.name)
        if isinstance(formula, Negative):
            return -self.value(formula.operand)
        if isinstance(formula, Binary):
            return _combined(formula, self.value(formula.left), self.value(formula.right))
        if isinstance(formula, Call):
            return FUNCTIONS[formula.function](*[self.of(argument) for argument in formula.arguments])
        return self.batch_moment(formula.kind) if formula.scope == "batch" else self.moment(formula)

    def variable(self, name: str) -> Tensor:
        if name == "x":
            return self.x
        if name == "eps":
            return self.number(self.eps)
        parameter = self.parameters[name]
        return column(parameter) if parameter.ndim else parameter

    def batch_moment(self, kind: str) -> Tensor:
        assert self.mean is not None
        assert self.variance is not None
        mean, variance = column(self.mean), column(self.variance)
        if kind == "mean":
            return mean
        if kind == "var":
            return variance
        return torch.sqrt((variance if kind == "std" else variance + mean.square()) + self.eps)

    def moment(self, formula: Moment) -> Tensor:
        values = self.of(formula.operand).expand_as(self.x)
        if formula.scope != "group":
            return _moment(formula.kind, values, _DIMS[formula.scope], self.eps)
        images, channels, height, width = self.x.shape
        size = channels // self.groups
        grouped = values.view(images, self.groups, size, height, width)
        return _moment(formula.kind, grouped, (2, 3, 4), self.eps).flatten(1, 2).repeat_interleave(size, 1)


_DIMS = {"instance": POSITIONS, "layer": (1, 2, 3), "pixel": (1,)}


def _moment(kind: str, values: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    if kind == "mean":
        return values.mean(dims, keepdim=True)
    if kind == "norm":
        norm: Tensor = torch.linalg.vector_norm(values, dim=dims, keepdim=True)
        return norm
    if kind == "rms":
        return torch.sqrt(values.square().mean(dims, keepdim=True) + eps)
    # of no images, a rank's share at times, there is as little variance as sum; var warns of it
    variance = values.var(dims, correction=0, keepdim=True) if values.numel() else values.sum(dims, keepdim=True)
    return variance if kind == "var" else torch.sqrt(variance + eps)


def _combined(formula: Binary, left: Tensor | float, right: Tensor | float) -> Tensor | float:
    if not isinstance(left, Tensor) and not isinstance(right, Tensor):
        return combined(formula.operator, left, right)
    result: Tensor = OPERATORS[formula.operator](left, right)
    return result


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "**": lambda left, right: left**right,
}

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "arctan": torch.atan,
    "sin": torch.sin,
    "cos": torch.cos,
    "relu": torch.relu,
    "softplus": F.softplus,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "abs": torch.abs,
    "sign": torch.sign,
    "max": torch.maximum,
    "min": torch.minimum,
    "clip": lambda value, low, high: torch.minimum(torch.maximum(value, low), high),
    # where inside, not clamp, whose gradient is 0 at its bound
    "elu": lambda value, alpha=1.0: torch.where(
        value > 0, value, alpha * torch.expm1(torch.where(value > 0, 0.0, value))
    ),
}
