"""Any network with another norm at every place: its calls are traced, checked and rewritten."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from normhpc.config.norm import NormPart
from normhpc.errors import InputError, NormhpcError, Problem
from normhpc.norms.activation import ACTIVATIONS
from normhpc.norms.plain import Plain
from normhpc.norms.plan import ATTRIBUTE, NormPlan, Site, foreign_norms
from normhpc.norms.pointwise import Selu
from normhpc.norms.slot import Norm
from normhpc.norms.surgery.gate import check_identity, outputs
from normhpc.norms.surgery.kinds import is_norm
from normhpc.norms.surgery.places import Place, find_places
from normhpc.norms.surgery.rewrite import rewrite
from normhpc.norms.surgery.trace import MODE, traced, without_overwriting

Build = Callable[[int, str], Norm]
"""The slot of a norm for so many channels and an activation."""

_SHOWN = 3


def replace_norms(
    model: nn.Module, spec: NormPart, build: Build, example: Tensor, *, copy_affine: bool, add_biases: bool
) -> tuple[fx.GraphModule, NormPlan]:
    """:func:`normhpc.norms.swap`, with the layers that ``build`` gives for ``spec``."""
    name = type(model).__name__
    training = model.training
    model, graph, places = read(model, example)
    check_identity(model, graph, places, example, name)
    if spec.reach not in ("pixel", "value"):
        _refuse_tokens(places, spec, name)
    slots = _slots(places, spec, build, example, name)
    if copy_affine:
        for place in places:
            _copy_values(place.norm, slots[place.name])
    network = rewrite(
        model,
        graph,
        places,
        make=lambda place: slots[place.name],
        absorbs=lambda place: place.activation is not None and _has_activation(slots[place.name]),
        then=lambda place: None if _has_activation(slots[place.name]) else place.own_module,
    )
    if any(isinstance(slot, Plain | Selu) for slot in slots.values()):
        without_overwriting(network)
    _check_states(model, network, places, name)
    biases = _add_biases(network) if add_biases and _lose_shifts(places, slots) else 0
    network.train(training)
    plan = NormPlan(
        sites=tuple(
            Site(place.name, place.kind, place.channels, place.act, str(slots[place.name])) for place in places
        ),
        policies={"post_add": "keep", "lone": getattr(spec, "alone", "normalize"), "copy_affine": copy_affine}
        | ({"biases_added": biases} if biases else {}),
        kept=foreign_norms(network),
    )
    setattr(network, ATTRIBUTE, plan)
    # torch's way to have an attribute survive a deep copy of a graph module
    network.meta[_USER_PRESERVED_ATTRIBUTES_KEY] = {ATTRIBUTE: plan}
    return network, plan


def read(model: nn.Module, example: Tensor) -> tuple[nn.Module, fx.Graph, list[Place]]:
    """A copy of ``model``, the graph of its calls and its norms; the beginning of :func:`replace_norms`."""
    name, model = type(model).__name__, copy.deepcopy(model)
    shapes = _input_shapes(model, example, name)
    graph = traced(model, name)
    return model, graph, find_places(graph, model, shapes, name)


def _input_shapes(model: nn.Module, example: Tensor, name: str) -> dict[str, torch.Size]:
    """The shape that each norm of ``model`` gets for ``example``, by qualified name."""
    shapes: dict[str, torch.Size] = {}
    probe = copy.deepcopy(model)
    for path, module in probe.named_modules():
        if is_norm(module):
            module.register_forward_pre_hook(
                lambda _, arguments, values, path=path: (
                    shapes.setdefault(path, [*arguments, *values.values()][0].shape) and None
                ),
                with_kwargs=True,
            )
    try:
        outputs(probe, example, training=True)
    except NormhpcError:
        raise
    except Exception as error:
        # a stranger's network says in its own way that it does not take these images
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InputError(f"{name}: cannot take images of {_size(example)}: {reason[0]}") from None
    return shapes


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))


def _refuse_tokens(places: Sequence[Place], spec: NormPart, name: str) -> None:
    tokens = [place.name for place in places if place.kind == "token"]
    if tokens:
        raise InputError(
            f"{name}: {spec.name} takes its statistics over several tokens, which is no norm of each token as at "
            f"{_first_of(tokens)}; what does: norms of one position (layer_pixel, rms) or value (dyt, derf)"
        )


def _first_of(places: Sequence[str]) -> str:
    """``bn1, layer1.0.bn1, layer1.0.bn2 and 17 more``."""
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return f"{', '.join(places[:_SHOWN])}{more}"


def _slots(places: Sequence[Place], spec: NormPart, build: Build, example: Tensor, name: str) -> dict[str, Norm]:
    """The slot of each place, tried on an input of its shape.

    Raises :class:`InputError` with every reason for which places fail and the first of these places.
    """
    slots: dict[str, Norm] = {}
    failing: dict[str, list[str]] = {}
    for place in places:
        try:
            slot = _slot(place, build)
            outputs(copy.deepcopy(slot), torch.zeros(place.slot_shape), training=True)
            slots[place.name] = slot.to(example.device)
        except InputError as error:
            for problem in error.problems:
                failing.setdefault(": ".join(filter(None, (problem.path, problem.message))), []).append(place.name)
    if failing:
        raise InputError(Problem(why, path=_first_of(where), file=name) for why, where in failing.items())
    return slots


def _slot(place: Place, build: Build) -> Norm:
    """With the activation of the place where the slot can end with it or owns one, else the norm alone."""
    if place.act in ACTIVATIONS:
        return build(place.channels, place.act)
    slot = build(place.channels, "relu")
    if slot.owns_act:
        slot.act = place.act
        return slot
    if place.activation is None and place.own_module is None:
        raise InputError(
            f"{type(place.norm).__name__} took the place of {place.act}, which is no longer in the network and which "
            "no slot ends with; swap the norms of the network as it was before"
        )
    return build(place.channels, "none")


def _has_activation(slot: Norm) -> bool:
    return slot.act != "none"


def _copy_values(norm: nn.Module, slot: Norm) -> None:
    """Give ``slot`` the weight, bias and running statistics of ``norm`` that it has by the same name and shape."""
    values = norm.state_dict()
    fitting = {key: values[key] for key, own in slot.state_dict().items() if key in values}
    slot.load_state_dict(
        {key: value for key, value in fitting.items() if value.shape == slot.state_dict()[key].shape}, strict=False
    )


def _lose_shifts(places: Sequence[Place], slots: dict[str, Norm]) -> bool:
    """Whether norms that learn a shift are replaced by some that do not."""
    shifted = any(getattr(place.norm, "bias", None) is not None for place in places)
    return shifted and not any(slot.shifts for slot in slots.values())


def _add_biases(network: fx.GraphModule) -> int:
    """Give each convolution beside the norms, that has no bias, one that starts at 0. Returns how many."""
    called = [network.get_submodule(str(node.target)) for node in network.graph.nodes if node.op == "call_module"]
    bare = {module for module in called if isinstance(module, nn.Conv2d) and module.bias is None}
    for conv in bare:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
    return len(bare)


def _check_states(model: nn.Module, network: nn.Module, places: Sequence[Place], name: str) -> None:
    """Everything that is saved of the network, but for its norms and the activations they take the place of, is still there under the same names."""
    acts = {id(place.activation.apply) for place in places if place.activation is not None}
    replaced = [place.name for place in places] + [path for path, part in model.named_modules() if id(part) in acts]
    own = tuple(f"{path}." for path in replaced)
    lost = [
        key
        for key in sorted(model.state_dict().keys() - network.state_dict().keys())
        if not key.startswith(own) and not key.startswith(MODE)
    ]
    if lost:
        raise InputError(
            f"{name}: its norms cannot be replaced, because the rewritten network would lose {', '.join(lost[:_SHOWN])}, "
            "which its computation does not use; replace_norms: false trains it as it is"
        )
