"""Batch norm over the images of all ranks, on any backend of torch.distributed."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from normhpc.errors import InputError

REDUCED = (0, 2, 3)


def synchronized() -> bool:
    """Whether there is another rank to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def one_value_error(x: Tensor) -> InputError:
    """What batch statistics over a single value raise."""
    return InputError(
        f"norm: batch norm over one value per channel is always 0 (input {tuple(x.shape)}); "
        "give every rank a larger share of the batch, or use sync: true or another norm"
    )


def synchronized_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalize ``x`` (N, C, H, W) by the batch statistics of all ranks and move the running ones in place.

    Every rank must call it in the same order, with any number of images, even none. Two small collectives:
    the statistics in the forward pass, two sums of the gradient in the backward pass. The gradients of
    ``weight`` and ``bias`` are this rank's part of a sum over ranks, as those of all other parameters are.
    """
    count, mean, squares = _global_moments(x)
    if x.numel() <= x.shape[1] and count.item() <= 1:
        raise one_value_error(x)
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_((squares / (count - 1)).to(running_var.dtype), momentum)
    y: Tensor = _Normalize.apply(x, mean, torch.rsqrt(squares / count + eps), count, weight, bias)
    return y


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values (), mean (C,) and sum of squared deviations (C,) over all ranks, in fp32 or float64.

    Each rank's moments are taken in two passes and merged by Chan's formula, which loses nothing when the mean
    is large against the spread, as sums of squares do.
    """
    channels = x.shape[1]
    values = _widened(x.detach())
    number = x.numel() // channels
    mean = values.sum(REDUCED) / max(number, 1)
    squares = (values - _per_channel(mean)).square_().sum(REDUCED)
    own = torch.cat((mean, squares, mean.new_full((1,), number)))
    gathered = own.new_empty(dist.get_world_size() * own.numel())
    dist.all_gather_into_tensor(gathered, own)
    means, squares, counts = gathered.view(-1, 2 * channels + 1).tensor_split((channels, 2 * channels), dim=1)
    count = counts.sum()
    mean = (means * counts).sum(0) / count
    return count, mean, squares.sum(0) + ((means - mean).square_() * counts).sum(0)


class _Normalize(torch.autograd.Function):
    """(x - mean) * rstd * weight + bias, where mean and rstd depend on the x of all ranks.

    Backward, with g = dy, n = (x - mean) * rstd, M values in all and sums over them:
    dx = weight * rstd * (g - sum(g) / M - n * sum(g n) / M). Saves x, as torch's kernel does.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, rstd: Tensor, count: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, rstd, count, weight)
        centred = _widened(x) - _per_channel(mean)
        scaled = centred.mul_(_per_channel(rstd * weight)).add_(_per_channel(bias))
        return scaled.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, count, weight = ctx.saved_tensors
        grad = _widened(grad)
        normal = (_widened(x) - _per_channel(mean)).mul_(_per_channel(rstd))
        sums = torch.cat((grad.sum(REDUCED), (grad * normal).sum(REDUCED)))
        grad_bias, grad_weight = sums.to(weight.dtype).chunk(2)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, grad_weight, grad_bias
        total = sums.clone()
        dist.all_reduce(total)
        mean_grad, mean_product = (total / count).chunk(2)
        spread = normal.mul_(_per_channel(mean_product)).add_(_per_channel(mean_grad))
        grad_x = (grad - spread).mul_(_per_channel(rstd * weight))
        return grad_x.to(x.dtype), None, None, None, grad_weight, grad_bias


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
