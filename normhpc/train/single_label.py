"""Metrics of images that have one label each."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normhpc.train.metrics import MOST_CONFUSED, Evaluation, by_class, f1, macro


class SingleLabel:
    """What an evaluation keeps of every image, in the image's own place, and the metrics of all of them.

    An image is right when its label is the class of the highest score, and among the top five when fewer than five
    classes come before it: of equal scores, which are common in bf16, the class of the lower number comes first. NaN
    counts as a score above all, so a network whose logits are NaN is right on none. The class predicted for a wrong image is the strongest of the other classes;
    where that is an output to which no label belongs, the image counts as a prediction of no class.
    """

    def __init__(self, rows: int, classes: int, device: torch.device) -> None:
        self.classes = classes
        # float64 holds counts and class numbers exactly
        self._columns = torch.zeros(4, rows, dtype=torch.float64, device=device)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What is summed over ranks: each image is measured by one of them and zero on all others."""
        return (self._columns,)

    def put(self, start: int, logits: Tensor, labels: Tensor) -> None:
        """Measure the images from row ``start`` on: ``logits`` (B, K or more), ``labels`` (B,). Waits for no device."""
        place = labels[:, None]
        loss, rivals, label, rival = self._columns[:, start : start + len(labels)]
        own = logits.gather(1, place)
        earlier = torch.arange(logits.shape[1], device=logits.device) < place
        loss.copy_(F.cross_entropy(logits.float(), labels, reduction="none"))
        # NaN compares false: counted as a class that beats the label
        rivals.copy_((~(logits <= own) | ((logits == own) & earlier)).sum(dim=1))
        label.copy_(labels)
        rival.copy_(logits.scatter(1, place, -math.inf).argmax(dim=1))

    def evaluation(self) -> Evaluation:
        """All metrics; called when every image is measured.

        Loss: mean cross entropy, without smoothing. top1, top5: shares of images. f1_macro: mean over the classes
        that occur of F1 = 2 TP / (2 TP + FP + FN). f1_micro: F1 of the counts summed over classes, which is top1
        where every output of the network is a class.
        """
        columns = self._columns.cpu()
        loss, (rivals, labels, rival) = columns[0].tolist(), columns[1:].to(torch.int64).numpy()
        rows, classes = len(loss), self.classes
        right = rivals < 1
        # all other classes score -inf: the strongest of them came out as the label itself
        rival = np.where(rival == labels, (labels + 1) % classes, rival)
        predicted = np.where(right, labels, rival)
        named = predicted < classes
        hits, truths, guesses = (
            np.bincount(found, minlength=classes) for found in (labels[right], labels, predicted[named])
        )
        present = truths > 0
        metrics = {
            "loss": math.fsum(loss) / rows,
            "top1": int(right.sum()) / rows,
            "top5": int((rivals < 5).sum()) / rows,
            "f1_macro": macro(f1(hits, truths, guesses), present),
            "f1_micro": 2 * int(right.sum()) / (rows + int(named.sum())),
        }
        details = {
            "class_accuracy": by_class(hits / np.maximum(truths, 1), present),
            "absent_classes": int((~present).sum()),
        }
        if classes <= MOST_CONFUSED:
            pairs = np.bincount((labels * classes + predicted)[named], minlength=classes**2)
            details["confusion"] = pairs.reshape(classes, classes).tolist()
        return Evaluation(metrics, details)
