"""The images that a trained network is wrong about, the most confident mistakes first."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normhpc.posthoc.answers import answers_of
from normhpc.posthoc.kept import Finding
from normhpc.posthoc.pictures import grid, shown, thumbnail
from normhpc.posthoc.subject import Subject
from normhpc.results.predictions import PICTURE_SIDE, answered

SHOWN = 40
"""Mistakes in the picture."""
COLUMNS = 8

MOST_BYTES = 1_000_000
"""For the images that are kept, small and without compression."""
_AT_ONCE = 32
"""Images in memory at their full size."""

METHOD = (
    "One label: an image is wrong when its label does not have the highest logit (ties: the class of the lower "
    "number); confidence is the softmax probability of the predicted class. Several labels: a class is predicted "
    "where its logit is at least 0; a false positive is predicted and not a label, its confidence is the sigmoid "
    "probability p; a false negative is a label and not predicted, its confidence is 1 - p. Most confident first, "
    "then by row. misclassified.npz: rows, and their images (M, H, W, 3) as the picture shows them, of sides of at most "
    "64 pixels, as many of the first as fit into 1 MB. consistency over seeds and norms: normhpc report."
)


class Mistake(NamedTuple):
    """A wrong answer. Of several labels ``true`` is the class and ``predicted`` says whether it was predicted."""

    row: int
    true: str
    predicted: str
    confidence: float


def mistakes(
    logits: NDArray[np.floating], labels: NDArray[np.int64], rows: NDArray[np.int64], classes: Sequence[str]
) -> list[Mistake]:
    """Mistakes on images of one label, of ``logits`` (N, outputs) and ``labels`` (N,), in order."""
    predicted, confidence = answered(logits, labels)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.lexsort((rows[wrong], -confidence[wrong]))]
    names = [*classes, *map(str, range(len(classes), logits.shape[1]))]
    return [Mistake(int(rows[one]), names[labels[one]], names[predicted[one]], float(confidence[one])) for one in wrong]


def label_mistakes(
    logits: NDArray[np.floating], labels: NDArray[np.int64], rows: NDArray[np.int64], classes: Sequence[str]
) -> list[Mistake]:
    """False positives and negatives of images of several labels, of ``logits`` (N, K or more), ``labels`` (N, K)."""
    predicted, confidence = answered(logits, labels)
    image, label = np.nonzero(predicted != (labels == 1))
    ordered = np.lexsort((label, rows[image], -confidence[image, label]))
    return [
        Mistake(int(rows[one]), classes[of], _kind(bool(predicted[one, of])), float(confidence[one, of]))
        for one, of in zip(image[ordered], label[ordered], strict=True)
    ]


def _kind(predicted: bool) -> str:
    return "false positive" if predicted else "false negative"


def analyse(subject: Subject) -> Finding:
    """Mistakes on ``test``, as a table and, of the most confident ones, a picture."""
    answers = answers_of(subject)
    classes = subject.data.classes
    find = label_mistakes if subject.multiple else mistakes
    found = find(answers.logits, answers.labels, answers.rows, classes)
    first, count = found[: subject.images_asked or SHOWN], len(answers.labels)
    pictures = [
        shown(pixels) for pixels in subject.pictures(subject.data.test, np.array([one.row for one in first], int))
    ]
    taken = "" if subject.multiple else "taken for "
    captions = [(f"test {one.row}: {one.true}", f"{taken}{one.predicted} {one.confidence:.3f}") for one in first]
    sheet, tiles = grid(pictures, captions, COLUMNS)
    values: dict[str, float] = {"mistakes": len(found)}
    if subject.multiple:
        values["false_positives"] = sum(one.predicted == "false positive" for one in found)
        values["false_negatives"] = len(found) - values["false_positives"]
        headline = f"{values['false_positives']} false positives, {values['false_negatives']} false negatives"
    else:
        values["error"] = len(found) / count
        headline = f"{len(found)} of {count} wrong"
    return Finding(
        method=METHOD,
        values=values,
        units={"error": "share", "mistakes": "labels of images" if subject.multiple else "images"},
        n={"test_images": count, "shown": len(first)},
        headline=headline,
        arrays=_kept_images(subject, found),
        pictures={"": sheet} if first else {},
        tiles={"": tiles} if first else {},
        table=_table(found, "class,mistake" if subject.multiple else "true,predicted"),
    )


def _kept_images(subject: Subject, found: Sequence[Mistake]) -> dict[str, NDArray[np.generic]]:
    """``rows`` (M,) and ``images`` (M, H, W, 3) of the first mistakes, small; nothing where there are none."""
    rows = np.array(list(dict.fromkeys(one.row for one in found)), np.int64)
    images: list[NDArray[np.uint8]] = []
    most = len(rows)
    while len(images) < most:
        part = rows[len(images) : min(most, len(images) + _AT_ONCE)]
        images += [thumbnail(pixels, PICTURE_SIDE) for pixels in subject.pictures(subject.data.test, part)]
        most = min(most, max(1, MOST_BYTES // images[0].nbytes))
    return {"rows": rows[:most], "images": np.stack(images[:most])} if most else {}


def _table(found: Sequence[Mistake], middle: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", *middle.split(","), "confidence"])
    for one in found:
        writer.writerow([one.row, one.true, one.predicted, f"{one.confidence:.9g}"])
    return text.getvalue()
