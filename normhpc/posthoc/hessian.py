"""Curvature of the mean loss at the weights of a trained network, in both modes, with checks of itself."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc.config import RunConfig
from normhpc.config.training.optim import Sgd
from normhpc.posthoc.curvature import (
    Hessian,
    Mode,
    kept_buffers,
    lanczos,
    mode_of,
    quadrature,
    standard_error,
    trace_of,
)
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.subject import SEED, Subject, mean_loss

IMAGES = 1024
TOP = 5
"""Eigenvalues that are told."""
STEPS = 40
"""Of Lanczos for the ends of the spectrum."""
TRACE_VECTORS = 30
TRACE_SKETCH = 10
"""Vectors whose images span what Hutch++ computes without chance."""
DENSITY_VECTORS, DENSITY_STEPS = 10, 20
_PRODUCTS = 2 * STEPS + TRACE_VECTORS + 2 * TRACE_SKETCH + DENSITY_VECTORS * DENSITY_STEPS
SETTLED = 0.01
"""Largest residual, relative to its eigenvalue, of an eigenvalue that counts as found."""
_MODES: tuple[Mode, Mode] = ("eval", "train")

METHOD = (
    "H: second derivative of the mean loss (cross entropy, or binary cross entropy as a mean over classes; no "
    "smoothing, no weight decay) by all trainable weights, over a fixed sample of training images (rows in the "
    "arrays) without augmentation; products H v by two backward passes in fp32, Lanczos in float64. eval: running "
    "statistics. train: statistics of each batch of as many images as the run's update sees at once, H the mean "
    "over these batches, dropout off, running statistics put back after each product; where the network answers the "
    "same in both modes, train repeats eval (modes_differ). lambda_max, top, lambda_min: Lanczos, every vector made "
    "orthogonal to all others twice; residuals |Hu - theta u| / |theta| <= 0.01 count as settled. trace: Hutch++ "
    "(Meyer et al. 2021), tr(Q^T H Q) + mean of v^T (I - Q Q^T) H (I - Q Q^T) v, Q an orthonormal basis of the "
    "images of 10 random vectors, v 30 Rademacher vectors, with the standard error of that mean. trace_hutchinson: "
    "mean of v^T H v over the same v, with its own. density: stochastic Lanczos quadrature, bells of a hundredth of "
    "the range. seed_trace: (1/k) sum_i sum_l |v_il^T (H v_i)_l| over tensors l, the number that an earlier study "
    "printed as the trace: an estimate of no trace. Networks whose norms make them scale-invariant can have any "
    "lambda_max by the scale of their weights alone; lambda_max_times_squared_norm = lambda_max |w|^2, w all "
    "trainable weights, does not change when all of w is scaled. lambda_max_scale_free: largest eigenvalue of D H D over "
    "the tensors whose doubling changes no output (scale_invariant), D the length of each: the same whatever the "
    "scale of any of them; share: the part of each in the eigenvector. lambda_max_times_lr: with the peak of the learning "
    "rate, for SGD alone; with momentum b the rate of gradient descent with the same limit, lr / (1 + b) (Nesterov: "
    "lr (1 + 2b) / (1 + b)). Above 2 a quadratic loss of that curvature would grow at that rate."
)


def measured(
    hessian: Hessian, *, seed: int = SEED, steps: int = STEPS
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Numbers and arrays of one Hessian: ends of the spectrum, trace, density, and checks among them."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(hessian.size, dtype=torch.float64, generator=generator).to(hessian.device)
    ends = lanczos(hessian, start, steps)
    top, residuals = ends.values[::-1][:TOP], ends.residuals[::-1][:TOP]
    trace = trace_of(hessian, TRACE_VECTORS, TRACE_SKETCH, generator)
    nodes = quadrature(hessian, DENSITY_VECTORS, DENSITY_STEPS, generator)
    free = scale_free(hessian, start, steps)
    size = hessian.size
    first, second = size * nodes.moments(1), size * nodes.moments(2)
    squared_norm = sum(float(weight.detach().double().square().sum()) for weight in hessian.weights)
    values = {
        "lambda_max": top[0],
        "top": top,
        "top_relative_residuals": residuals / np.abs(top),
        "lambda_min": ends.values[0],
        "lambda_min_relative_residual": ends.residuals[0] / abs(ends.values[0]),
        "trace": trace.mean,
        "trace_standard_error": trace.standard_error,
        "trace_hutchinson": trace.hutchinson,
        "trace_hutchinson_standard_error": trace.hutchinson_standard_error,
        "trace_from_density": first.mean(),
        "trace_from_density_standard_error": standard_error(first),
        "frobenius": second.mean() ** 0.5,
        "seed_trace": trace.seed_trace,
        "seed_trace_per_weight": trace.seed_trace / size,
        "squared_norm": squared_norm,
        "lambda_max_times_squared_norm": top[0] * squared_norm,
        **free,
        "gradient_norm": float(hessian.gradient().norm()),
        "products": hessian.products,
    }
    values["checks"] = checks(values, size, standard_error(second))
    values["checks_failed"] = [name for name, holds in values["checks"].items() if not holds]
    grid, density = nodes.density()
    arrays = {
        "ritz_values": ends.values,
        "ritz_residuals": ends.residuals,
        "density_grid": grid,
        "density": density,
        "nodes": np.concatenate(nodes.values),
        "node_weights": np.concatenate(nodes.weights) / len(nodes.weights),
    }
    return values, arrays


def scale_free(hessian: Hessian, start: Tensor, steps: int) -> dict[str, Any]:
    """The largest eigenvalue of D H D over the scale-invariant tensors of weights, and what part each has in it.

    D multiplies each tensor by its length, so that a step counts relative to it: the number stays where any of these
    tensors is scaled by itself, as none of the loss's own does. Of one tensor it is lambda_max |w|^2 of its block of H.
    ``share``: squared length of the eigenvector's part in each, together 1. None and empty without such tensors.
    """
    places = hessian.scale_invariant()
    lengths = {place: hessian.weights[place].detach().double().norm() for place in places.values()}
    if not any(length > 0 for length in lengths.values()):
        return {"lambda_max_scale_free": None, "lambda_max_scale_free_relative_residual": None, "scale_invariant": []}
    scale = torch.cat(
        [lengths.get(place, torch.zeros(())).to(start).expand(size) for place, size in enumerate(hessian.sizes)]
    )
    ends = lanczos(lambda vector: scale * hessian(scale * vector), start * (scale > 0), steps)
    top = hessian.by_tensor(ends.basis.T @ torch.from_numpy(ends.vectors[:, -1]).to(ends.basis))
    told = [
        {"weight": name, "squared_norm": float(lengths[place] ** 2), "share": float(top[place].square().sum())}
        for name, place in places.items()
    ]
    return {
        "lambda_max_scale_free": ends.values[-1],
        "lambda_max_scale_free_relative_residual": ends.residuals[-1] / abs(ends.values[-1])
        if ends.values[-1]
        else None,
        "scale_invariant": told,
    }


def checks(values: Mapping[str, Any], size: int, squared_frobenius_error: float) -> dict[str, bool]:
    """Whether numbers found in different ways agree.

    traces: that of Hutch++ and that of the density within 3 standard errors of both. largest: lambda_max^2 at most |H|_F^2
    and 3 of its standard errors. order: trace >= lambda_max + (P - 1) lambda_min, less 3 standard errors. settled:
    residuals of lambda_max and lambda_min are small.
    """
    own, other = values["trace_standard_error"], values["trace_from_density_standard_error"]
    least = values["lambda_max"] + (size - 1) * values["lambda_min"]
    ends = (values["top_relative_residuals"][0], values["lambda_min_relative_residual"])
    return {
        "traces": bool(abs(values["trace"] - values["trace_from_density"]) <= 3 * np.hypot(own, other)),
        "largest": bool(values["lambda_max"] ** 2 <= values["frobenius"] ** 2 + 3 * squared_frobenius_error),
        "order": bool(values["trace"] >= least - 3 * own),
        "settled": bool(max(ends) <= SETTLED),
    }


def eval_batch(device: torch.device) -> int:
    """Images in a pass of evaluation mode, where their number changes nothing but the time.

    On a processor few: twice the time goes by with 512, whose tensors are fresh pages every time.
    """
    return 256 if device.type == "cuda" else 64


def stability_rate(config: RunConfig) -> float | None:
    """The rate of plain gradient descent that is stable up to the same curvature as the run's SGD at its peak rate.

    On a quadratic loss gradient descent of rate r diverges where the curvature is above 2/r, with momentum b above
    (2 + 2b)/r, with Nesterov's above (2 + 2b)/(r (1 + 2b)) (Cohen et al. 2021, arXiv:2103.00065). None for other
    optimizers, whose limit is one of their preconditioned Hessian.
    """
    optim = config.optim
    if not isinstance(optim, Sgd):
        return None
    rate = optim.lr * (config.batch_size / optim.lr_batch_size if optim.lr_batch_size else 1)
    return rate * (1 + 2 * optim.momentum if optim.nesterov else 1) / (1 + optim.momentum)


def modes_differ(model: nn.Module, images: Tensor, batch: int) -> bool:
    """Whether ``model`` answers batches of ``images`` (N, C, H, W) otherwise in training than in evaluation mode."""
    with torch.no_grad():
        for at in range(0, len(images), batch):
            block = images[at : at + batch]
            answers = []
            for mode in _MODES:
                with mode_of(model, mode), kept_buffers(model):
                    answers.append(model(block))
            if not torch.equal(*answers):
                return True
    return False


@contextmanager
def in_nchw(model: nn.Module) -> Iterator[None]:
    """Weights of ``model`` in memory as NCHW, for which second backward passes are up to 1.7 times as fast on a processor."""
    # kept as they are: one with a single column, say, lies in both ways, and kernels are chosen by its strides
    before = {weight: weight.data for weight in model.parameters() if weight.ndim == 4}
    model.to(memory_format=torch.contiguous_format)
    try:
        yield
    finally:
        for weight, data in before.items():
            weight.data = data


def analyse(subject: Subject) -> Finding:
    """Curvature over a sample of ``train`` in evaluation and in training mode."""
    with in_nchw(subject.model):
        return _in_both_modes(subject)


def _in_both_modes(subject: Subject) -> Finding:
    train = subject.data.train
    update = max(1, subject.config.batch_size // subject.config.optim.accumulate)
    count = subject.count(IMAGES, len(train))
    if count > update:
        count = count // update * update  # both modes see the same images
    rows = subject.sample(train, count)
    images, labels = subject.normalized(train, rows)
    images = images.contiguous()
    values: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {"rows": rows}
    modes: tuple[tuple[Mode, int], ...] = (("eval", eval_batch(subject.device)), ("train", update))
    sees_batches = modes_differ(subject.model, images, update)
    size = 0
    for mode, batch in modes:
        if mode == "train" and not sees_batches:
            values["train"] = dict(values["eval"])
            continue
        parts = [(images[at : at + batch], labels[at : at + batch]) for at in range(0, count, batch)]
        bar = subject.with_bar(range(_PRODUCTS), f"curvature, {mode}", _PRODUCTS)
        with closing(bar), mode_of(subject.model, mode):
            hessian = Hessian(subject.model, parts, mean_loss, tell=partial(next, bar, None))
            values[mode], found = measured(hessian)
        rate = stability_rate(subject.config)
        values[mode]["lambda_max_times_lr"] = None if rate is None else values[mode]["lambda_max"] * rate
        size = hessian.size
        arrays |= {f"{mode}_{name}": array for name, array in found.items()}
    values["train"]["batch_images"] = min(update, count)
    values["modes_differ"] = sees_batches
    return Finding(
        method=METHOD,
        values=values,
        units={
            "lambda_max": "nats per squared weight",
            "trace": "nats per squared weight, summed over the weights",
            "trace_hutchinson": "nats per squared weight, summed over the weights",
            "lambda_max_times_squared_norm": "nats",
            "lambda_max_scale_free": "nats",
            "lambda_max_times_lr": "1",
            "seed_trace_per_weight": "nats per squared weight",
        },
        n={
            "train_images": count,
            "weights": size,
            "lanczos_steps": STEPS,
            "trace_vectors": TRACE_VECTORS,
            "trace_sketch": TRACE_SKETCH,
            "density_vectors": DENSITY_VECTORS,
            "density_steps": DENSITY_STEPS,
        },
        headline="; ".join(headline(mode, values[mode]) for mode, _ in modes),
        arrays=arrays,
    )


def headline(mode: str, values: Mapping[str, Any]) -> str:
    """What is told of one mode: the numbers with their errors, and the names of checks that failed."""
    failed = values["checks_failed"]
    told = f"checks failed: {', '.join(failed)}" if failed else "checks hold"
    return (
        f"{mode} lambda_max {values['lambda_max']:.4g}, "
        f"trace {values['trace']:.4g} +- {values['trace_standard_error']:.2g} by Hutch++ "
        f"({values['trace_hutchinson']:.4g} +- {values['trace_hutchinson_standard_error']:.2g} by Hutchinson), {told}"
    )
