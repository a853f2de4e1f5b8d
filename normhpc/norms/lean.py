"""Layers written as one formula, that keep their input and nothing else for the backward pass.

Autograd keeps every intermediate tensor of an eager formula, three to eight times the input, and every step of the
formula goes through memory. Here a layer is a function of a few whole images at a time, and a backward pass computes
again what it needs. On CPUs the images are taken in blocks that stay in a core's cache, so that one pass through
memory serves the whole formula; on GPUs they fill one. Under ``torch.compile`` and in transforms of ``torch.func`` the
formula is called as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from normhpc.norms.moments import POSITIONS, Moments, affine, blocks, column, exact, traced_moments
from normhpc.norms.slot import memory_format_of
from normhpc.norms.tracing import by_operations

Formula = Callable[..., Tensor]
"""(x, *parameters) to y, x being any number of whole images in fp32 or better; differentiable."""
Gradient = Callable[..., tuple[Tensor | None, ...]]
"""(dL/dy, x, *parameters) to dL/dx and dL/dparameter of each, the closed form of a :data:`Formula`; None where a gradient
is not wanted and would cost something."""

Coefficients = Callable[..., tuple[Tensor, Tensor]]
"""(mean, variance, *parameters) to scale and level, see :func:`planewise`."""


def per_image(formula: Formula, x: Tensor, *parameters: Tensor, gradient: Gradient | None = None) -> Tensor:
    """``formula(x, *parameters)`` for a formula in which images do not see each other.

    x (N, C, H, W) of any floating type gives the same shape, type and memory format. Without ``gradient`` the
    backward pass differentiates the formula block by block. Second derivatives work.
    """
    if by_operations():
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
    if by_operations():
        return formula(exact(x), moments.mean, moments.variance, *parameters).to(x.dtype)
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
        return affine(centred, scale, level)

    def gradient(grad: Tensor, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        mean, centred, variance = _plane(x)
        leaves = [tensor.detach().requires_grad_() for tensor in (mean, variance, *parameters)]
        with torch.enable_grad():
            scale, level = (part.expand_as(mean) for part in coefficients(*leaves))
        d_level = grad.sum(POSITIONS, keepdim=True)
        d_scale = (grad * centred).sum(POSITIONS, keepdim=True)
        of = [(part, through) for part, through in ((scale, d_scale), (level, d_level)) if part.requires_grad]
        d_mean, d_variance, *sums = _pulled_back(of, leaves)
        positions = x.shape[2] * x.shape[3]
        d_mean = (d_mean - scale.detach() * d_level) / positions
        dx = affine(grad, scale.detach(), d_mean).addcmul_(centred, d_variance * (2 / positions))
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
        needed = ctx.needs_input_grad[2:]
        gradient = ctx.gradient or _differentiated(ctx.formula, needed)
        dx, *sums = _gradients(gradient, grad, x, parameters, needed, dx_dtype=x.dtype)
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
            _, mean, variance = traced_moments(exact(x), sync=ctx.synchronized)
            y = ctx.formula(exact(x), mean, variance, *parameters)
            found = torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True, allow_unused=True)
            dx, *rest = _spread(found, wanted, (x, *parameters))
            return None, None, dx, None, None, None, None, *rest
        of_x, of_parameters = ctx.needs_input_grad[2], ctx.needs_input_grad[7:]
        needed = (of_x, of_x, of_x, *of_parameters)  # mean and variance are functions of x
        gradient = ctx.gradient or _differentiated(ctx.formula, needed)
        # dx in fp32 or better, since what is added to later would otherwise be rounded twice
        dx_dtype = torch.promote_types(x.dtype, torch.float32)
        dx, dmean, dvariance, *sums = _gradients(
            gradient, grad, x, (mean, variance, *parameters), needed, dx_dtype=dx_dtype
        )
        if dx is not None and dmean is not None and dvariance is not None:
            if ctx.synchronized:
                through = torch.cat((dmean, dvariance))
                dist.all_reduce(through)
                dmean, dvariance = through.chunk(2)
            slope, level = column(2 * dvariance / count), column((dmean - 2 * dvariance * mean) / count)
            for block in blocks(x):
                dx[block].add_(affine(exact(x[block]), slope, level))
            dx = dx.to(x.dtype)
        return None, None, dx, None, None, None, None, *_as_parameters(sums, parameters)


def _blockwise(formula: Formula, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    parts = list(blocks(x))
    with torch.autocast(x.device.type, enabled=False):
        if len(parts) == 1:
            return _own(formula(exact(x), *parameters), x.dtype, x)
        y = torch.empty_like(x)
        for block in parts:
            y[block] = formula(exact(x[block]), *parameters)
    return y


def _gradients(
    gradient: Gradient,
    grad: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    wanted: Sequence[bool],
    *,
    dx_dtype: torch.dtype,
) -> list[Tensor | None]:
    """The gradients by x and each of ``parameters``, None where not ``wanted``; sums in fp32 or better."""
    parts = list(blocks(x))
    with torch.autocast(x.device.type, enabled=False):
        if len(parts) == 1:
            first, *sums = gradient(exact(grad), exact(x), *parameters)
            return [
                _own(first, dx_dtype, x, grad) if wanted[0] and first is not None else None,
                *(total if needed else None for total, needed in zip(sums, wanted[1:], strict=True)),
            ]
        dx = torch.empty_like(x, dtype=dx_dtype) if wanted[0] else None
        totals = [
            torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32)) if needed else None
            for parameter, needed in zip(parameters, wanted[1:], strict=True)
        ]
        for block in parts:
            part, *shares = gradient(exact(grad[block]), exact(x[block]), *parameters)
            if dx is not None and part is not None:
                dx[block] = part
            for total, share in zip(totals, shares, strict=True):
                if total is not None and share is not None:
                    total += share
    return [dx, *totals]


def _own(value: Tensor, dtype: torch.dtype, x: Tensor, *others: Tensor) -> Tensor:
    """``value`` in this type and the memory format of x, a copy where it is x or one of ``others`` still."""
    value = value.to(dtype).contiguous(memory_format=memory_format_of(x))
    return value.clone() if value.data_ptr() in (other.data_ptr() for other in (x, *others)) else value


def _differentiated(formula: Formula, wanted: Sequence[bool]) -> Gradient:
    """The gradient of ``formula`` by autograd, which keeps the intermediate tensors of one block at a time."""

    def gradient(grad: Tensor, x: Tensor, *parameters: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [
            tensor.detach().requires_grad_(needed) for tensor, needed in zip((x, *parameters), wanted, strict=True)
        ]
        with torch.enable_grad():
            y = formula(*inputs)
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        if not y.requires_grad:
            return tuple(torch.zeros_like(tensor) if tensor.requires_grad else None for tensor in inputs)
        return tuple(_spread(_pulled_back([(y, grad)], leaves), leaves, inputs))

    return gradient


def _pulled_back(pairs: Sequence[tuple[Tensor, Tensor]], leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    """The gradients by ``leaves`` of the sum of all products y g of ``pairs`` (y, g)."""
    with torch.enable_grad():
        start = _Start.apply(len(pairs), *(y for y, _ in pairs), *(g for _, g in pairs))
    return torch.autograd.grad(start, leaves, allow_unused=True, materialize_grads=True)


class _Start(torch.autograd.Function):
    """A number whose gradient by each y is the g that goes with it.

    In place of gradients to start from, for which torch would import sympy: seconds of every run.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *ys_and_gs: Tensor) -> Tensor:
        ctx.save_for_backward(*ys_and_gs[count:])
        return ys_and_gs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return None, *gradients, *(None for _ in gradients)


def _as_parameters(sums: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Iterator[Tensor | None]:
    return (
        None if total is None else total.to(parameter.dtype) for total, parameter in zip(sums, parameters, strict=True)
    )


def _spread(found: Sequence[Tensor | None], wanted: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor | None]:
    """``found``, one for each of ``wanted``, at the places of those among ``places``."""
    by_identity = {id(tensor): gradient for tensor, gradient in zip(wanted, found, strict=True)}
    return [by_identity.get(id(tensor)) for tensor in places]
