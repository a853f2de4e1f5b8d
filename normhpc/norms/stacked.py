"""Batch norm of equal networks that ``vmap`` computes together, as one of all their channels side by side."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_functorch = torch._C._functorch


def batch_norm_in_training(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, momentum: float, eps: float
) -> Tensor:
    """torch's kernel for training, which moves ``mean`` and ``variance`` (C,) in place by ``momentum``.

    Of x (N, C, H, W) that are stacked by one ``vmap`` around everything, it is called once, with R times the channels.
    torch's own rule for them multiplies by the weights and sums their gradients in operations of their own, each as
    large as x; a :class:`torch.autograd.Function` with a rule for ``vmap`` takes longer to call than a small x to
    normalize.
    """
    given = (x, mean, variance, weight, bias)
    if not _are_one_stack(given) or any(map(_functorch.maybe_get_bdim, given[1:])):
        return F.batch_norm(x, mean, variance, weight, bias, True, momentum, eps)
    stack, means, variances, weights, biases = map(_functorch.get_unwrapped, given)
    side_by_side = stack.movedim(_functorch.maybe_get_bdim(x), 1)
    of_all = F.batch_norm(
        side_by_side.flatten(1, 2),
        means.view(-1),
        variances.view(-1),
        weights.flatten(),
        biases.flatten(),
        True,
        momentum,
        eps,
    ).view_as(side_by_side)
    y: Tensor = _functorch._add_batch_dim(of_all, 1, _functorch.maybe_get_level(x))
    return y


def _are_one_stack(tensors: Sequence[Tensor]) -> bool:
    """Whether all are stacked, and by the same ``vmap``: of two, one in the other, each may have stacked a part."""
    return all(map(_is_stacked, tensors)) and len(set(map(_functorch.maybe_get_level, tensors))) == 1


def _is_stacked(tensor: Tensor) -> bool:
    """Whether ``tensor`` is one of a stack, and the stack an ordinary tensor: no other transform is at work."""
    return _functorch.is_batchedtensor(tensor) and not _functorch.is_functorch_wrapped_tensor(
        _functorch.get_unwrapped(tensor)
    )
