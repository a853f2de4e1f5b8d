"""What a trained network says of its ``test`` images, and of ``val``: what other analyses are made from."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, softmax

from normhpc.data import Split, in_memory
from normhpc.errors import InputError
from normhpc.posthoc.kept import Finding, is_kept, keep, result_file
from normhpc.posthoc.parts import parts_of
from normhpc.posthoc.subject import Subject
from normhpc.record import read_summary

METHOD = (
    "Logits of the network in the precision and the blocks of the run's own evaluation: the bits that gave its "
    "recorded metrics. rows: numbers of the images in the split as it is stored. top1: share of images whose label "
    "has the highest logit, ties counted for the class of the lower number. loss: cross entropy, or binary cross "
    "entropy as a mean over classes, mean over images."
)


class Answers(NamedTuple):
    """Logits and labels of the images of ``test`` and ``val``."""

    logits: NDArray[np.float32]
    """(N, outputs) of ``test``."""
    labels: NDArray[np.int64]
    """(N,) of ``test``, or (N, K) of 0 and 1."""
    rows: NDArray[np.int64]
    """(N,)."""
    val_logits: NDArray[np.float32]
    val_labels: NDArray[np.int64]


def answers_of(subject: Subject) -> Answers:
    """The kept answers of the subject's weights; computed, and kept, where there are none."""
    if not is_kept(subject.folder, "predictions", subject.weights, None):
        keep(subject.folder, "predictions", analyse(subject), subject.provenance(None))
    with np.load(result_file(subject.folder, "predictions", ".npz")) as arrays:
        return Answers(*(arrays[name] for name in Answers._fields))


def analyse(subject: Subject) -> Finding:
    """Ask the network about all images of ``test`` and ``val``.

    Raises :class:`~normhpc.errors.InputError` when its outputs are not finite.
    """
    logits, val_logits = (_logits(subject, split) for split in (subject.data.test, subject.data.val))
    labels, val_labels = (split.labels.numpy().astype(np.int64) for split in (subject.data.test, subject.data.val))
    values: dict[str, float] = {"test_loss": mean_nll(logits, labels)}
    if not subject.multiple:
        values["test_top1"] = float((logits.argmax(axis=1) == labels).mean())
    told = [f"{name} {value:.4f}" for name, value in values.items()]
    headline = ", ".join([*told, f"n = {len(labels)} test images"])
    if subject.weights.path == subject.folder.checkpoint:
        final = (read_summary(subject.folder) or {}).get("final", {})
        values |= {f"recorded_{name}": final[name] for name in list(values) if isinstance(final.get(name), float)}
    arrays = Answers(logits, labels, np.arange(len(labels)), val_logits, val_labels)
    return Finding(
        method=METHOD,
        values=values,
        units={"test_loss": "nats", "recorded_test_loss": "nats", "test_top1": "share", "recorded_test_top1": "share"},
        n={"test_images": len(labels), "val_images": len(val_labels)},
        headline=headline,
        arrays=arrays._asdict(),
    )


def _logits(subject: Subject, split: Split) -> NDArray[np.float32]:
    if not len(split):
        return np.zeros((0, subject.config.data.classes()), np.float32)
    image_bytes = in_memory(split, np.arange(1)).images.nbytes
    parts = (in_memory(split, places) for places in parts_of(len(split), image_bytes))
    blocks = (logits for part in parts for logits in subject.network.logits(part.images.numpy()))
    logits = torch.cat(list(subject.with_bar(blocks, "predicting", len(split), len))).numpy()
    if not np.isfinite(logits).all():
        raise InputError(f"{subject.weights.path}: this network's outputs are not finite; choose others with --weights")
    return logits


def probabilities(logits: NDArray[np.floating], *, multiple: bool, temperature: float = 1.0) -> NDArray[np.float64]:
    """(N, K) in float64: softmax of ``logits / temperature``, or the sigmoid of each where labels are ``multiple``."""
    scaled = logits.astype(np.float64) / temperature
    shares: NDArray[np.float64] = expit(scaled) if multiple else softmax(scaled, axis=1)
    return shares


def mean_nll(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """-log p(labels), mean over images, p from ``logits / temperature``; mean over classes for labels (N, K)."""
    scaled = logits.astype(np.float64) / temperature
    if labels.ndim == 1:
        return float(-log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean())
    scaled = scaled[:, : labels.shape[1]]
    return float(-np.where(labels == 1, log_expit(scaled), log_expit(-scaled)).mean())
