"""Which class a trained network takes for which."""

import numpy as np
from numpy.typing import NDArray

from normhpc.posthoc.answers import answers_of
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.pictures import matrix
from normhpc.posthoc.subject import Subject

METHOD = (
    "One label: matrix[i, j] is the number of images of class i whose highest logit is that of output j (ties: the "
    "class of the lower number); outputs beyond the classes have columns of their own. Several labels: matrices[k] "
    "= [[TN, FP], [FN, TP]] of class k, predicted where its logit is at least 0. The picture shows shares of each "
    "true class."
)
MOST_TOLD = 10
"""Pairs of classes that are named."""


def confusion_matrix(logits: NDArray[np.floating], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, outputs) counts, rows the true class, of ``logits`` (N, outputs) and ``labels`` (N,)."""
    outputs = logits.shape[1]
    pairs = np.bincount(labels * outputs + logits.argmax(axis=1), minlength=classes * outputs)
    return pairs.reshape(classes, outputs)


def label_confusion(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K, 2, 2) counts [[TN, FP], [FN, TP]] of ``logits`` (N, K or more) and ``labels`` (N, K)."""
    predicted, true = logits[:, : labels.shape[1]] >= 0, labels == 1
    counts = [
        [((true == truth) & (predicted == guess)).sum(axis=0) for guess in (False, True)] for truth in (False, True)
    ]
    return np.moveaxis(np.array(counts), -1, 0)


def analyse(subject: Subject) -> Finding:
    """Confusion on ``test``."""
    answers = answers_of(subject)
    classes = subject.data.classes
    count = {"test_images": len(answers.labels), "classes": len(classes)}
    if subject.multiple:
        matrices = label_confusion(answers.logits, answers.labels)
        values = {"classes": list(classes), "matrices": matrices.tolist()}
        errors = int(matrices[:, 0, 1].sum() + matrices[:, 1, 0].sum())
        headline = f"{errors} wrong labels over {len(classes)} classes"
        return Finding(METHOD, values, {"matrices": "images"}, count, headline, {"matrices": matrices})
    found = confusion_matrix(answers.logits, answers.labels, len(classes))
    square = found[:, : len(classes)]
    shares = square / np.maximum(found.sum(axis=1, keepdims=True), 1)
    off = square * (1 - np.eye(len(classes), dtype=np.int64))
    flat = np.argsort(-off.ravel(), kind="stable")[:MOST_TOLD]
    most = [
        {
            "true": classes[one // len(classes)],
            "predicted": classes[one % len(classes)],
            "images": int(off.ravel()[one]),
        }
        for one in flat
        if off.ravel()[one]
    ]
    headline = "no mistake"
    if most:
        headline = f"most often {most[0]['true']} taken for {most[0]['predicted']}, {most[0]['images']} times"
    values = {"classes": list(classes), "most_confused": most, "matrix": found.tolist()}
    pictures = {"": matrix(shares, classes)}
    return Finding(METHOD, values, {"matrix": "images"}, count, headline, {"matrix": found}, pictures)
