"""Another module in the place of each norm, at the calls and not in the modules: activations are often shared."""

import copy
from collections.abc import Callable, Sequence

from torch import Tensor, fx, nn

from normhpc.norms.surgery.places import Place


def tokens_as_planes(x: Tensor) -> Tensor:
    """(N, ..., C) as (N, C, S, 1), a view where ``x`` is contiguous."""
    return x.reshape(x.shape[0], -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


def planes_as_tokens(planes: Tensor, x: Tensor) -> Tensor:
    """(N, C, S, 1) in the shape (N, ..., C) of ``x``."""
    return planes.permute(0, 2, 3, 1).reshape(x.shape)


def rows_as_planes(x: Tensor) -> Tensor:
    """(N, C) or (N, C, L) as (N, C, L, 1)."""
    return x.reshape(x.shape[0], x.shape[1], -1, 1)


def planes_as_rows(planes: Tensor, x: Tensor) -> Tensor:
    """(N, C, L, 1) in the shape of ``x``."""
    return planes.reshape(x.shape)


VIEWS = {"tokens": (tokens_as_planes, planes_as_tokens), "rows": (rows_as_planes, planes_as_rows)}
"""How an input that is not (N, C, H, W) goes into a slot and out of it."""


def rewrite(
    root: nn.Module,
    graph: fx.Graph,
    places: Sequence[Place],
    make: Callable[[Place], nn.Module],
    absorbs: Callable[[Place], bool],
    then: Callable[[Place], nn.Module | None] = lambda place: None,
) -> fx.GraphModule:
    """``root`` as a graph of calls with ``make(place)`` in the place of each norm; ``graph`` and ``root`` stay.

    Where ``absorbs(place)`` the activation after the norm is no longer called; ``then(place)``, if anything, is called
    right behind the new module, under its name and ``_act``. Modules are shared with ``root``.
    """
    network = fx.GraphModule(root, copy.deepcopy(graph), class_name=type(root).__name__)
    calls = network.graph
    nodes = {node.name: node for node in calls.nodes}
    for place in places:
        _put(network, place.name, make(place))
        behind = then(place)
        if behind is not None:
            _put(network, f"{place.name}_act", behind)
        for name in place.calls:
            last = call = nodes[name]
            x = call.args[0] if call.args else next(iter(call.kwargs.values()))
            call.args, call.kwargs = (x,), {}
            if behind is not None:
                with calls.inserting_after(call):
                    last = _passed_on(call, calls.call_module(f"{place.name}_act", (call,)))
            if place.layout != "planes":
                into, out = VIEWS[place.layout]
                with calls.inserting_before(call):
                    call.args = (calls.call_function(into, (x,)),)
                with calls.inserting_after(last):
                    _passed_on(last, calls.call_function(out, (last, x)))
        for name in place.activation_calls if absorbs(place) else ():
            call = nodes[name]
            call.replace_all_uses_with(call.args[0])
            calls.erase_node(call)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(owner), leaf, module)


def _passed_on(call: fx.Node, after: fx.Node) -> fx.Node:
    """``after``, which takes the output of ``call``, in the place of that output everywhere else."""
    call.replace_all_uses_with(after, lambda user: user is not after)
    return after
