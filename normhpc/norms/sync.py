"""Batch norm over the images of all ranks, on any backend of torch.distributed."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from normhpc.norms.moments import PER_CHANNEL, Moments, column, exact, traced_moments


def synchronized_batch_norm(x: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize ``x`` (N, C, H, W) by the batch statistics of all ranks.

    Every rank must call it in the same order, with any number of images, even none: two sums of the gradient are
    taken over ranks in the backward pass. The gradients of ``weight`` and ``bias`` are this rank's part of a sum
    over ranks, as those of all other parameters are.
    """
    if torch.compiler.is_compiling():
        # A traced function of its own would read weights made from running statistics after these have moved.
        return _traced(x, weight, bias, eps).to(x.dtype)
    rstd = (moments.variance + eps).rsqrt()
    y: Tensor = _Normalize.apply(x, moments.mean, rstd, moments.count, weight, bias, eps)
    return y


def _traced(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same as differentiable operations, in fp32 or better."""
    mean, variance = traced_moments(exact(x), sync=True)
    return torch.addcmul(column(bias), exact(x) - column(mean), column((variance + eps).rsqrt() * weight))


class _Normalize(torch.autograd.Function):
    """(x - mean) * rstd * weight + bias, where mean and rstd depend on the x of all ranks.

    Backward, with g = dy, n = (x - mean) * rstd, M values in all and sums over them:
    dx = weight * rstd * (g - sum(g) / M - n * sum(g n) / M). Saves x, as torch's kernel does.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, rstd: Tensor, count: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, mean, rstd, count, weight, bias)
        centred = exact(x) - column(mean)
        scaled = centred.mul_(column(rstd * weight)).add_(column(bias))
        return scaled.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, count, weight, bias = ctx.saved_tensors
        grad = exact(grad)
        if torch.is_grad_enabled():
            inputs = (x, weight, bias)
            y = _traced(*inputs, ctx.eps)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            found = iter(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True))
            dx, d_weight, d_bias = (next(found) if tensor.requires_grad else None for tensor in inputs)
            return dx, None, None, None, d_weight, d_bias, None
        normal = (exact(x) - column(mean)).mul_(column(rstd))
        sums = torch.cat((grad.sum(PER_CHANNEL), (grad * normal).sum(PER_CHANNEL)))
        grad_bias, grad_weight = sums.to(weight.dtype).chunk(2)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, grad_weight, grad_bias, None
        total = sums.clone()
        dist.all_reduce(total)
        mean_grad, mean_product = (total / count).chunk(2)
        spread = normal.mul_(column(mean_product)).add_(column(mean_grad))
        grad_x = (grad - spread).mul_(column(rstd * weight))
        return grad_x.to(x.dtype), None, None, None, grad_weight, grad_bias, None
