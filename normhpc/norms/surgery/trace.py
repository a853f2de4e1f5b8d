"""The graph of a network's calls, one for training and evaluation."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from normhpc.errors import InputError
from normhpc.norms.surgery.kinds import holds_norm, is_norm

MODE = "_in_training"
"""Name of the module that tells functions of a traced network whether it trains."""


class Mode(nn.Module):
    """Whether the network trains, for calls such as ``F.dropout(x, training=self.training)``."""

    def forward(self) -> bool:
        """``self.training``."""
        return self.training


class CallTracer(fx.Tracer):
    """Follows calls down to norms and into nothing that has none inside.

    What holds no norm stays the module it is, with its own control flow: stochastic depth, attention, pooling.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` is called as it is."""
        return is_norm(m) or not holds_norm(m)


def traced(model: nn.Module, name: str) -> fx.Graph:
    """The calls of ``model``, which must be the same in training and evaluation but for flags that say which it is.

    ``model`` gets a module called :data:`MODE` where such a flag is passed. Raises :class:`InputError`, calling the
    network ``name``, where it decides by the values of tensors or by its mode what to compute.
    """
    training, evaluation = (_trace(model.train(mode), name) for mode in (True, False))
    flags: list[tuple[fx.Node, Callable[[fx.Node], None]]] = []
    ours, others = list(training.nodes), list(evaluation.nodes)
    for ours_at, other in zip(ours, others, strict=False):
        found = _difference(ours_at, other)
        if found is None:
            raise _two_graphs(name, ours_at, other)
        flags += [(ours_at, place) for place in found]
    if len(ours) != len(others):
        raise _two_graphs(name, ours[-1], others[-1])
    if flags:
        model.add_module(MODE, Mode())
        with training.inserting_before(next(node for node in training.nodes if node.op != "placeholder")):
            mode = training.call_module(MODE)
        for _, put in flags:
            put(mode)
    return training


def _trace(model: nn.Module, name: str) -> fx.Graph:
    _, *optional = inspect.signature(model.forward).parameters.values()
    given = {each.name: each.default for each in optional if each.default is not inspect.Parameter.empty}
    try:
        return _of_images_alone(CallTracer().trace(model, given or None))
    except Exception as error:
        # whatever a stranger's forward may raise when it meets proxies instead of tensors
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InputError(
            f"{name}: its norms cannot be replaced, because what it computes depends on the values or shapes it "
            f"sees ({reason[0]}); replace_norms: false trains it with its own"
        ) from None


def _of_images_alone(graph: fx.Graph) -> fx.Graph:
    """``graph`` without inputs but the images; the others have been traced with their defaults."""
    graph.set_codegen(fx.graph.CodeGen())
    _, *others = [node for node in graph.nodes if node.op == "placeholder"]
    for node in others:
        for check in list(node.users):
            for last in [*check.users, check]:
                graph.erase_node(last)
        graph.erase_node(node)
    return graph


def _difference(ours: fx.Node, other: fx.Node) -> list[Callable[[fx.Node], None]] | None:
    """Where flags of the mode stand in a call that is otherwise the same in both modes; None where it is not."""
    if (ours.op, ours.name, len(ours.args), list(ours.kwargs)) != (
        *(other.op, other.name, len(other.args)),
        list(other.kwargs),
    ) or not _same(ours.target, other.target):
        return None
    places: list[Callable[[fx.Node], None]] = []
    for index, (value, beside) in enumerate(zip(ours.args, other.args, strict=True)):
        if value is True and beside is False:
            places.append(lambda mode, index=index: ours.update_arg(index, mode))  # type: ignore[misc]
        elif not _same(value, beside):
            return None
    for key, value in ours.kwargs.items():
        if value is True and other.kwargs[key] is False:
            places.append(lambda mode, key=key: ours.update_kwarg(key, mode))  # type: ignore[misc]
        elif not _same(value, other.kwargs[key]):
            return None
    return places


def _same(value: Any, other: Any) -> bool:
    """Equal constants, or nodes of the same name."""
    return value is other or str(value) == str(other)


def _two_graphs(name: str, ours: fx.Node, other: fx.Node) -> InputError:
    return InputError(
        f"{name}: its norms cannot be replaced, because it computes one thing in training ({ours.format_node()}) and "
        f"another in evaluation ({other.format_node()}); replace_norms: false trains it with its own"
    )


_IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


def without_overwriting(network: fx.GraphModule) -> None:
    """Let no call overwrite its input, which a slot that returns its input may share with other calls."""
    for module in network.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            setattr(module, "inplace", False)  # noqa: B010  (torch types attributes of modules as tensors)
    for node in network.graph.nodes:
        if node.op == "call_function":
            node.target = _IN_PLACE.get(node.target, node.target)
            if "inplace" in node.kwargs:
                node.update_kwarg("inplace", False)
        elif node.op == "call_method" and hasattr(torch.Tensor, node.target.removesuffix("_")):
            node.target = node.target.removesuffix("_")
    network.recompile()
