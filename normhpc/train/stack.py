"""Equal networks as one: their weights stacked, one forward and one backward pass for the batches of all of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Stack:
    """R networks that differ in the values of their weights and buffers alone.

    Each weight and buffer moves into one tensor of all networks, (R, ...), of which the network's own becomes a view:
    what an optimizer, a norm or a checkpoint does with the own one is done to the stack. Several passes add up their
    gradients, as those of one network do, until :meth:`drop_gradients`.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._network = networks[0]
        self._own = [dict(network.named_parameters()) for network in networks]
        buffers = [dict(network.named_buffers()) for network in networks]
        self.parameters = {
            name: _moved([own[name] for own in self._own]).requires_grad_(first.requires_grad)
            for name, first in self._own[0].items()
        }
        """By name, (R, ...), the leaves of the graph."""
        self.buffers = {name: _moved([own[name] for own in buffers]) for name in buffers[0]}
        """By name, (R, ...)."""
        self._kept: dict[str, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """The logits of each network for its own images: (R, N, C, H, W) to (R, N, classes).

        Running statistics move as in the networks alone. Raises RuntimeError where a network draws random numbers or
        branches on values.
        """

        def of_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._network, (parameters, buffers), (images,))
            return logits

        logits: Tensor = vmap(of_one)(self.parameters, self.buffers, images)
        return logits

    def keep_buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers as they are now, for :meth:`restore_buffers`; by name, good until the next call."""
        if not self._kept:
            self._kept = {name: torch.empty_like(value) for name, value in self.buffers.items()}
        _copy(self.buffers, self._kept)
        return self._kept

    def restore_buffers(self) -> None:
        """Put back what :meth:`keep_buffers` kept last."""
        _copy(self._kept, self.buffers)

    def drop_gradients(self) -> None:
        """Forget the gradients of the last step."""
        for stacked in self.parameters.values():
            stacked.grad = None

    def give_gradients(self) -> None:
        """Let each network's own weights have its part of the gradients; without one where none came."""
        for name, stacked in self.parameters.items():
            parts = stacked.grad.unbind() if stacked.grad is not None else [None] * len(self._own)
            for own, part in zip(self._own, parts, strict=True):
                own[name].grad = part


def stacked_as_is(parts: Sequence[Tensor]) -> Tensor:
    """Equally laid out tensors as one, (R, ...), in which each of them lies as it did."""
    first = parts[0]
    # its number of values, but where it is a cut of something larger and the next one must not lie in its gaps
    extent = 1 + sum((size - 1) * stride for size, stride in zip(first.shape, first.stride(), strict=True))
    together = torch.empty_strided(
        (len(parts), *first.shape), (max(extent, 0), *first.stride()), dtype=first.dtype, device=first.device
    )
    return torch.stack(list(parts), out=together)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """One launch for many tensors on a GPU, which only takes those of one type at once."""
    for dtype in {value.dtype for value in values.values()}:
        names = [name for name, value in values.items() if value.dtype == dtype]
        torch._foreach_copy_([into[name] for name in names], [values[name] for name in names])


def _moved(own: Sequence[Tensor]) -> Tensor:
    """The tensors in a new one, (R, ...), of which they become views."""
    together = stacked_as_is([value.detach() for value in own])
    for value, part in zip(own, together.unbind(), strict=True):
        value.data = part
    return together
