"""How much worse a trained network is on images that are noisy, blurred, pale, veiled, warped or badly packed.

14 of the 15 corruptions of CIFAR-10-C; frost is left out, which needs photographs. Five are in
:mod:`normhpc.posthoc.restated`, where other programs were used for the published images.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate, gaussian_filter
from sklearn.metrics import average_precision_score

from normhpc.data import in_memory, order
from normhpc.data.planes import UNITS
from normhpc.errors import InputError
from normhpc.posthoc.curvature import kept_buffers, mode_of
from normhpc.posthoc.hessian import modes_differ
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.restated import elastic_transform, enlarging, fog, glass_blur, motion_blur, snow
from normhpc.posthoc.subject import SEED, Subject

Strength = float | tuple[float, ...]
Corruption = Callable[[NDArray[np.float64], Any, np.random.Generator], NDArray[np.float64]]
"""(N, H, W, C) values in 0..1, strength and generator to values that may lie outside, of the same shape.

Draws are made image by image, so that what becomes of an image does not depend on those after it.
"""

SEVERITIES: dict[str, tuple[Strength, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "saturate": ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
}
"""Strengths at severities 1 to 5: those of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261)."""

EXTRA = ("speckle_noise", "gaussian_blur", "saturate")
"""Beyond the 15 corruptions of that benchmark: told, and in no mean."""

METHOD = (
    "The stored bytes of the first test images, as values x in 0..1, are changed with the strengths c of CIFAR-10-C, "
    "cut to 0..1, and rounded down to bytes as there; the network then sees them as it sees test images. "
    "gaussian_noise: x + c N(0, 1). shot_noise: Poisson(c x) / c. impulse_noise: a share c of the values becomes 0 or "
    "1. speckle_noise: x + c x N(0, 1). All seeded. defocus_blur: a disk of radius c1, smoothed over 3x3 with a "
    "deviation of c2, edges mirrored. glass_blur: a Gaussian, pixels taken from neighbours at random, a Gaussian. "
    "motion_blur: half of a Gaussian of c2 pixels along a line at a random angle. snow: blurred flakes on a paler "
    "image. fog: a fractal veil. elastic_transform: a random affine map, and pixels moved by a smooth random field. "
    "These five by the published strengths and formulas without the programs used there, so not with its bytes. "
    "zoom_blur: mean of the image and of its enlargements by 1, 1.01 ... c (1.06, 1.11, 1.15, 1.20, 1.25). "
    "gaussian_blur: deviation of c pixels, edges repeated. brightness: c is added to the value of hue, saturation, "
    "value; saturate: the saturation s becomes c1 s + c2. contrast: m + c (x - m), m the mean of each channel of the "
    "image. pixelate: box resize to a share c of each side and back. jpeg_compression: quality c. error: share of "
    "images that are wrong; of images of several labels 1 - average precision, macro over classes that have labels. "
    "mean_corruption_error: mean over the corruptions among the benchmark's 15 (not speckle_noise, gaussian_blur, "
    "saturate) of the mean over severities, not divided by a reference network's. relative: minus the clean error. "
    "test_batch_statistics: another predictor, all of it once more with the norms' statistics taken from each batch "
    "of test images in a fixed random order, as many as the run's update sees at once; none where a network answers "
    "the same in both modes."
)


def gaussian_noise(values: NDArray[np.float64], strength: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """x + c N(0, 1)."""
    noisy: NDArray[np.float64] = values + strength * generator.standard_normal(values.shape)
    return noisy


def shot_noise(values: NDArray[np.float64], strength: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Poisson(c x) / c: c photons where x is 1."""
    counted: NDArray[np.float64] = generator.poisson(values * strength) / strength
    return counted


