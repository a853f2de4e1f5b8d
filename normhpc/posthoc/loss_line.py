"""The loss along straight lines through the weights of a trained network."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc.posthoc.curvature import Hessian, mode_of
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.subject import SEED, Subject, mean_loss

IMAGES = 1024
REACH, POINTS = 0.5, 21
LINES = 5
"""Random directions."""
_BATCH = 256

METHOD = (
    "Mean loss (cross entropy, or binary cross entropy as a mean over classes) over a fixed sample of training "
    "images without augmentation, in evaluation mode (running statistics stay), fp32, at w + t d, t from -0.5 to "
    "0.5. random: means over 5 lines, random_std their standard deviations (n - 1), d normal, seeded, scaled so "
    "that each filter (first index of a weight) is as long as that of w; 0 for biases and other vectors (Li et al. "
    "2018, arXiv:1712.09913), so t is the relative change of each filter. gradient: d = -g |w| / |g|, g the "
    "gradient of the same loss, so t is the relative change of w, downhill for t > 0."
)


def filter_normalized(weights: list[nn.Parameter], generator: torch.Generator) -> list[Tensor]:
    """A random direction with, for each filter, the length of the filter; zero for scalars and vectors."""
    direction = []
    for weight in weights:
        if weight.ndim < 2:
            direction.append(torch.zeros_like(weight))
            continue
        drawn = torch.randn(weight.shape, dtype=torch.float64, generator=generator).to(weight.device)
        lengths = [part.detach().double().flatten(1).norm(dim=1) for part in (weight, drawn)]
        scale = (lengths[0] / lengths[1]).view(-1, *(1,) * (weight.ndim - 1))
        direction.append((drawn * scale).to(weight.dtype))
    return direction


@torch.no_grad()
def losses_along(hessian: Hessian, direction: list[Tensor], distances: Iterable[float]) -> NDArray[np.float64]:
    """(T,) mean losses, one at each distance along ``direction``; the weights are as before afterwards, to the bit."""
    before = [weight.detach().clone() for weight in hessian.weights]
    found = []
    try:
        for distance in distances:
            for weight, start, step in zip(hessian.weights, before, direction, strict=True):
                weight.copy_(start + distance * step)
            losses = [
                float(hessian.loss(hessian.model(images), labels)) * len(images) for images, labels in hessian.batches
            ]
            found.append(sum(losses) / hessian.images)
    finally:
        for weight, start in zip(hessian.weights, before, strict=True):
            weight.copy_(start)
    return np.array(found)


def analyse(subject: Subject) -> Finding:
    """Losses along random directions and along the gradient."""
    train = subject.data.train
    rows = subject.sample(train, subject.count(IMAGES, len(train)))
    images, labels = subject.normalized(train, rows)
    parts = [(images[at : at + _BATCH], labels[at : at + _BATCH]) for at in range(0, len(rows), _BATCH)]
    distances = np.linspace(-REACH, REACH, POINTS)
    found: dict[str, NDArray[np.float64]] = {}
    with mode_of(subject.model, "eval"):
        line = Hessian(subject.model, parts, mean_loss)
        gradient = line.gradient()
        length = sum(float(weight.detach().double().square().sum()) for weight in line.weights) ** 0.5
        downhill = -gradient * (length / max(float(gradient.norm()), 1e-300))
        generator = torch.Generator().manual_seed(SEED)
        directions = {
            f"random line {number}": filter_normalized(line.weights, generator) for number in range(1, LINES + 1)
        }
        directions["gradient"] = [
            part.view_as(weight).to(weight.dtype)
            for part, weight in zip(line.by_tensor(downhill), line.weights, strict=True)
        ]
        for name, direction in directions.items():
            told = subject.with_bar(distances.tolist(), f"loss along the {name}", POINTS)
            found[name] = losses_along(line, direction, told)
    gradients = found.pop("gradient")
    lines = np.stack(list(found.values()))
    loss = float(gradients[POINTS // 2])
    rises = np.array([np.interp([-0.1, 0.1], distances, own).mean() - loss for own in lines])
    values = {
        "t": distances,
        "loss": loss,
        "random": lines.mean(axis=0),
        "random_std": lines.std(axis=0, ddof=1),
        "gradient": gradients,
        "random_rise_at_0.1": float(rises.mean()),
        "random_rise_at_0.1_std": float(rises.std(ddof=1)),
    }
    return Finding(
        method=METHOD,
        values=values,
        units=dict.fromkeys(values, "nats") | {"t": "relative change"},
        n={"train_images": len(rows), "points": POINTS, "random_lines": LINES},
        headline=(
            f"loss {loss:.4g}, rises by {rises.mean():.4g} (standard deviation {rises.std(ddof=1):.2g} over {LINES} "
            "random lines) at a relative change of 0.1"
        ),
        arrays={"rows": rows, "t": distances, "random": lines, "gradient": gradients},
    )
