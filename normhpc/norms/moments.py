"""Mean and variance of a batch, of this rank or of all ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from normhpc.errors import InputError
from normhpc.norms.tracing import by_operations, in_transform

Dims = tuple[int, ...]
POSITIONS: Dims = (2, 3)
PER_CHANNEL: Dims = (0, 2, 3)

_BLOCK_VALUES = 1 << 17
"""Values in a block: 512 KiB in fp32. Smaller ones cost more calls, larger ones leave a core's second-level cache."""

_SHORT_SUM = 4096
"""Values whose squares, added lane by lane in vectors, err by less than 1e-6 of their sum."""

_GPU_BLOCK_VALUES = 1 << 25
"""128 MiB in fp32: enough to fill a GPU, small against the memory that the tensors of a formula would take otherwise."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of each channel over images and positions; in fp32 or better.

    Without gradient, but :func:`~normhpc.norms.tracing.by_operations` differentiable functions of x.
    """

    count: Tensor
    """Values behind each statistic, a scalar."""
    mean: Tensor
    """(C,)"""
    variance: Tensor
    """(C,), biased."""
    synchronized: bool
    """Whether they are those of all ranks' images."""

    @property
    def unbiased(self) -> Tensor:
        """The variance with count - 1 in the denominator."""
        return self.variance * (self.count / (self.count - 1))


def batch_moments(x: Tensor, *, sync: bool) -> Moments:
    """The moments of x (N, C, H, W), with ``sync`` over all ranks' x together, whatever their shares.

    Every rank must call it in the same order, with any number of images, even none: one small collective. Raises
    :class:`~normhpc.errors.InputError` when there is a single value per channel, and for statistics of several ranks
    in a transform of ``torch.func``, which no collective can be in.
    """
    return _traced(x, sync=sync and several_ranks()) if by_operations() else constant_moments(x, sync=sync)