def impulse_noise(values: NDArray[np.float64], strength: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """A share c of the values, of each channel by itself, becomes 0 or 1 with equal chances."""
    drawn = generator.random((len(values), 2, *values.shape[1:]))
    hit, salt = drawn[:, 0] <= strength, drawn[:, 1] <= 0.5
    return np.where(hit, salt.astype(np.float64), values)


def speckle_noise(values: NDArray[np.float64], strength: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """x + c x N(0, 1)."""
    noisy: NDArray[np.float64] = values + values * strength * generator.standard_normal(values.shape)
    return noisy


def defocus_blur(
    values: NDArray[np.float64], strength: tuple[float, float], _: np.random.Generator
) -> NDArray[np.float64]:
    """A disk of radius ``strength[0]`` pixels, its edge smoothed by a Gaussian of ``strength[1]`` cut to 3x3."""
    radius, smoothing = strength
    reach = int(radius) + 2
    offsets = np.arange(-reach, reach + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    bell = np.exp(-(np.arange(-1, 2) ** 2) / (2 * smoothing**2))
    kernel = correlate(disk / disk.sum(), np.outer(bell, bell) / bell.sum() ** 2, mode="constant")
    blurred: NDArray[np.float64] = correlate(values, kernel[None, :, :, None], mode="mirror")
    return blurred


def zoom_blur(values: NDArray[np.float64], strength: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Mean of the image and of its middle enlarged by 1, 1.01, ... ``strength``, linearly interpolated."""
    # as published: by rounding 1.06 and 1.11 are among their factors, 1.16, 1.21 and 1.26 are not
    factors = np.arange(1, strength, 0.01)
    total = values.copy()
    for factor in factors:
        rows, columns = (enlarging(size, factor) for size in values.shape[1:3])
        total += np.einsum("ih,nhwc,jw->nijc", rows, values, columns, optimize=True)
    return total / (len(factors) + 1)


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


def saturate(values: NDArray[np.float64], strength: tuple[float, float], _: np.random.Generator) -> NDArray[np.float64]:
    """Saturation s = (v - least) / v becomes c1 s + c2 within 0..1; hue and value v, the largest channel, stay.

    A grey pixel has hue 0, which is red: its first channel stays. Images of one channel stay as they are.
    """
    factor, added = strength
    largest = values.max(axis=3, keepdims=True)
    spread = largest - values.min(axis=3, keepdims=True)
    saturation = np.divide(spread, largest, out=np.zeros_like(largest), where=largest > 0)
    red = np.broadcast_to((np.arange(values.shape[3]) > 0).astype(np.float64), values.shape)
    below = np.divide(largest - values, spread, out=red.copy(), where=spread > 0)
    found: NDArray[np.float64] = largest * (1 - np.clip(saturation * factor + added, 0, 1) * below)
    return found


def pixelate(values: NDArray[np.float64], strength: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Pillow's box resize to ``int(c * size)`` of both sides, and back; each channel by itself."""

    def coarse(picture: Image.Image) -> Image.Image:
        width, height = (max(1, int(size * strength)) for size in picture.size)
        return picture.resize((width, height), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)

    return _by_picture(values, coarse, channels=1)


def jpeg_compression(values: NDArray[np.float64], strength: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Pillow's JPEG of ``strength`` quality, and back; images of 1 or 3 channels."""

    def packed(picture: Image.Image) -> Image.Image:
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=int(strength))
        return Image.open(content)

    return _by_picture(values, packed, channels=values.shape[3])


def _by_picture(
    values: NDArray[np.float64], change: Callable[[Image.Image], Image.Image], channels: int
) -> NDArray[np.float64]:
    """``change`` of every image, or of every channel of it where ``channels`` is 1."""
    pixels = np.rint(values * 255).astype(np.uint8)
    changed = np.empty_like(pixels)
    for image, target in zip(pixels, changed, strict=True):
        for first in range(0, image.shape[2], channels):
            part = image[:, :, first : first + channels].squeeze()
            target[:, :, first : first + channels] = np.asarray(change(Image.fromarray(part))).reshape(
                *image.shape[:2], channels
            )
    # half a step up, so that rounding down gives these very bytes
    found: NDArray[np.float64] = (changed + 0.5) / 255
    return found


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "saturate": saturate,
}

_BLOCK = 1000


def corruptions_of(channels: int) -> list[str]:
    """Names of those that images of so many ``channels`` can have: a JPEG has 1 or 3."""
    return [name for name in CORRUPTIONS if name != "jpeg_compression" or channels in (1, 3)]


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
    """Error on ``test`` under each corruption at five severities, with the statistics of training and of the batch."""
    test = subject.data.test
    count = subject.count(len(test), len(test))
    if subject.data.unit != UNITS[torch.uint8]:
        raise InputError(
            f"{subject.folder.path}: corruption: expected images of 8 bits, which the strengths of CIFAR-10-C are for, got "
            "images of more; leave corruption out of --what"
        )
    chosen = in_memory(test, np.arange(count))
    pixels, labels = chosen.images.numpy(), chosen.labels.numpy().astype(np.int64)
    update = max(1, subject.config.batch_size // subject.config.optim.accumulate)
    few, _ = subject.normalized(test, np.arange(min(count, update)))
    # batches of equal size, not larger than those of training; classes mixed, whatever the order of the files
    batch = -(-count // -(-count // update))
    mixed = order(count, SEED, epoch=0)
    predictors: dict[str, Callable[[NDArray[np.uint8]], float]] = {
        "running": lambda images: error_of(_logits(subject, images), labels)
    }
    if modes_differ(subject.model, few, update):
        predictors["test_batch"] = lambda images: error_of(_batch_logits(subject, images[mixed], batch), labels[mixed])
    names = corruptions_of(pixels.shape[3])
    cases = [(name, severity) for name in names for severity in range(1, 6)]
    clean = {which: error(pixels) for which, error in predictors.items()}
    errors: dict[str, dict[str, list[float]]] = {which: {name: [] for name in names} for which in predictors}
    for name, severity in subject.with_bar(cases, "corruptions", len(cases)):
        images = corrupted(pixels, name, severity)
        for which, error in predictors.items():
            errors[which][name].append(error(images))
    told = {which: _told(clean[which], errors[which]) for which in predictors}
    values = told["running"] | {"test_batch_statistics": told.get("test_batch")}
    arrays = {"error_by_severity": np.array(list(errors["running"].values()))}
    headline = _headline(told["running"])
    if "test_batch" in told:
        arrays["test_batch_statistics_error_by_severity"] = np.array(list(errors["test_batch"].values()))
        headline += f"; with statistics of the test batch {_headline(told['test_batch'])}"
    return Finding(
        method=METHOD,
        values=values,
        units=dict.fromkeys([name for name in values if name != "in_mean"], "share"),
        n={
            "test_images": count,
            "corruptions": len(names),
            "corruptions_in_mean": len([name for name in names if name not in EXTRA]),
            "severities": 5,
            "test_batch_images": batch,
        },
        headline=f"{headline}, n = {count} test images",
        arrays=arrays,
    )


def _logits(subject: Subject, images: NDArray[np.uint8], batch: int | None = None) -> NDArray[np.float32]:
    answers: NDArray[np.float32] = torch.cat(list(subject.network.logits(images, batch))).numpy()
    return answers


def _batch_logits(subject: Subject, images: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
    """Logits in training mode without dropout; running statistics are as before afterwards."""
    with mode_of(subject.model, "train"), kept_buffers(subject.model):
        return _logits(subject, images, batch)


def _told(clean: float, errors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The numbers of one predictor."""
    means = {name: float(np.mean(found)) for name, found in errors.items()}
    mean = float(np.mean([found for name, found in means.items() if name not in EXTRA]))
    return {
        "clean_error": clean,
        "mean_corruption_error": mean,
        "relative_mean_corruption_error": mean - clean,
        "in_mean": [name for name in means if name not in EXTRA],
        "error": means,
        "error_by_severity": dict(errors),
    }


def _headline(values: Mapping[str, Any]) -> str:
    return f"mean corruption error {values['mean_corruption_error']:.4f}, clean error {values['clean_error']:.4f}"
