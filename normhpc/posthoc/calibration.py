"""Whether a trained network is as often right as it says."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from normhpc.posthoc.answers import answers_of, mean_nll, probabilities
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.subject import SEED, Subject

BINS = 15
DRAWS, DRAWS_OF_MANY_LABELS = 1000, 100
"""How often labels are drawn to find the floor."""
HOTTEST = 100.0
"""Temperatures lie between 1 / this and this."""

METHOD = (
    "ECE = sum over bins b of n_b/N |acc_b - conf_b|, with conf the highest softmax probability and acc the share "
    "of images that are right; 15 bins of equal width over (0, 1], or of equal numbers of images (sorted by conf, "
    "equal conf in the order of rows, sizes differing by at most one). floor: the same ECE when each image is right "
    "with probability conf, that is with labels drawn from the network's own probabilities: mean and 2.5 % and 97.5 "
    "% quantiles over seeded draws; a perfectly calibrated network shows as much. nll: -log p(label), mean. brier: "
    "sum over classes of (p - y)^2, mean over images. temperature: T that minimizes the nll of softmax(logits / T) "
    "on val, none where no T from 0.01 to 100 does (of a network that is right on all of val the nll falls with T "
    "without end). Several labels: p is the sigmoid, ECE is that of p against the label, by class, then the mean over "
    "classes; nll and brier are means over classes."
)


class Bins(NamedTuple):
    """Images in each bin, their mean confidence and the share that is right; NaN in empty bins."""

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def ece(self) -> float:
        """sum n_b/N |acc_b - conf_b|."""
        gaps = np.where(self.images > 0, np.abs(self.accuracy - self.confidence), 0.0)
        return float((self.images * gaps).sum() / self.images.sum())


def equal_width(confidence: NDArray[np.float64], bins: int = BINS) -> NDArray[np.int64]:
    """(N,) numbers of bins (0, 1/bins], (1/bins, 2/bins], ...; 0 lies in the first."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def equal_mass(confidence: NDArray[np.float64], bins: int = BINS) -> NDArray[np.int64]:
    """(N,) numbers of bins of as many images each, by confidence, equal ones by row."""
    count = len(confidence)
    numbers = np.empty(count, np.int64)
    numbers[np.argsort(confidence, kind="stable")] = np.arange(count) * bins // max(count, 1)
    return numbers


def binned(confidence: NDArray[np.float64], right: NDArray[np.bool_], numbers: NDArray[np.int64]) -> Bins:
    """What lies in each of :data:`BINS` bins."""
    count = np.bincount(numbers, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(numbers, part, minlength=BINS) / count for part in (confidence, right)]
    return Bins(count, *means)