def constant_moments(x: Tensor, *, sync: bool) -> Moments:
    """As :func:`batch_moments`, never differentiable."""
    with torch.no_grad():
        if not (sync and several_ranks()):
            refuse_one_value(x, sync=sync)
            mean, squares = _mean_and_squares(x)
            count = mean.new_full((), x.numel() // x.shape[1])
            return Moments(count, mean, squares / count, synchronized=False)
        _refuse_transforms()
        count, mean, squares = _over_ranks(x, *_mean_and_squares(x))
        if x.numel() <= x.shape[1] and count.item() <= 1:
            raise one_value_error(x, sync=True)
        return Moments(count, mean, squares / count, synchronized=True)


def _traced(x: Tensor, *, sync: bool) -> Moments:
    if sync:
        _refuse_transforms()
    else:
        refuse_one_value(x, sync=sync)
    count, mean, variance = traced_moments(exact(x), sync=sync)
    if sync and x.numel() <= x.shape[1] and count.item() <= 1:
        raise one_value_error(x, sync=True)
    return Moments(count, mean, variance, synchronized=sync)


def traced_moments(x: Tensor, *, sync: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Count (), mean (C,) and biased variance (C,) of x (N, C, H, W) as differentiable operations.

    With ``sync`` over all ranks' x; gradients are then those of the sum of all ranks' losses.
    """
    if not sync:
        variance, mean = torch.var_mean(x, PER_CHANNEL, correction=0)
        return mean.new_full((), x.numel() // x.shape[1]), mean, variance
    count = torch.full((), x.numel() / x.shape[1], device=x.device, dtype=x.dtype)
    dist.all_reduce(count)
    mean = _SumOverRanks.apply(x.sum(PER_CHANNEL)) / count
    squares = _SumOverRanks.apply((x - column(mean)).square().sum(PER_CHANNEL))
    return count, mean, squares / count


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total: Tensor = _SumOverRanks.apply(grad)  # differentiable itself, for second derivatives
        return total


def follow(running_mean: Tensor, running_var: Tensor, mean: Tensor, variance: Tensor, momentum: float) -> None:
    """Move the running statistics (C,) by ``momentum`` towards those of a batch, in place and without gradient."""
    for running, value in ((running_mean, mean), (running_var, variance)):
        newest = value.detach().to(running.dtype)
        if in_transform():
            running.add_(newest - running, alpha=momentum)  # vmap would take replica by replica through lerp_
        else:
            running.lerp_(newest, momentum)


def several_ranks() -> bool:
    """Whether there is another rank to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def refuse_one_value(x: Tensor, *, sync: bool) -> None:
    """Raise :class:`~normhpc.errors.InputError` when x has a single value per channel."""
    if x.numel() <= x.shape[1]:
        raise one_value_error(x, sync=sync)


def one_value_error(x: Tensor, *, sync: bool) -> InputError:
    """What batch statistics over a single value raise; with ``sync`` it is the only one of all ranks."""
    rest = "" if sync else "sync: true, "
    return InputError(
        f"norm: batch norm over one value per channel is always 0 (input {tuple(x.shape)}); "
        f"give every rank a larger share of the batch, or use {rest}larger images or another norm"
    )


def exact(x: Tensor) -> Tensor:
    """``x`` in fp32 or better."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def affine(x: Tensor, scale: Tensor, level: Tensor) -> Tensor:
    """x scale + level, for a scale and a level that are broadcast over the positions of x (N, C, H, W).

    On CPUs torch's addcmul takes a broadcast level value by value unless the channels lie together, three times as
    long as a product and a sum.
    """
    return torch.addcmul(level, x, scale) if x.stride(1) == 1 else x * scale + level


def affine_(x: Tensor, scale: Tensor, level: Tensor) -> Tensor:
    """:func:`affine` of an x that nobody else needs, in its place unless it is differentiated."""
    if torch.is_grad_enabled() or by_operations() or x.stride(1) == 1:
        return affine(x, scale, level)
    return x.mul_(scale).add_(level)


def mean_square(x: Tensor) -> Tensor:
    """Mean of x^2 over each plane of (N, C, H, W), (N, C, 1, 1)."""
    positions = x.shape[2] * x.shape[3]
    if torch.is_grad_enabled() or by_operations() or x.stride(1) == 1 or positions > _SHORT_SUM:
        return x.square().mean(POSITIONS, keepdim=True)
    # one pass in place of two; its sums are not taken in pairs, and its second derivative at 0 is no number
    length: Tensor = torch.linalg.vector_norm(x, dim=POSITIONS, keepdim=True)
    return length.square_().div_(positions)


def column(values: Tensor) -> Tensor:
    """(C,) against (N, C, H, W)."""
    return values.view(1, -1, 1, 1)


def blocks(x: Tensor) -> Iterator[slice]:
    """Stretches of whole images that are worked on at once: on CPUs what stays in cache, on GPUs what fills one."""
    images = x.shape[0]
    on_cpu = x.device.type == "cpu"
    values = _BLOCK_VALUES * torch.get_num_threads() if on_cpu else _GPU_BLOCK_VALUES
    step = max(1, values * images // max(1, x.numel()))
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))


def _refuse_transforms() -> None:
    if in_transform():
        raise InputError(
            "norm: expected statistics of one rank under torch.func, got sync: true on several ranks; "
            "transform on one rank, or use sync: false"
        )


def _mean_and_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) and sum of squared deviations from it (C,) of this rank's x; zeros where it is empty.

    Each block's are taken in two passes and merged by Chan's formula, which loses nothing when the mean is large
    against the spread, as sums of squares do.
    """
    if by_operations():
        variance, mean = torch.var_mean(exact(x), PER_CHANNEL, correction=0)
        return mean, variance * (x.numel() // x.shape[1])
    channels, each = x.shape[1], x.shape[2] * x.shape[3]
    mean = exact(x.new_zeros(channels))
    squares = torch.zeros_like(mean)
    seen = 0
    for block in blocks(x):
        values = exact(x[block])
        own = values.mean(PER_CHANNEL)
        own_squares = (values - column(own)).square_().sum(PER_CHANNEL)
        number = values.shape[0] * each
        step = own - mean
        mean += step * (number / (seen + number))
        squares += own_squares + step.square_() * (seen * number / (seen + number))
        seen += number
    return mean, squares


def _over_ranks(x: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count (), mean (C,) and sum of squared deviations (C,) of all ranks together."""
    channels = x.shape[1]
    own = torch.cat((mean, squares, mean.new_full((1,), x.numel() // channels)))
    gathered = own.new_empty(dist.get_world_size() * own.numel())
    dist.all_gather_into_tensor(gathered, own)
    means, squares, counts = gathered.view(-1, 2 * channels + 1).tensor_split((channels, 2 * channels), dim=1)
    count = counts.sum()
    mean = (means * counts).sum(0) / count
    return count, mean, squares.sum(0) + ((means - mean).square_() * counts).sum(0)
