"""Where the norms of a traced network stand and what follows them."""

import copy
from dataclasses import dataclass

import torch
from torch import fx, nn

from normhpc.errors import InputError, Problem
from normhpc.norms.plan import Kind
from normhpc.norms.surgery.kinds import (
    Activation,
    Layout,
    activation_at,
    channels_of,
    is_norm,
    layout_of,
    own_activation,
    per_token,
)


@dataclass(frozen=True, slots=True)
class Place:
    """One norm of a network, called once or, when the network shares it, several times."""

    name: str
    """Qualified name of the norm."""
    norm: nn.Module
    channels: int
    shape: torch.Size
    """Of its input, as the example met it."""
    layout: Layout
    calls: tuple[str, ...]
    """Names of the nodes that call it."""
    activation: Activation | None
    """What its output alone goes into, in a call of its own."""
    activation_calls: tuple[str, ...]
    own: str
    """The activation inside the norm itself, ``none`` without one."""

    @property
    def act(self) -> str:
        """The activation at this place, inside the norm or after it."""
        return self.activation.name if self.activation is not None else self.own

    @property
    def own_module(self) -> nn.Module | None:
        """The activation inside the norm, to be called on its own; None without one, or where a name stands for it."""
        module = getattr(self.norm, "act", None) if self.own != "none" else None
        return copy.deepcopy(module) if isinstance(module, nn.Module) else None

    @property
    def kind(self) -> Kind:
        """What a plan calls this place."""
        if per_token(self.norm):
            return "token"
        return "lone" if self.act == "none" else "norm_act"

    @property
    def slot_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W) that a slot at this place sees."""
        match self.layout, tuple(self.shape):
            case "planes", (images, channels, height, width):
                return images, channels, height, width
            case "rows", (images, channels, *length):
                return images, channels, *(length or [1]), 1  # type: ignore[return-value]
            case _, (images, *positions, channels):
                return images, channels, torch.Size(positions).numel(), 1
        raise AssertionError(self)


def find_places(graph: fx.Graph, root: nn.Module, shapes: dict[str, torch.Size], network: str) -> list[Place]:
    """Every norm that ``graph`` calls, in that order; ``shapes`` has the shape of each one's input.

    Raises :class:`InputError` with every norm that no slot can stand in for.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module" and is_norm(root.get_submodule(str(node.target))):
            calls.setdefault(str(node.target), []).append(node)
    places: list[Place] = []
    problems: list[Problem] = []
    for name, nodes in calls.items():
        try:
            places.append(_place(name, nodes, root, shapes[name]))
        except InputError as error:
            problems += [Problem(problem.message, path=name, file=network) for problem in error.problems]
    if problems:
        raise InputError(problems)
    if not places:
        raise InputError(
            f"{network}: no norm to replace; looked for modules of batch, instance, group, layer and RMS norm, "
            "of torch, torchvision and timm"
        )
    return places


def _place(name: str, nodes: list[fx.Node], root: nn.Module, shape: torch.Size) -> Place:
    norm = root.get_submodule(name)
    channels, layout = channels_of(norm), layout_of(norm, shape)
    kind = type(norm).__name__
    if channels is None:
        raise InputError(f"{kind} normalizes several dimensions of fixed size at once, which no slot does")
    if layout is None:
        raise InputError(f"{kind} gets an input of {len(shape)} dimensions, {tuple(shape)}; a slot takes up to 4")
    if not isinstance(getattr(norm, "drop", nn.Identity()), nn.Identity):
        raise InputError(f"{kind} drops blocks between norm and activation, which a slot cannot")
    own = own_activation(norm)
    followers = [_follower(node, root) if own == "none" else None for node in nodes]
    found = [(call, activation_at(call, root)) for call in followers if call is not None]
    acts = [(call, act) for call, act in found if act is not None]
    if acts and (len(acts) < len(nodes) or len({act.name for _, act in acts}) > 1):
        raise InputError(f"{kind} is called {len(nodes)} times, not always before the same activation")
    return Place(
        name=name,
        norm=norm,
        channels=channels,
        shape=shape,
        layout=layout,
        calls=tuple(node.name for node in nodes),
        activation=acts[0][1] if acts else None,
        activation_calls=tuple(call.name for call, _ in acts),
        own=own,
    )


def _follower(call: fx.Node, root: nn.Module) -> fx.Node | None:
    """The only call that uses the output of ``call``, identities left out; None when there are several or none."""
    while len(call.users) == 1:
        (user,) = call.users
        module = root.get_submodule(str(user.target)) if user.op == "call_module" else None
        if not isinstance(module, nn.Identity):
            return user if user.op != "output" and user.args[:1] == (call,) else None
        call = user
    return None
