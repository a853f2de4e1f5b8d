"""What trained networks say of their test images, as ``normhpc analyze`` kept it: ``posthoc/predictions.npz``."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from normhpc.errors import InputError
from normhpc.files import read_json
from normhpc.record import RunFolder

FOLDER = "posthoc"

PICTURE_SIDE = 64
"""Most pixels of a side of the images in ``misclassified.npz``."""


@dataclass(frozen=True, slots=True, eq=False)
class RunAnswers:
    """The answers of one network to its N test images, by ascending row."""

    place: str
    """The run's folder."""
    rows: NDArray[np.int64]
    """(N,) of the images in ``test`` as it is stored."""
    labels: NDArray[np.integer]
    """(N,) classes, or (N, K) of 0 and 1 for images of several labels."""
    predicted: NDArray[np.integer]
    """As ``labels``: see :func:`answered`."""
    confidence: NDArray[np.float64]
    """As ``labels``: the probability that the network gives ``predicted``."""
    weights: str
    """Name of the file of its weights; empty where nothing says."""


def answered(
    logits: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    """The answer to each image and its probability, both of the shape of ``labels``, of ``logits`` (N, outputs).

    For ``labels`` (N,): the class of the highest logit, of equal ones that of the lower number, and its softmax
    probability. For ``labels`` (N, K): 1 where the logit of a class is at least 0, with the sigmoid p, else 0 with 1 - p.
    """
    if labels.ndim == 1:
        predicted = logits.argmax(axis=1)
        shares = softmax(logits.astype(np.float64), axis=1)
        return predicted, np.asarray(shares[np.arange(len(labels)), predicted], np.float64)
    logits = logits[:, : labels.shape[1]].astype(np.float64)
    return (logits >= 0).astype(np.int8), np.asarray(expit(np.abs(logits)), np.float64)


def read_answers(folder: RunFolder) -> RunAnswers | None:
    """The kept answers of a run; None when it has none.

    Raises :class:`~normhpc.errors.InputError` for a file that is damaged.
    """
    file = folder.path / FOLDER / "predictions.npz"
    if not file.is_file():
        return None
    try:
        with np.load(file) as arrays:
            logits = arrays["logits"].astype(np.float32, copy=False)
            labels, rows = (arrays[name].astype(np.int64, copy=False) for name in ("labels", "rows"))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        raise _unusable(file, "something else", folder) from None
    fits = logits.ndim == 2 and labels.ndim in (1, 2) and rows.shape == (len(logits),) and len(labels) == len(rows) > 0
    if not fits or (labels.ndim == 2 and labels.shape[1] > logits.shape[1]):
        raise _unusable(file, f"arrays of {logits.shape}, {labels.shape} and {rows.shape}", folder)
    if len(np.unique(rows)) < len(rows):
        raise _unusable(file, "a row twice", folder)
    if not np.isfinite(logits).all():
        raise _unusable(file, "logits that are not finite", folder)
    order = np.argsort(rows)
    ordered = labels[order] if labels.ndim == 1 else labels[order].astype(np.int8)
    predicted, confidence = answered(logits[order], ordered)
    return RunAnswers(str(folder.path), rows[order], ordered, predicted, confidence, _weights(folder))


def kept_pictures(places: Iterable[str], rows: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
    """Of ``rows`` those that ``posthoc/misclassified.npz`` in any of the runs' folders ``places`` has, each (H, W, 3).

    A file that is missing or damaged has none.
    """
    missing = set(rows)
    found: dict[int, NDArray[np.uint8]] = {}
    for place in places:
        if not missing:
            break
        for row, image in _pictures(Path(place) / FOLDER / "misclassified.npz"):
            if row in missing:
                found[row] = image
                missing.remove(row)
    return found


def class_names(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Name of each label, as ``summary.json`` has them; none where it has none."""
    names = summary.get("classes")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _pictures(file: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    try:
        with np.load(file) as arrays:
            rows, images = arrays["rows"], arrays["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return
    fits = images.ndim == 4 and images.dtype == np.uint8 and images.shape[3] == 3 and rows.shape == (len(images),)
    if fits and 0 < min(images.shape[1:3]) <= max(images.shape[1:3]) <= PICTURE_SIDE:
        yield from zip(rows.tolist(), images, strict=True)


def _weights(folder: RunFolder) -> str:
    try:
        content: Any = read_json(folder.path / FOLDER / "predictions.json")
        return str(content["weights"]["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _unusable(file: Path, found: str, folder: RunFolder) -> InputError:
    return InputError(
        f"{file}: expected logits (N, outputs), labels and rows of N images, got {found}; "
        f"normhpc analyze {folder.path} --what predictions --again makes it anew"
    )
