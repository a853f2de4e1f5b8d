"""Where a trained network looks, and whether its answers hang on it."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from normhpc import models
from normhpc.posthoc.calibration import own_temperature
from normhpc.posthoc.faithfulness import Faithfulness, blurred, faithfulness
from normhpc.posthoc.gradcam import Maps, Place, grad_cam, place_of
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.pictures import grid, overlaid, shown
from normhpc.posthoc.subject import SEED, Subject

IMAGES = 64
SHOWN = 24
"""Images in the picture."""
FRESH = 4
"""Networks with fresh weights, whose maps show what an explanation is worth without learning."""
DRAWS, REACH = 10, 0.1
"""Of the sensitivity: how many disturbed images, and the most that a value changes, in normalized units."""
_BLOCK = 16

METHOD = (
    "Grad-CAM, in float64, of the first test images: alpha_k = mean over positions of dz_c/dA_k, z the logits, A "
    "the map at layer; ReLU(sum_k alpha_k A_k), bilinear to the image, divided by its maximum; maps that are all "
    "zero are counted and have no order but a random one. c: the class of the highest logit (also where images have "
    "several labels). Faithfulness: pixels are replaced by the mean pixel of the training images in 16 equal steps, "
    "most important first (MIF) or least important first (LIF), equal ones (to 1e-6) in a seeded random order. "
    "srg_retention = area of 1[highest logit unchanged] by LIF - by MIF, mean over images, with its standard error: "
    "does not change when logits are divided by a temperature. _blur: pixels are replaced by the blurred image "
    "instead. _random: a random order in place of the map. _fresh: maps of the same network with 4 draws of fresh "
    "weights, for the same class and judged by the trained network. _right: only images that the network is right "
    "about. deletion, insertion: areas of the probability of c, by the softmax or for several labels its sigmoid, at "
    "the temperature fitted on val (1 where none is), removing or adding the most important first; they measure "
    "confidence as much as explanation. "
    "sensitivity_max: mean over images of max over 10 uniform disturbances of at most 0.1 in normalized units of "
    "|map' - map| / |map|; a constant map would be best, so never read it alone."
)


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
    """Grad-CAM of the first images of ``test``, and numbers that say what it is worth."""
    test, model = subject.data.test, subject.model
    count = subject.count(IMAGES, len(test))
    rows = np.arange(count)
    temperature = own_temperature(subject) or 1.0
    images, labels = subject.normalized(test, rows)
    place = place_of(model, images[:2])
    generator = torch.Generator().manual_seed(SEED)
    parts: list[dict[str, NDArray[Any]]] = []
    starts = range(0, count, _BLOCK)
    # in float64: what rounding does to maps must not order pixels
    exact, fresh = copy.deepcopy(model).double(), _fresh(subject)
    grey = subject.grey()
    for start in subject.with_bar(starts, "saliency", len(starts)):
        block = images[start : start + _BLOCK]
        parts.append(
            _of_block(model, exact, fresh, place, block, grey, temperature, generator, multiple=subject.multiple)
        )
        if not subject.multiple:
            own = grad_cam(exact, place, block.double(), labels[start : start + _BLOCK])
            parts[-1] |= {"true_maps": own.values.cpu().numpy(), "true_zero": own.zero.cpu().numpy()}
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    right = np.ones(count, bool) if subject.multiple else found["predicted"] == labels.cpu().numpy()
    values = _summary(found, right)
    values |= {
        "layer": f"{place.side} of {place.name}",
        "zero_maps": int(found["zero"].sum()),
        "temperature": temperature,
    }
    if not subject.multiple:
        values["zero_maps_of_true_class"] = int(found["true_zero"].sum())
    maps: dict[str, NDArray[Any]] = {}
    for name in ("maps", "true_maps"):
        if name in found:
            maps[name] = found.pop(name).astype(np.float16)
    return Finding(
        method=METHOD,
        values=values,
        units={name: "area, -1 to 1" for name in values if name.startswith("srg")}
        | {"sensitivity_max": "share of the map's length", "zero_maps": "images"},
        n={"test_images": count, "right": int(right.sum()), "steps": 16, "draws": DRAWS},
        headline=(
            f"srg_retention {values['srg_retention']:.4f} +- {values['srg_retention_standard_error']:.2g} "
            f"(random order {values['srg_retention_random']:.4f}, fresh weights {values['srg_retention_fresh']:.4f}) "
            f"over {count} images, {values['zero_maps']} zero maps, {values['layer']}"
        ),
        arrays={"rows": rows, "right": right, **found, **maps},
        pictures={"": _picture(subject, found, maps)},
    )


def _of_block(
    model: nn.Module,
    exact: nn.Module,
    fresh: Sequence[nn.Module],
    place: Place,
    images: Tensor,
    grey: Tensor,
    temperature: float,
    generator: torch.Generator,
    *,
    multiple: bool,
) -> dict[str, NDArray[Any]]:
    """What is measured of each image of a block: ``exact`` is ``model`` in float64, as ``fresh`` are."""
    precise = images.double()
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
    maps = grad_cam(exact, place, precise, predicted)
    plain = grey.expand_as(images)
    soft = blurred(images, sigma=max(images.shape[2:]) / 8)
    nothing = torch.zeros_like(maps.values)
    unlearned = [
        faithfulness(model, images, grad_cam(network, place, precise, predicted).values, plain, generator)
        for network in fresh
    ]
    by_mean = faithfulness(model, images, maps.values, plain, generator, temperature, multiple=multiple)
    found: dict[str, NDArray[Any]] = {
        "maps": maps.values.cpu().numpy(),
        "zero": maps.zero.cpu().numpy(),
        "predicted": predicted.cpu().numpy(),
        **_named("", by_mean),
        **_named("_blur", faithfulness(model, images, maps.values, soft, generator, temperature, multiple=multiple)),
        **_named("_random", faithfulness(model, images, nothing, plain, generator, temperature, multiple=multiple)),
        "srg_retention_fresh": np.mean([one.srg_retention for one in unlearned], axis=0),
        "sensitivity_max": sensitivity_max(exact, place, precise, maps, predicted, generator),
    }
    return found


def _named(end: str, found: Faithfulness) -> dict[str, NDArray[Any]]:
    names = ("srg_retention", "srg_probability", "deletion", "insertion")
    return {f"{name}{end}": getattr(found, name) for name in names}


def _summary(found: dict[str, NDArray[Any]], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Means over images, the headline's with its standard error and over those that are right."""
    skipped = ("maps", "true_maps", "zero", "true_zero", "predicted")
    values: dict[str, Any] = {}
    for name, each in found.items():
        if name in skipped:
            continue
        told = each[np.isfinite(each)]
        values[name] = float(told.mean()) if len(told) else float("nan")
    each = found["srg_retention"]
    values["srg_retention_standard_error"] = (
        float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else float("nan")
    )
    values["srg_retention_right"] = float(each[right].mean()) if right.any() else float("nan")
    return values


