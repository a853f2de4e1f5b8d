"""How much worse a trained network is on images that are noisy, blurred, pale or too bright."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from normhpc.data import in_memory
from normhpc.errors import InputError
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.subject import SEED, Subject

SEVERITIES: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
}
"""Strengths at severities 1 to 5: those of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261)."""

METHOD = (
    "The stored bytes of the first test images, as values x in 0..1, are changed with the strengths c of "
    "CIFAR-10-C, cut to 0..1, and rounded down to bytes as there; the network then sees them as it sees test "
    "images. gaussian_noise: x + c N(0, 1), seeded. gaussian_blur: standard deviation of c pixels, edges repeated. "
    "contrast: m + c (x - m), m the mean of each channel of the image. brightness: c is added to the value of hue, "
    "saturation, value. error: share of images that are wrong; of images of several labels 1 - average precision, "
    "macro over classes that have labels. mean_corruption_error: mean over corruptions of the mean over severities, "
    "not divided by a reference network's. relative: minus the clean error."
)


def gaussian_noise(values: NDArray[np.float64], strength: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """x + c N(0, 1)."""
    noisy: NDArray[np.float64] = values + strength * generator.standard_normal(values.shape)
    return noisy


def gaussian_blur(values: NDArray[np.float64], strength: float, _: np.random.Generator) -> NDArray[np.float64]:
    """A Gaussian of ``strength`` pixels over height and width, cut at 4 of them."""
    blurred: NDArray[np.float64] = gaussian_filter(values, (0, strength, strength, 0), mode="nearest", truncate=4.0)
    return blurred


def contrast(values: NDArray[np.float64], strength: float, _: np.random.Generator) -> NDArray[np.float64]:
    """m + c (x - m), m the mean of each channel of each image."""
    mean = values.mean(axis=(1, 2), keepdims=True)
    paler: NDArray[np.float64] = mean + strength * (values - mean)
    return paler


def brightness(values: NDArray[np.float64], strength: float, _: np.random.Generator) -> NDArray[np.float64]:
    """The largest channel v becomes min(v + c, 1), the others keep their share of it: hue and saturation stay."""
    largest = values.max(axis=3, keepdims=True)
    brighter = np.minimum(largest + strength, 1.0)
    share = np.divide(values, largest, out=np.ones_like(values), where=largest > 0)
    found: NDArray[np.float64] = share * brighter
    return found


CORRUPTIONS: dict[str, Callable[[NDArray[np.float64], float, np.random.Generator], NDArray[np.float64]]] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
    "brightness": brightness,
}
"""(N, H, W, C) values in 0..1, strength and generator to values that may lie outside."""

_BLOCK = 1000


def corrupted(pixels: NDArray[np.uint8], name: str, severity: int, seed: int = SEED) -> NDArray[np.uint8]:
    """``pixels`` (N, H, W, C) under a corruption at ``severity`` 1 to 5; what a row becomes does not depend on N."""
    generator = np.random.default_rng([seed, severity])
    changed = np.empty_like(pixels)
    for start in range(0, len(pixels), _BLOCK):
        block = pixels[start : start + _BLOCK] / 255.0
        values = CORRUPTIONS[name](block, SEVERITIES[name][severity - 1], generator)
        changed[start : start + _BLOCK] = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return changed


def error_of(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Share of images that are wrong, for labels (N,); 1 - macro average precision for labels (N, K)."""
    if labels.ndim == 1:
        return float((logits.argmax(axis=1) != labels).mean())
    present = labels.sum(axis=0) > 0
    return 1 - float(
        average_precision_score(labels[:, present], logits[:, : labels.shape[1]][:, present], average="macro")
    )


def analyse(subject: Subject) -> Finding:
    """Error on ``test`` under four corruptions at five severities."""
    test = subject.data.test
    count = subject.count(len(test), len(test))
    chosen = in_memory(test, np.arange(count))
    pixels, labels = chosen.images.numpy(), chosen.labels.numpy().astype(np.int64)
    if pixels.dtype != np.uint8:
        raise InputError(
            f"{subject.folder.path}: corruptions are those of images of 8 bits, these have more; leave corruption out"
        )

    def error(images: NDArray[np.uint8]) -> float:
        return error_of(torch.cat(list(subject.network.logits(images))).numpy(), labels)

    clean = error(pixels)
    cases = [(name, severity) for name in CORRUPTIONS for severity in range(1, 6)]
    errors: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    for name, severity in subject.with_bar(cases, "corruptions", len(cases)):
        errors[name].append(error(corrupted(pixels, name, severity)))
    means = {name: float(np.mean(found)) for name, found in errors.items()}
    mean = float(np.mean(list(means.values())))
    values = {
        "clean_error": clean,
        "mean_corruption_error": mean,
        "relative_mean_corruption_error": mean - clean,
        "error": means,
        "error_by_severity": errors,
    }
    return Finding(
        method=METHOD,
        values=values,
        units=dict.fromkeys(values, "share"),
        n={"test_images": count, "corruptions": len(CORRUPTIONS), "severities": 5},
        headline=f"mean corruption error {mean:.4f}, clean error {clean:.4f}",
        arrays={"error_by_severity": np.array(list(errors.values()))},
    )