def floor(
    confidence: NDArray[np.float64], numbers: NDArray[np.int64], draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """(draws,) ECEs of images that are right with probability ``confidence``."""
    sums = np.bincount(numbers, confidence, minlength=BINS)
    found = np.empty(draws)
    for draw in range(draws):
        right = generator.random(len(confidence)) < confidence
        found[draw] = np.abs(np.bincount(numbers, right, minlength=BINS) - sums).sum() / len(confidence)
    return found


def fitted_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """T > 0 that minimizes :func:`~normhpc.posthoc.answers.mean_nll`, which is convex in 1/T; within 0.01 to 100.

    None where the minimum is not inside: of a network that is right on all images the nll falls with T without end.
    """
    if not _slope(logits, labels, HOTTEST) < 0 < _slope(logits, labels, 1 / HOTTEST):
        return None
    bound = np.log(HOTTEST)
    found = minimize_scalar(
        lambda log: mean_nll(logits, labels, float(np.exp(log))),
        bounds=(-bound, bound),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(np.exp(found.x))


def _slope(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float) -> float:
    """Derivative of the mean nll by 1/T: mean of E_p[z] - z(label), for several labels of (p - y) z over classes too."""
    multiple = labels.ndim == 2
    given = logits[:, : labels.shape[1]].astype(np.float64) if multiple else logits.astype(np.float64)
    shares = probabilities(given, multiple=multiple, temperature=temperature)
    if multiple:
        return float(((shares - labels) * given).mean())
    # apart from the label's logit, or rounding makes up a slope where p is 1
    apart = given - given[np.arange(len(labels)), labels][:, None]
    return float((shares * apart).sum(axis=1).mean())


def own_temperature(subject: Subject) -> float | None:
    """The temperature fitted on the run's ``val`` images; None when it has none, or no temperature is best."""
    answers = answers_of(subject)
    return fitted_temperature(answers.val_logits, answers.val_labels) if len(answers.val_labels) else None


class Calibration(NamedTuple):
    """ECE in bins of equal width and mass, their floors, and the bins of one label."""

    ece: dict[str, float]
    floors: dict[str, NDArray[np.float64]]
    bins: dict[str, Bins]


def calibration(probability: NDArray[np.float64], labels: NDArray[np.int64], seed: int = SEED) -> Calibration:
    """Of ``probability`` (N, outputs) and ``labels`` (N,), or (N, K) with probability (N, K)."""
    generator = np.random.default_rng(seed)
    if labels.ndim == 1:
        columns = [(probability.max(axis=1), probability.argmax(axis=1) == labels)]
        draws = DRAWS
    else:
        columns = list(zip(probability.T, labels.T == 1, strict=True))
        draws = DRAWS_OF_MANY_LABELS
    ece: dict[str, float] = {}
    floors: dict[str, NDArray[np.float64]] = {}
    last: dict[str, Bins] = {}
    for name, rule in (("equal_width", equal_width), ("equal_mass", equal_mass)):
        numbers = [rule(confidence) for confidence, _ in columns]
        found = [binned(*column, which) for column, which in zip(columns, numbers, strict=True)]
        ece[name] = float(np.mean([bins.ece() for bins in found]))
        drawn = [
            floor(confidence, which, draws, generator) for (confidence, _), which in zip(columns, numbers, strict=True)
        ]
        floors[name] = np.mean(drawn, axis=0)
        last[name] = found[0]
    return Calibration(ece, floors, last if labels.ndim == 1 else {})


def brier(probability: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """sum_k (p_k - y_k)^2, mean over images, for labels (N,); mean over classes too for labels (N, K)."""
    if labels.ndim == 1:
        own = probability[np.arange(len(labels)), labels]
        return float(((probability**2).sum(axis=1) - 2 * own + 1).mean())
    return float(((probability - labels) ** 2).mean())


def analyse(subject: Subject) -> Finding:
    """Calibration on ``test``, as it is and with the temperature fitted on ``val``."""
    answers = answers_of(subject)
    labels = answers.labels
    logits = answers.logits[:, : labels.shape[1]] if subject.multiple else answers.logits
    temperature = own_temperature(subject)
    values: dict[str, float | None] = {"temperature": temperature}
    arrays: dict[str, NDArray[np.generic]] = {}
    for prefix, heat in (("", 1.0), ("tempered_", temperature)):
        if heat is None:
            continue
        shares = probabilities(logits, multiple=subject.multiple, temperature=heat)
        found = calibration(shares, labels)
        for name, value in found.ece.items():
            low, high = np.quantile(found.floors[name], [0.025, 0.975])
            values[f"{prefix}ece_{name}"] = value
            values[f"{prefix}ece_{name}_floor"] = float(found.floors[name].mean())
            values[f"{prefix}ece_{name}_floor_low"] = float(low)
            values[f"{prefix}ece_{name}_floor_high"] = float(high)
        values[f"{prefix}nll"] = mean_nll(logits, labels, heat)
        values[f"{prefix}brier"] = brier(shares, labels)
        for name, bins in found.bins.items():
            arrays |= {f"{prefix}{name}_{part}": getattr(bins, part) for part in Bins._fields}
    units = {name: "nats" if name.endswith("nll") else "share" for name in values if name != "temperature"}
    return Finding(
        method=METHOD,
        values=values,
        units=units | {"temperature": "factor"},
        n={
            "test_images": len(labels),
            "val_images": len(answers.val_labels),
            "bins": BINS,
            "draws": DRAWS_OF_MANY_LABELS if subject.multiple else DRAWS,
        },
        headline=_headline(values, len(labels), len(answers.val_labels)),
        arrays=arrays,
    )


def _headline(values: dict[str, float | None], images: int, val_images: int) -> str:
    heat = values["temperature"]
    if heat is not None:
        fitted = f"temperature {heat:.3f} (n = {val_images} val images)"
    elif val_images:
        fitted = f"no temperature is best on the {val_images} val images"
    else:
        fitted = "no val images to fit a temperature on"
    return (
        f"ece {values['ece_equal_width']:.4f} (floor {values['ece_equal_width_floor']:.4f}, 95 % of it from "
        f"{values['ece_equal_width_floor_low']:.4f} to {values['ece_equal_width_floor_high']:.4f}), "
        f"nll {values['nll']:.4f}, n = {images} test images, {fitted}"
    )
