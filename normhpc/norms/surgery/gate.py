"""The proof that a rewritten network is the network it was: with its own norms it computes the same, to the bit."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from normhpc.errors import InputError
from normhpc.norms.surgery.places import Place
from normhpc.norms.surgery.rewrite import VIEWS, rewrite


class OwnNorm(nn.Module):
    """A network's own norm and activation where its slot will stand: takes what the slot takes."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.norm = place.norm
        self.shape = place.shape
        self.layout = place.layout
        self.activation = place.activation.apply if place.activation is not None else None

    def forward(self, planes: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        if self.layout == "planes":
            y: Tensor = self.norm(planes)
        else:
            into, out = VIEWS[self.layout]
            shaped = planes.new_empty(()).expand(planes.shape[0], *self.shape[1:])
            y = into(self.norm(out(planes, shaped)))
        if self.activation is not None:
            y = self.activation(y)
        return y


def check_identity(root: nn.Module, graph: fx.Graph, places: Sequence[Place], example: Tensor, name: str) -> None:
    """Raise :class:`InputError` unless ``graph``, rewritten with its own norms, equals ``root`` on ``example``.

    Compared bit by bit: the outputs in training, then those in evaluation with the running statistics that training
    left. ``root`` is not changed; the random state is the same for both and restored.
    """
    original, shared = copy.deepcopy((root, places))[0], copy.deepcopy((root, list(places)))
    own = rewrite(shared[0], graph, shared[1], OwnNorm, lambda place: True)
    for module in own.modules():
        if isinstance(module, OwnNorm) and isinstance(module.activation, nn.Module):
            module.activation = copy.deepcopy(module.activation)
            if isinstance(getattr(module.activation, "inplace", None), bool):
                setattr(module.activation, "inplace", False)  # noqa: B010  (torch types attributes of modules as tensors)
    for training in (True, False):
        expected = outputs(original, example, training=training)
        try:
            found = outputs(own, example, training=training)
        except Exception as error:
            # a graph that was traced wrongly fails in whatever call comes first
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{name}: its norms cannot be replaced, because rewritten with its own norms it fails ({reason}); "
                "replace_norms: false trains it as it is"
            ) from None
        if not same_bits(expected, found):
            mode = "training" if training else "evaluation"
            raise InputError(
                f"{name}: its norms cannot be replaced, because rewritten with its own norms it gives other outputs in "
                f"{mode}{_where(original, own, example, training=training)}; replace_norms: false trains it as it is"
            )


def outputs(network: nn.Module, example: Tensor, *, training: bool) -> Any:
    """What ``network`` makes of ``example``, from the same random state at every call."""
    devices = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(0)
        return network.train(training)(example.clone())


def same_bits(value: Any, other: Any) -> bool:
    """Whether two outputs, tensors or collections of them, are equal to the bit."""
    ours, others = list(_tensors(value)), list(_tensors(other))
    return len(ours) == len(others) and all(
        one.shape == two.shape and one.dtype == two.dtype and torch.equal(_bytes(one), _bytes(two))
        for one, two in zip(ours, others, strict=True)
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


def _where(original: nn.Module, own: nn.Module, example: Tensor, *, training: bool) -> str:
    """Which module is the first whose output differs."""
    seen: list[dict[str, list[Any]]] = []
    for network in (original, own):
        met: dict[str, list[Any]] = {}
        handles = [
            module.register_forward_hook(
                lambda _, __, y, name=name, met=met: met.setdefault(name, []).append(copy.deepcopy(y))
            )
            for name, module in network.named_modules()
            if name and not list(module.children())
        ]
        outputs(network, example, training=training)
        for handle in handles:
            handle.remove()
        seen.append(met)
    expected, found = seen
    for name, values in expected.items():
        if name in found and not same_bits(values, found[name]):
            return f", the first at {name}"
    return ""
