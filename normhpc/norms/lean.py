"""Layers written as one formula, that keep their input and nothing else for the backward pass.

Autograd keeps every intermediate tensor of an eager formula, three to eight times the input, and every step of the
formula goes through memory. Here a layer is a function of a few whole images at a time, and a backward pass computes
again what it needs. On CPUs the images are taken in blocks that stay in a core's cache, so that one pass through
memory serves the whole formula; on GPUs they fill one. Under ``torch.compile``, which fuses and recomputes
by itself, the formula is called as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from normhpc.norms.moments import POSITIONS, Moments, blocks, column, exact, traced_moments

Formula = Callable[..., Tensor]
"""(x, *parameters) to y, x being any number of whole images in fp32 or better; differentiable."""
Gradient = Callable[..., tuple[Tensor, ...]]
"""(dL/dy, x, *parameters) to dL/dx and dL/dparameter of each, the closed form of a :data:`Formula`."""

Coefficients = Callable[..., tuple[Tensor, Tensor]]
"""(mean, variance, *parameters) to scale and level, see :func:`planewise`."""


def per_image(formula: Formula, x: Tensor, *parameters: Tensor, gradient: Gradient | None = None) -> Tensor:
    """``formula(x, *parameters)`` for a formula in which images do not see each other.

    x (N, C, H, W) of any floating type gives the same shape, type and memory format. Without ``gradient`` the
    backward pass differentiates the formula block by block. Second derivatives work.
    """
    if torch.compiler.is_compiling():
        return formula(exact(x), *parameters).to(x.dtype)
    y: Tensor = _PerImage.apply(formula, gradient, x, *parameters)
    return y


def over_batch(
    formula: Formula, x: Tensor, moments: Moments, *parameters: Tensor, gradient: Gradient | None = None
) -> Tensor:
    """``formula(x, mean, variance, *parameters)``, with the mean and biased variance (C,) of the batch.

    ``moments`` are those of x, from :func:`~normhpc.norms.moments.batch_moments`; they are differentiated through as
    functions of x, of all ranks' x where they were taken over ranks. Otherwise as :func:`per_image`.
    """
    if torch.compiler.is_compiling():
        mean, variance = traced_moments(exact(x), sync=moments.synchronized)
        return formula(exact(x), mean, variance, *parameters).to(x.dtype)
    y: Tensor = _OverBatch.apply(
        formula, gradient, x, moments.mean, moments.variance, moments.count, moments.synchronized, *parameters
    )
    return y


def planewise(coefficients: Coefficients) -> tuple[Formula, Gradient]:
    """The formula y = (x - m) P + Q and its gradient, P and Q being functions of each plane's mean m and variance.

    ``coefficients(mean, variance, *parameters)`` gives P and Q, all of shape (N, C, 1, 1), and must be differentiable;
    it is small, so that autograd does it. What remains for x: with S1 = sum of g (x - m) and S0 = sum of g over the
    plane, which are dL/dP and dL/dQ, and dm and dv what they become of m and the variance,
    dx = P g + (dm - P S0) / positions + 2 (x - m) dv / positions.
    """

    def formula(x: Tensor, *parameters: Tensor) -> Tensor:
        mean, centred, variance = _plane(x)
        scale, level = coefficients(mean, variance, *parameters)
        return torch.addcmul(level, centred, scale)

    def gradient(grad: Tensor, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        mean, centred, variance = _plane(x)
        leaves = [tensor.detach().requires_grad_() for tensor in (mean, variance, *parameters)]
        with torch.enable_grad():
            scale, level = (part.expand_as(mean) for part in coefficients(*leaves))
        d_level = grad.sum(POSITIONS, keepdim=True)
        d_scale = (grad * centred).sum(POSITIONS, keepdim=True)
        of = [(part, through) for part, through in ((scale, d_scale), (level, d_level)) if part.requires_grad]
        outputs, through = zip(*of, strict=True)
        d_mean, d_variance, *sums = torch.autograd.grad(
            outputs, leaves, through, allow_unused=True, materialize_grads=True
        )
        positions = x.shape[2] * x.shape[3]
        d_mean = (d_mean - scale.detach() * d_level) / positions
        dx = torch.addcmul(d_mean, grad, scale.detach()).addcmul_(centred, d_variance * (2 / positions))
        return dx, *sums

    return formula, gradient


def _plane(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (N, C, 1, 1), x less its mean, and biased variance (N, C, 1, 1) of each plane."""
    mean = x.mean(POSITIONS, keepdim=True)
    centred = x - mean
    return mean, centred, centred.square().mean(POSITIONS, keepdim=True)