def _fresh(subject: Subject) -> list[nn.Module]:
    """The network of the run, in float64, with weights that it might have started from: :data:`FRESH` of them."""
    config = subject.config
    if getattr(config.model, "weights", None) is not None:
        config = config.model_copy(update={"model": config.model.model_copy(update={"weights": None})})
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        return [models.build(config).to(subject.device).double().eval() for _ in range(FRESH)]


def _picture(subject: Subject, found: dict[str, NDArray[Any]], maps: dict[str, NDArray[Any]]) -> Image.Image:
    """Each image, with the map of the class it is taken for and that of its label."""
    count = min(SHOWN, len(found["predicted"]))
    stored = subject.pictures(subject.data.test, np.arange(count))
    names = dict(enumerate(subject.data.classes))
    pictures: list[Image.Image] = []
    captions: list[tuple[str, ...]] = []
    for row, pixels in enumerate(stored):
        pictures.append(shown(pixels))
        captions.append((f"test {row}",))
        titles = {"maps": names.get(int(found["predicted"][row]), str(found["predicted"][row]))}
        if "true_maps" in maps:
            titles["true_maps"] = names[int(subject.data.test.labels[row])]
        for name, title in titles.items():
            pictures.append(overlaid(pixels, _resized(maps[name][row], pixels.shape[:2])))
            captions.append((f"{'predicted' if name == 'maps' else 'true'}: {title}",))
    return grid(pictures, captions, columns=2 * (1 + len(maps)))


def _resized(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    """A map in the size of the stored image."""
    given = torch.from_numpy(values.astype(np.float32))[None, None]
    large: NDArray[np.float32] = F.interpolate(given, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return large
