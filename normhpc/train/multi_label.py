"""Metrics of images that have any number of labels each."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from normhpc.train.metrics import MOST_CONFUSED, Evaluation, by_class, f1, macro

TOP = 3
"""Labels an image may get in the metrics whose names end in ``_3``."""


class MultiLabel:
    """What an evaluation keeps of every image, in the image's own place, and the metrics of all of them.

    Images are ranked by their logits, not by probabilities, which round to 1 where logits still differ. A logit
    that is NaN ranks last, equal to -inf, and predicts nothing.
    """

    def __init__(self, rows: int, classes: int, device: torch.device) -> None:
        self._losses = torch.zeros(rows, dtype=torch.float64, device=device)
        self._logits = torch.zeros(rows, classes, dtype=torch.float32, device=device)
        self._labels = torch.zeros(rows, classes, dtype=torch.uint8, device=device)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What is summed over ranks: each image is measured by one of them and zero on all others."""
        return (self._losses, self._logits, self._labels)

    def put(self, start: int, logits: Tensor, labels: Tensor) -> None:
        """Measure the images from row ``start`` on: ``logits`` (B, K or more), ``labels`` (B, K) of 0 and 1.

        Outputs of the network beyond the labels' classes are left out.
        """
        block = slice(start, start + len(labels))
        logits = logits[:, : labels.shape[1]].float()
        losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
        self._losses[block] = losses.double().mean(dim=1)
        self._logits[block] = logits
        self._labels[block] = labels

    def evaluation(self) -> Evaluation:
        """All metrics; called when every image is measured. Formulas: :func:`thresholded`, :func:`average_precision`.

        Loss: mean over images and classes of the binary cross entropy, without smoothing. map_macro: mean of the
        average precision of the classes that have positives. map_micro: of all pairs of image and class together.
        """
        losses = self._losses.tolist()
        labels = self._labels.cpu().numpy().astype(bool)
        logits = self._logits.cpu().numpy()
        scores = np.where(np.isnan(logits), np.float32(-np.inf), logits)
        present = labels.sum(axis=0) > 0
        precisions = np.array([average_precision(*pair) for pair in zip(scores.T, labels.T, strict=True)])
        predicted = scores >= 0
        top = thresholded(predicted & among_top(scores, TOP), labels)
        metrics = {
            "loss": math.fsum(losses) / len(losses),
            "map_macro": macro(precisions, present),
            "map_micro": average_precision(scores.ravel(), labels.ravel()),
            **thresholded(predicted, labels),
            **{f"{name}_{TOP}": top[name] for name in ("cp", "cr", "cf1", "op", "or", "of1")},
        }
        details: dict[str, Any] = {
            "class_ap": by_class(precisions, present),
            "absent_classes": int((~present).sum()),
        }
        if labels.shape[1] <= MOST_CONFUSED:
            details["confusion"] = _confusion(predicted, labels)
        return Evaluation(metrics, details)


def average_precision(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Area under the steps of precision over recall: ``scores`` (N,) without NaN, ``labels`` (N,).

    AP = sum over the thresholds t that scores take of (R(t) - R(t before)) P(t), R and P the recall and precision
    of what scores at least t. Equal scores are one threshold, so their order does not matter. Written as a mean
    over positives: of the share of positives among all that score at least as much. Exactly rounded sum, so the
    same on any processor. NaN without positives.
    """
    positives = np.sort(scores[labels])
    if not len(positives):
        return math.nan
    # the number that scores at least as much as each positive, among all and among positives
    above = len(scores) - np.searchsorted(np.sort(scores), positives)
    hits = len(positives) - np.searchsorted(positives, positives)
    return math.fsum((hits / above).tolist()) / len(positives)


def among_top(scores: NDArray[np.float32], top: int) -> NDArray[np.bool_]:
    """Whether fewer than ``top`` other classes of the image score at least as much: (N, K) without NaN -> (N, K).

    Ties count against a class, as they do in top1, so an image never has more than ``top``.
    """
    if scores.shape[1] <= top:
        return np.ones(scores.shape, dtype=np.bool_)
    first_left_out = np.partition(scores, -top - 1, axis=1)[:, -top - 1]
    return scores > first_left_out[:, None]


def thresholded(predicted: NDArray[np.bool_], labels: NDArray[np.bool_]) -> dict[str, float]:
    """What is made of counts by class: TP hits, P predictions, G labels; ``predicted`` and ``labels`` (N, K).

    cp = mean TP/P, cr = mean TP/G, f1_macro = mean 2 TP/(P + G), each over the classes that have labels (a class
    that is never predicted has precision 0); cf1 = 2 cp cr/(cp + cr), the F1 of the means. op = sum TP/sum P,
    or = sum TP/sum G, of1 = f1_micro = 2 sum TP/(sum P + sum G), over all classes. 0/0 is 0 where nothing is
    predicted, NaN where there are no labels at all.
    """
    hits, guesses, truths = (found.sum(axis=0) for found in (predicted & labels, predicted, labels))
    present = truths > 0
    hit, guessed, true = (int(found.sum()) for found in (hits, guesses, truths))
    if not true:
        return dict.fromkeys(("f1_macro", "f1_micro", "cp", "cr", "cf1", "op", "or", "of1"), math.nan)
    cp = macro(hits / np.maximum(guesses, 1), present)
    cr = macro(hits / np.maximum(truths, 1), present)
    of1 = 2 * hit / (guessed + true)
    return {
        "f1_macro": macro(f1(hits, truths, guesses), present),
        "f1_micro": of1,
        "cp": cp,
        "cr": cr,
        "cf1": 2 * cp * cr / (cp + cr) if hit else 0.0,
        "op": hit / guessed if guessed else 0.0,
        "or": hit / true,
        "of1": of1,
    }


def _confusion(predicted: NDArray[np.bool_], labels: NDArray[np.bool_]) -> list[list[list[int]]]:
    """[[TN, FP], [FN, TP]] of each class."""
    counts = [[(predicted == guess) & (labels == truth) for guess in (False, True)] for truth in (False, True)]
    by_place = np.array([[found.sum(axis=0) for found in row] for row in counts])
    matrices: list[list[list[int]]] = np.moveaxis(by_place, -1, 0).tolist()
    return matrices
