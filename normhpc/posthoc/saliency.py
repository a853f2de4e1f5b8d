"""Where a trained network looks, and whether its answers hang on it."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc import models
from normhpc.errors import InputError
from normhpc.posthoc.calibration import own_temperature
from normhpc.posthoc.faithfulness import Faithfulness, blurred, faithfulness
from normhpc.posthoc.gradcam import Maps, Place, grad_cam, place_of
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.saliency_picture import picture_of
from normhpc.posthoc.subject import SEED, Subject
from normhpc.results.explained import limits_of, over_images

IMAGES = 64
FRESH = 4
"""Networks with fresh weights, whose maps show what an explanation is worth without learning."""
DRAWS, REACH = 10, 0.1
"""Of the sensitivity: how many disturbed images, and the most that a value changes, in normalized units."""
_BLOCK = 16

METHOD = (
    "Grad-CAM, in float64, of the first test images: alpha_k = mean over positions of dz_c/dA_k, z the logits, A "
    "the map at layer; ReLU(sum_k alpha_k A_k), bilinear to the image, divided by its maximum; maps that are all "
    "zero are counted and have no order but a random one. c: the class of the highest logit; where images have several "
    "labels there is a map for each label of the image, and numbers are over those that the network finds (logit >= 0). "
    "Faithfulness: pixels are replaced by the mean pixel of the training images in 16 equal steps, most important first "
    "(MIF) or least important first (LIF), equal ones (to 1e-6) in a seeded random order. srg_retention = area of "
    "1[answer unchanged] by LIF - by MIF, the answer being the class of the highest logit, or of several labels whether "
    "the logit of c is at least 0: does not change when logits are divided by a temperature. _low, _high: 95 % Student t "
    "interval of the mean over images, of several labels after a mean over those of each image. _blur: pixels are "
    "replaced by the blurred image instead. _random: a random order in place of the map. _fresh: maps of the same network "
    "with 4 draws of fresh weights, for the same class and judged by the trained network. _right: only images that the "
    "network is right about. deletion, insertion: areas of the probability of c, by the softmax or for several labels its "
    "sigmoid, at the temperature fitted on val (1 where none is), removing or adding the most important first; they "
    "measure confidence as much as explanation. "
    "sensitivity_max: mean over images, without those whose map is zero, of max over 10 uniform disturbances of at most "
    "0.1 in normalized units of |map' - map| / |map|; a constant map would be best, so never read it alone."
)


class Answers(NamedTuple):
    """What P maps explain."""

    rows: NDArray[np.int64]
    """(P,) images, ascending: each once, or of several labels once for each label that it has."""
    labels: Tensor
    """(P,) that label."""
    classes: Tensor
    """(P,) what the map speaks for: the class of the highest logit, or of several labels the label."""
    right: NDArray[np.bool_]
    """(P,) whether the network says what the label says."""
    counted: NDArray[np.bool_]
    """(P,) what means are over: the map of a label that the network does not find explains nothing that it says."""


def answers_to_explain(logits: Tensor, labels: Tensor) -> Answers:
    """Of ``logits`` (N, outputs) and ``labels`` (N,), or (N, K) of 0 and 1. None where no image has a label."""
    if labels.ndim == 1:
        classes = logits.argmax(dim=1)
        right = (classes == labels).cpu().numpy()
        return Answers(np.arange(len(labels)), labels, classes, right, np.ones_like(right))
    rows, classes = labels.nonzero(as_tuple=True)
    right = (logits[rows, classes] >= 0).cpu().numpy()
    return Answers(rows.cpu().numpy(), classes, classes, right, right)


def sensitivity_max(
    model: nn.Module, place: Place, images: Tensor, maps: Maps, classes: Tensor, generator: torch.Generator
) -> NDArray[np.float64]:
    """(N,) max over draws of |map(x + d) - map(x)| / |map(x)|, |d| at most :data:`REACH`; NaN for maps of zero."""
    norms = maps.values.flatten(1).norm(dim=1)
    most = torch.zeros_like(norms)
    for _ in range(DRAWS):
        noise = (torch.rand(images.shape, generator=generator) * 2 - 1) * REACH
        other = grad_cam(model, place, images + noise.to(images), classes)
        most = torch.maximum(most, (other.values - maps.values).flatten(1).norm(dim=1))
    found: NDArray[np.float64] = torch.where(maps.zero, torch.nan, most / norms).double().cpu().numpy()
    return found


def analyse(subject: Subject) -> Finding:
    """Grad-CAM of the first images of ``test``, and numbers that say what it is worth.

    Raises :class:`~normhpc.errors.InputError` when none of the images has a label.
    """
    test, model = subject.data.test, subject.model
    count = subject.count(IMAGES, len(test))
    temperature = own_temperature(subject) or 1.0
    images, labels = subject.normalized(test, np.arange(count))
    with torch.no_grad():
        logits = torch.cat([model(block) for block in torch.split(images, _BLOCK)])
    explained = answers_to_explain(logits, labels)
    if not len(explained.rows):
        raise InputError(f"saliency: expected labels, got none on the first {count} test images; use more --images")
    place = place_of(model, images[:2])
    measure = _Measure(
        model,
        copy.deepcopy(model).double(),
        _fresh(subject),
        place,
        subject.grey(),
        temperature,
        torch.Generator().manual_seed(SEED),
        subject.multiple,
    )
    parts: list[dict[str, NDArray[Any]]] = []
    starts = range(0, len(explained.rows), _BLOCK)
    for start in subject.with_bar(starts, "saliency", len(starts)):
        part = slice(start, start + _BLOCK)
        block = images[explained.rows[part]]
        parts.append(measure.block(block, explained.classes[part]))
        if not subject.multiple:
            own = grad_cam(measure.exact, place, block.double(), explained.labels[part])
            parts[-1] |= {"true_maps": own.values.cpu().numpy(), "true_zero": own.zero.cpu().numpy()}
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    maps: dict[str, NDArray[Any]] = {
        name: found.pop(name).astype(np.float16) for name in ("maps", "true_maps") if name in found
    }
    values, counts = _summary(found, explained)
    values |= {"layer": f"{place.side} of {place.name}", "temperature": temperature}
    arrays = {name: np.asarray(torch.as_tensor(part).cpu()) for name, part in explained._asdict().items()}
    picture, tiles = picture_of(subject, arrays, maps)
    return Finding(
        method=METHOD,
        values=values,
        units={name: "area, -1 to 1" for name in values if name.startswith("srg")}
        | {name: "share of the map's length" for name in values if name.startswith("sensitivity")}
        | {name: "maps" for name in values if name.startswith("zero")},
        n={"test_images": count, **counts, "steps": 16, "draws": DRAWS, "fresh_networks": FRESH},
        headline=(
            f"srg_retention {_told(values, 'srg_retention')} (random order {_told(values, 'srg_retention_random')}, "
            f"fresh weights {_told(values, 'srg_retention_fresh')}) over {counts['images']} images, "
            f"{values['zero_maps']} zero maps, {values['layer']}"
        ),
        arrays=arrays | found | maps,
        pictures={"": picture},
        tiles={"": tiles},
    )


class _Measure(NamedTuple):
    """What the maps of every block are measured with."""

    model: nn.Module
    exact: nn.Module
    """The same in float64: what rounding does to maps must not order pixels."""
    fresh: Sequence[nn.Module]
    """In float64 too."""
    place: Place
    grey: Tensor
    temperature: float
    generator: torch.Generator
    multiple: bool

    def block(self, images: Tensor, classes: Tensor) -> dict[str, NDArray[Any]]:
        """The maps of ``images`` (N, C, H, W) for ``classes`` (N,), and the numbers of each."""
        precise = images.double()
        maps = grad_cam(self.exact, self.place, precise, classes)
        grey, soft = self.grey.expand_as(images), blurred(images, sigma=max(images.shape[2:]) / 8)
        unlearned = [grad_cam(network, self.place, precise, classes).values for network in self.fresh]
        fresh = [self._judged(images, classes, values, grey) for values in unlearned]
        by_mean = self._judged(images, classes, maps.values, grey)
        return {
            "maps": maps.values.cpu().numpy(),
            "zero": maps.zero.cpu().numpy(),
            "retention_most_first": by_mean.most.retention.astype(np.uint8),
            "retention_least_first": by_mean.least.retention.astype(np.uint8),
            **_named("", by_mean),
            **_named("_blur", self._judged(images, classes, maps.values, soft)),
            **_named("_random", self._judged(images, classes, torch.zeros_like(maps.values), grey)),
            "srg_retention_fresh": np.mean([one.srg_retention for one in fresh], axis=0),
            "sensitivity_max": sensitivity_max(self.exact, self.place, precise, maps, classes, self.generator),
        }

    def _judged(self, images: Tensor, classes: Tensor, maps: Tensor, baseline: Tensor) -> Faithfulness:
        return faithfulness(
            self.model,
            images,
            maps,
            baseline,
            classes,
            self.generator,
            self.temperature,
            multiple=self.multiple,
        )


def _named(end: str, found: Faithfulness) -> dict[str, NDArray[Any]]:
    names = ("srg_retention", "srg_probability", "deletion", "insertion")
    return {f"{name}{end}": getattr(found, name) for name in names}


def _summary(found: dict[str, NDArray[Any]], explained: Answers) -> tuple[dict[str, Any], dict[str, int]]:
    """Means over images with their intervals, and how many images and maps they are over."""
    measured = {name: (each, explained.counted) for name, each in found.items() if each.dtype == np.float64}
    measured["srg_retention_right"] = (found["srg_retention"], explained.right)
    values: dict[str, Any] = {"zero_maps": int(found["zero"][explained.counted].sum())}
    if "true_zero" in found:
        values["zero_maps_of_true_class"] = int(found["true_zero"].sum())
    else:
        values["zero_maps_of_all_labels"] = int(found["zero"].sum())
    counts = {"maps": len(explained.rows), "right": int(explained.right.sum())}
    for name, (each, chosen) in measured.items():
        mean = over_images(each, explained.rows, chosen, limits=limits_of(name))
        values |= {name: mean and mean.mean, f"{name}_low": mean and mean.low, f"{name}_high": mean and mean.high}
        if name in ("srg_retention", "sensitivity_max"):
            counts["images" if name == "srg_retention" else f"images_of_{name}"] = mean.n if mean else 0
    return values, counts


def _told(values: dict[str, Any], name: str) -> str:
    """``0.3120 [0.2514, 0.3726]``, as far as there are numbers."""
    mean, low, high = (values[f"{name}{end}"] for end in ("", "_low", "_high"))
    if mean is None:
        return "-"
    return f"{mean:.4f}" if low is None else f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def _fresh(subject: Subject) -> list[nn.Module]:
    """The network of the run, in float64, with weights that it might have started from: :data:`FRESH` of them."""
    config = subject.config
    if getattr(config.model, "weights", None) is not None:
        config = config.model_copy(update={"model": config.model.model_copy(update={"weights": None})})
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        return [models.build(config).to(subject.device).double().eval() for _ in range(FRESH)]
