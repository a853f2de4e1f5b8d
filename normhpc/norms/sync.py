"""Batch norm by moments that are taken already, of this rank or of all ranks, on any backend of torch.distributed."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from normhpc.norms.moments import PER_CHANNEL, Moments, affine, column, exact, traced_moments
from normhpc.norms.tracing import by_operations


def batch_norm_by(x: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize ``x`` (N, C, H, W) by ``moments``, those of its batch or of all ranks' together.

    They are differentiated through as functions of x. Where they are those of all ranks, every rank must call it in the
    same order, with any number of images, even none: two sums of the gradient are taken over ranks in the backward
    pass. The gradients of ``weight`` and ``bias`` are this rank's part of a sum over ranks, as those of all other
    parameters are.
    """
    if by_operations() and not moments.synchronized:
        # Operations instead of the kernel, which keeps its weight, would let a compiler make weights anew in the
        # backward pass, from running statistics that have moved.
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    if by_operations():
        # A traced function of its own would read weights made from running statistics after these have moved.
        return _formula(x, moments.mean, moments.variance, weight, bias, eps).to(x.dtype)
    if moments.synchronized:
        y: Tensor = _OfAllRanks.apply(x, moments, weight, bias, eps)
    else:
        y = _OfOneRank.apply(x, moments, exact(weight), exact(bias), eps)
    return y


def _formula(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same as differentiable operations, in fp32 or better."""
    return affine(exact(x) - column(mean), column((variance + eps).rsqrt() * weight), column(bias))


class _OfOneRank(torch.autograd.Function):
    """torch's kernels for moments that are there; weight and bias in fp32 or better, as the moments are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, moments.mean, moments.variance, weight, bias)
        return F.batch_norm(x, moments.mean, moments.variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _second(grad, x, weight, bias, ctx.eps, sync=False)
        needed = [ctx.needs_input_grad[place] for place in (0, 2, 3)]
        dx, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, (variance + ctx.eps).rsqrt(), True, ctx.eps, needed
        )
        return dx, None, d_weight, d_bias, None


class _OfAllRanks(torch.autograd.Function):
    """(x - mean) * rstd * weight + bias, where mean and rstd depend on the x of all ranks.

    Backward, with g = dy, n = (x - mean) * rstd, M values in all and sums over them:
    dx = weight * rstd * (g - sum(g) / M - n * sum(g n) / M). Saves x, as torch's kernel does.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean, rstd = moments.mean, (moments.variance + eps).rsqrt()
        ctx.eps = eps
        ctx.save_for_backward(x, mean, rstd, moments.count, weight, bias)
        centred = exact(x) - column(mean)
        scaled = centred.mul_(column(rstd * weight)).add_(column(bias))
        return scaled.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, count, weight, bias = ctx.saved_tensors
        grad = exact(grad)
        if torch.is_grad_enabled():
            return _second(grad, x, weight, bias, ctx.eps, sync=True)
        normal = (exact(x) - column(mean)).mul_(column(rstd))
        sums = torch.cat((grad.sum(PER_CHANNEL), (grad * normal).sum(PER_CHANNEL)))
        grad_bias, grad_weight = sums.to(weight.dtype).chunk(2)
        if not ctx.needs_input_grad[0]:
            return None, None, grad_weight, grad_bias, None
        total = sums.clone()
        dist.all_reduce(total)
        mean_grad, mean_product = (total / count).chunk(2)
        spread = normal.mul_(column(mean_product)).add_(column(mean_grad))
        grad_x = (grad - spread).mul_(column(rstd * weight))
        return grad_x.to(x.dtype), None, grad_weight, grad_bias, None


def _second(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, sync: bool
) -> tuple[Tensor | None, ...]:
    """The gradients as functions that can be differentiated again."""
    inputs = (x, weight, bias)
    _, mean, variance = traced_moments(exact(x), sync=sync)
    y = _formula(x, mean, variance, weight, bias, eps)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True))
    dx, d_weight, d_bias = (next(found) if tensor.requires_grad else None for tensor in inputs)
    return dx, None, d_weight, d_bias, None
