"""Whether the pixels that a map marks are those that a network's answer hangs on."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

STEPS = 16
RESOLUTION = 1e-6
"""Of the values of maps, which lie between 0 and 1."""

Answer = Callable[[Tensor], Tensor]
"""(N, C, H, W) images to (N, outputs) logits."""


class Curves(NamedTuple):
    """What is left of each answer when q/16 of the pixels are replaced, q = 0 ... 16."""

    retention: NDArray[np.float64]
    """(N, 17): 1 where the answer is still the same: the highest logit that of the same class, or of several labels
    the logit of the class on the same side of 0. Neither changes when logits are divided by a temperature."""
    probability: NDArray[np.float64]
    """(N, 17): probability of the class."""


def area(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under (..., 17) values by trapezoids, over fractions 0 to 1: (sum - first/2 - last/2) / 16."""
    total: NDArray[np.float64] = (curve.sum(axis=-1) - (curve[..., 0] + curve[..., -1]) / 2) / (curve.shape[-1] - 1)
    return total


def ranks(maps: Tensor, generator: torch.Generator) -> Tensor:
    """(N, H, W) places of the pixels, 0 the highest value of the map; equal values in a random order.

    Equal are values that round to the same multiple of :data:`RESOLUTION`: many pixels of an enlarged map are equal but
    for rounding, which must not order them.
    """
    flat = (maps.flatten(1).cpu() / RESOLUTION).round()
    shuffled = torch.rand(flat.shape, generator=generator).argsort(dim=1)
    by_value = flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    ordered = shuffled.gather(1, by_value)
    return ordered.argsort(dim=1).view(maps.shape).to(maps.device)


def removal(
    answer: Answer,
    images: Tensor,
    places: Tensor,
    baseline: Tensor,
    classes: Tensor,
    *,
    temperature: float,
    least_first: bool,
    multiple: bool = False,
) -> Curves:
    """Curves while pixels are replaced by those of ``baseline``, most important first, or ``least_first``.

    ``images`` and ``baseline`` are (N, C, H, W), ``places`` (N, H, W) as :func:`ranks` gives them, ``classes`` (N,) what
    the maps speak for. Probabilities are the softmax of the logits over ``temperature``, or with ``multiple`` labels the
    sigmoid of each.
    """
    pixels = places[0].numel()
    order = pixels - 1 - places if least_first else places
    retention, probability = [], []
    first: Tensor | None = None
    with torch.no_grad():
        for step in range(STEPS + 1):
            gone = order < round(step * pixels / STEPS)
            logits = answer(torch.where(gone[:, None], baseline, images)).float()
            said = logits.gather(1, classes[:, None])[:, 0] >= 0 if multiple else logits.argmax(dim=1)
            first = said if first is None else first
            retention.append((said == first).double())
            scaled = logits.double() / temperature
            shares = scaled.sigmoid() if multiple else scaled.softmax(dim=1)
            probability.append(shares.gather(1, classes[:, None])[:, 0])
    return Curves(*(torch.stack(part, dim=1).cpu().numpy() for part in (retention, probability)))


class Faithfulness(NamedTuple):
    """Curves of N images in both orders, and areas (N,) of them."""

    most: Curves
    """The most important pixels are replaced first."""
    least: Curves
    """The least important pixels are replaced first."""

    @property
    def srg_retention(self) -> NDArray[np.float64]:
        """Symmetric relevance gain: area of the retention, least important first, minus that of most important first."""
        return area(self.least.retention) - area(self.most.retention)

    @property
    def srg_probability(self) -> NDArray[np.float64]:
        """The same of the probability."""
        return area(self.least.probability) - area(self.most.probability)

    @property
    def deletion(self) -> NDArray[np.float64]:
        """Area of the probability, most important removed first."""
        return area(self.most.probability)

    @property
    def insertion(self) -> NDArray[np.float64]:
        """Area of the probability while the most important are put in first: that of least important removed first."""
        return area(self.least.probability)


def faithfulness(
    answer: Answer,
    images: Tensor,
    maps: Tensor,
    baseline: Tensor,
    classes: Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
    *,
    multiple: bool = False,
) -> Faithfulness:
    """Of ``maps`` (N, H, W) of ``images``; see :func:`removal`."""
    places = ranks(maps, generator)
    remove = partial(removal, answer, images, places, baseline, classes, temperature=temperature, multiple=multiple)
    return Faithfulness(remove(least_first=False), remove(least_first=True))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) images under a Gaussian of ``sigma`` pixels, cut at 3 sigma, edges repeated."""
    reach = min(int(3 * sigma + 0.5), *(side - 1 for side in images.shape[2:]))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    bell = torch.exp(-(offsets**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    channels = images.shape[1]
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, bell.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(across, bell.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
