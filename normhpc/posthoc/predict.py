"""Labels for images that a user gives, from a trained network.

Torch is loaded last: what is wrong with the run, the images or the place to write to is told before.
"""

import csv
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from normhpc.config.data import DataPart
from normhpc.errors import InputError, Problem
from normhpc.files import replace_file
from normhpc.posthoc.given_images import GivenImages, read_given
from normhpc.posthoc.given_shards import GivenShards, is_split
from normhpc.posthoc.progress import with_bar
from normhpc.record import RunFolder, RunInfo, read_status
from normhpc.record.state import SEALED

if TYPE_CHECKING:
    import torch

Weights = Literal["best", "last"]


class Network(Protocol):
    """A trained network, as :class:`normhpc.train.trained.Trained` is one."""

    @property
    def classes(self) -> Sequence[str]:
        """Name of each label."""

    def logits(self, pixels: NDArray[np.generic], block: int | None) -> "Iterator[torch.Tensor]":
        """Logits (B, outputs) of (N, H, W, C) stored values, ``block`` images after another."""


def predict(
    folder: RunFolder,
    images: Path,
    out: Path,
    *,
    load: Callable[[RunFolder, RunInfo, Path], Network],
    console: Console,
    weights: Weights | None = None,
    probabilities: bool = False,
    batch_size: int | None = None,
) -> None:
    """Write to the CSV file ``out`` what the network of a run says of ``images``: a CSV file, a folder, a split of shards.

    Columns: ``row`` (from 0), ``file`` or ``id``; ``label``, a number; ``class``, its name; with ``probabilities`` a ``p_``
    column for each class. Runs with several labels per image have those of a probability of at least 1/2, separated by ``;``.
    ``load`` gives the network with the weights in a file. The images are treated as ``test`` images are: in blocks of
    the same size (``batch_size`` None) the same images give the bits that they gave when the run was evaluated.

    Raises :class:`InputError` for a run without weights, images that do not fit it and a place that cannot be
    written; nothing is written then.
    """
    info = folder.read_run()
    file = weights_file(folder, weights)
    _check_writable(out)
    given = _given(images, info.config.data, console)
    network = load(folder, info, file)
    answers = _ask(network, info.config.data.labels() == "multi", given, batch_size, file, console)
    table = _table(given, answers, probabilities=probabilities)
    replace_file(out, lambda target: target.write(table.encode()))
    noun = "image" if len(given) == 1 else "images"
    console.print(f"{len(given):,} {noun} with the weights of {file}: {out}", soft_wrap=True)


def _given(place: Path, data: DataPart, console: Console) -> GivenImages | GivenShards:
    if place.is_dir() and is_split(place):
        return GivenShards(place, data)
    return read_given(place, data.stored_shape(), console)


def weights_file(folder: RunFolder, weights: Weights | None) -> Path:
    """Where the ``weights`` of a run lie; for None the best if the run kept them, else the last.

    Raises :class:`InputError` when they are not there.
    """
    if weights == "best" and not folder.best.is_file():
        raise InputError(
            f"{folder.best}: not there, the run keeps it only with checkpoint.keep_best; use --weights last"
        )
    if weights != "last" and folder.best.is_file():
        return folder.best
    if not folder.checkpoint.is_file():
        state = read_status(folder).state
        # training refuses a run that has its result
        remedy = f"put them back, or delete {folder.path} and launch the sweep again"
        remedy = remedy if state in SEALED else f"train it: normhpc train {folder.path}"
        remedy = "leave it out" if state == "diverged" else remedy
        raise InputError(f"{folder.checkpoint}: not there, the run is {state} and has no weights; {remedy}")
    return folder.checkpoint


def _check_writable(out: Path) -> None:
    if out.is_dir():
        raise InputError(Problem("expected a file to write, this is a folder", path="--out", file=str(out)))
    if not out.parent.is_dir():
        raise InputError(Problem("there is no such folder to write into", path="--out", file=str(out.parent)))
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        text = f"cannot be written: {error.strerror}; choose another place"
        raise InputError(Problem(text, path="--out", file=str(out.parent))) from None


class Answers(NamedTuple):
    """What a network says of N images."""

    labels: list[list[int]]
    """Of each image."""
    probabilities: NDArray[np.float32]
    """(N, outputs)."""
    classes: Sequence[str]
    """Name of each label; there may be more outputs than labels."""


def _ask(
    network: Network,
    multiple: bool,
    given: GivenImages | GivenShards,
    batch_size: int | None,
    file: Path,
    console: Console,
) -> Answers:
    import torch

    blocks = (logits for pixels in given.blocks() for logits in network.logits(pixels, batch_size))
    logits = torch.cat(list(with_bar(blocks, "predicting", len(given), console, size=len)))
    if not logits.isfinite().all():
        raise InputError(f"{file}: this network's outputs are not finite; choose others with --weights")
    if multiple:
        shares = logits.sigmoid()
        # as an evaluation has it; outputs beyond the labels' classes are none
        labels = [row.nonzero().flatten().tolist() for row in logits[:, : len(network.classes)] >= 0]
    else:
        # from the logits: probabilities close to 1 are equal in fp32 where logits still differ
        shares, labels = logits.softmax(dim=1), logits.argmax(dim=1, keepdim=True).tolist()
    return Answers(labels, shares.numpy(), network.classes)


def _table(given: GivenImages | GivenShards, answers: Answers, *, probabilities: bool) -> str:
    # a head may have more outputs than there are classes
    outputs = answers.probabilities.shape[1]
    names = [*answers.classes, *map(str, range(len(answers.classes), outputs))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([given.key, "label", "class", *(f"p_{name}" for name in names if probabilities)])
    for key, labels, row in zip(given.names, answers.labels, answers.probabilities, strict=True):
        shares = [f"{value:.9g}" for value in row.tolist()] if probabilities else []  # as many digits as fp32 has
        writer.writerow([key, ";".join(map(str, labels)), ";".join(names[label] for label in labels), *shares])
    return text.getvalue()