class _PerImage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, formula: Formula, gradient: Gradient | None, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.formula, ctx.gradient = formula, gradient
        ctx.save_for_backward(x, *parameters)
        return _blockwise(formula, x, parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = [tensor for tensor in (x, *parameters) if tensor.requires_grad]
            y = ctx.formula(exact(x), *parameters)
            found = torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True, allow_unused=True)
            return None, None, *_spread(found, wanted, (x, *parameters))
        gradient = ctx.gradient or _differentiated(ctx.formula)
        dx, sums = _gradients(gradient, grad, x, parameters)
        return None, None, dx, *_as_parameters(sums, parameters)


class _OverBatch(torch.autograd.Function):
    """With dm and dv the gradients of the formula by mean and variance, summed over the batch of M values a channel:
    dx = (formula's own) + dm / M + 2 (x - mean) dv / M.
    """

    @staticmethod
    def forward(
        ctx: Any,
        formula: Formula,
        gradient: Gradient | None,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        synchronized: bool,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.formula, ctx.gradient, ctx.synchronized = formula, gradient, synchronized
        ctx.save_for_backward(x, mean, variance, count, *parameters)
        return _blockwise(formula, x, (mean, variance, *parameters))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, count, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = [tensor for tensor in (x, *parameters) if tensor.requires_grad]
            y = ctx.formula(exact(x), *traced_moments(exact(x), sync=ctx.synchronized), *parameters)
            found = torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True, allow_unused=True)
            dx, *rest = _spread(found, wanted, (x, *parameters))
            return None, None, dx, None, None, None, None, *rest
        gradient = ctx.gradient or _differentiated(ctx.formula)
        dx, (dmean, dvariance, *sums) = _gradients(gradient, grad, x, (mean, variance, *parameters), exact_dx=True)
        if ctx.synchronized:
            through = torch.cat((dmean, dvariance))
            dist.all_reduce(through)
            dmean, dvariance = through.chunk(2)
        slope, level = column(2 * dvariance / count), column((dmean - 2 * dvariance * mean) / count)
        for block in blocks(x):
            dx[block] += torch.addcmul(level, exact(x[block]), slope)
        return None, None, dx.to(x.dtype), None, None, None, None, *_as_parameters(sums, parameters)


def _blockwise(formula: Formula, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    y = torch.empty_like(x)
    with torch.autocast(x.device.type, enabled=False):
        for block in blocks(x):
            y[block] = formula(exact(x[block]), *parameters)
    return y


def _gradients(
    gradient: Gradient, grad: Tensor, x: Tensor, parameters: Sequence[Tensor], *, exact_dx: bool = False
) -> tuple[Tensor, list[Tensor]]:
    # in fp32 or better, since what is added up or added to later would otherwise be rounded each time
    dx = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32) if exact_dx else x.dtype)
    sums = [
        torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
        for parameter in parameters
    ]
    with torch.autocast(x.device.type, enabled=False):
        for block in blocks(x):
            part, *rest = gradient(exact(grad[block]), exact(x[block]), *parameters)
            dx[block] = part
            for total, share in zip(sums, rest, strict=True):
                total += share
    return dx, sums


def _differentiated(formula: Formula) -> Gradient:
    """The gradient of ``formula`` by autograd, which keeps the intermediate tensors of one block at a time."""

    def gradient(grad: Tensor, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in (x, *parameters)]
        with torch.enable_grad():
            y = formula(*leaves)
        found = torch.autograd.grad(y, leaves, grad, allow_unused=True, materialize_grads=True)
        return tuple(found)

    return gradient


def _as_parameters(sums: Sequence[Tensor], parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    return (total.to(parameter.dtype) for total, parameter in zip(sums, parameters, strict=True))


def _spread(found: Sequence[Tensor | None], wanted: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor | None]:
    """``found``, one for each of ``wanted``, at the places of those among ``places``."""
    by_identity = {id(tensor): gradient for tensor, gradient in zip(wanted, found, strict=True)}
    return [by_identity.get(id(tensor)) for tensor in places]
