"""How alike the features of the classes are that a trained network's classifier sees."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc.errors import InputError
from normhpc.models import classifier
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.subject import Subject

METHOD = (
    "Features: the input of the network's last linear layer (pooled, where the network pools), of all test images "
    "without augmentation, in evaluation mode and fp32. mu_c: mean of class c; mu_G: mean of the mu_c. "
    "class_similarity: mean over pairs c < c' of cos(mu_c, mu_c'), the number of an earlier study, there of "
    "features before pooling and augmented training images; it is near 1 without any class signal whenever features "
    "have a common mean. centred_similarity_mean, centred_similarity_std: mean and biased standard deviation over "
    "pairs of cos(mu_c - mu_G, mu_c' - mu_G); the mean is near -1/(C - 1) always, the deviation is 0 for a simplex "
    "(NC2). nc1 = tr(Sigma_W Sigma_B^+) / C, Sigma_W the mean over images of (f - mu_c)(f - mu_c)^T, Sigma_B the "
    "mean over classes of (mu_c - mu_G)(mu_c - mu_G)^T, ^+ the pseudo-inverse (Papyan et al. 2020, "
    "arXiv:2008.08186). Several labels: the images of a class are those that have its label, so an image counts in "
    "several; Sigma_W over pairs of image and label. Classes without images are left out."
)
_BLOCK = 500
_LEAST = 1e-6
"""Least length of a vector in a cosine, as torch has it."""


class Similarity(NamedTuple):
    """Numbers of :data:`METHOD`, and the means of the classes that have images."""

    class_similarity: float
    centred_similarity_mean: float
    centred_similarity_std: float
    nc1: float
    means: NDArray[np.float64]
    """(C, F)."""
    present: NDArray[np.int64]
    """(C,) numbers of the classes."""


def similarity(features: NDArray[Any], labels: NDArray[np.int64]) -> Similarity:
    """Of ``features`` (N, F) and ``labels`` (N,), or (N, K) of 0 and 1. NaN with fewer than two classes."""
    features = features.astype(np.float64)
    members = np.eye(int(labels.max()) + 1)[labels] if labels.ndim == 1 else labels.astype(np.float64)
    present = np.flatnonzero(members.sum(axis=0))
    members = members[:, present]
    counts = members.sum(axis=0)
    means = (members.T @ features) / counts[:, None]
    centred = means - means.mean(axis=0)
    raw, inner = (_pairs(vectors) for vectors in (means, centred))
    return Similarity(
        float(raw.mean()) if len(raw) else float("nan"),
        float(inner.mean()) if len(inner) else float("nan"),
        float(inner.std()) if len(inner) else float("nan"),
        _nc1(features, members, means, centred),
        means,
        present,
    )


def cosines(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C, C) cosines of the rows of (C, F)."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _LEAST)
    found: NDArray[np.float64] = unit @ unit.T
    return found


def _pairs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    upper = np.triu_indices(len(vectors), k=1)
    return cosines(vectors)[upper]


def _nc1(
    features: NDArray[np.float64],
    members: NDArray[np.float64],
    means: NDArray[np.float64],
    centred: NDArray[np.float64],
) -> float:
    """tr(Sigma_W Sigma_B^+) / C, without a matrix of (F, F).

    With centred = U S V^T, Sigma_B^+ = V (C / S^2) V^T over the C - 1 directions that there are, so the trace is C
    times the mean over images of |S^-1 V^T (f - mu_c)|^2.
    """
    classes = len(means)
    if classes < 2:
        return float("nan")
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    kept = spread > spread.max(initial=0.0) * 1e-10
    if not kept.any():
        return float("nan")
    projection = directions[kept].T / spread[kept]
    total = 0.0
    for number in range(classes):
        own = features[members[:, number] > 0]
        total += float((((own - means[number]) @ projection) ** 2).sum())
    return total / float(members.sum())


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """(N, F) inputs of the last linear layer of ``model``.

    Raises :class:`~normhpc.errors.InputError` for a network that does not end with one.
    """
    layer = classifier(model)
    if not isinstance(layer, nn.Linear):
        raise InputError("similarity: expected a network that ends with a linear layer, whose input are its features")
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any) -> None:
        seen.append(inputs[0].detach().flatten(1))

    handle = layer.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    if not seen:
        raise InputError("similarity: the network does not call the linear layer that stands last in it")
    return seen[-1]


def analyse(subject: Subject) -> Finding:
    """Similarity of classes over ``test``."""
    test = subject.data.test
    parts = []
    starts = range(0, len(test), _BLOCK)
    for start in subject.with_bar(starts, "features", len(starts)):
        rows = np.arange(start, min(len(test), start + _BLOCK))
        images, _ = subject.normalized(test, rows)
        parts.append(features_of(subject.model, images).float().cpu().numpy())
    found = similarity(np.concatenate(parts), test.labels.numpy().astype(np.int64))
    numbers = found._asdict()
    means, present = numbers.pop("means"), numbers.pop("present")
    values = {**numbers, "classes_left_out": len(subject.data.classes) - len(present)}
    return Finding(
        method=METHOD,
        values=values,
        units={"class_similarity": "cosine", "centred_similarity_mean": "cosine", "centred_similarity_std": "cosine"},
        n={"test_images": len(test), "classes": len(present), "features": means.shape[1]},
        headline=(
            f"class_similarity {found.class_similarity:.4f}, nc2 std {found.centred_similarity_std:.4f}, "
            f"nc1 {found.nc1:.4g}"
        ),
        arrays={
            "class_means": means,
            "classes": present,
            "cosines": cosines(means),
            "centred_cosines": cosines(means - means.mean(axis=0)),
        },
    )
