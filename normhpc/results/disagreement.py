"""Images that all seeds of one norm get wrong and all seeds of another right: what the norm changes, not the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normhpc.errors import InputError
from normhpc.results.predictions import RunAnswers

_DECIMALS = 6
"""Of a confidence, where images are put in order."""


class Disputed(NamedTuple):
    """An image that all seeds of ``norm_wrong`` get wrong and all seeds of ``norm_right`` right.

    Of an image of several labels one for each such label: ``true`` is the class, ``predicted`` says ``false positive`` or
    ``false negative``.
    """

    norm_wrong: str
    norm_right: str
    row: int
    true: str
    predicted: str
    """What most of the seeds answer; of answers equally frequent the class of the lower number."""
    confidence: float
    """Mean over the seeds of ``norm_wrong`` of the probability that each gives its own answer."""
    seeds_agreeing: int
    """Seeds of ``norm_wrong`` that answer ``predicted``."""
    seeds_wrong: int
    """Seeds of ``norm_wrong``."""
    seeds_right: int
    """Seeds of ``norm_right``."""


@dataclass(frozen=True, slots=True, eq=False)
class NormAnswers:
    """What the seeds of one norm say together of N images, of K labels each where labels are several (else K = 1)."""

    name: str
    places: tuple[str, ...]
    """The folders of the runs."""
    rows: NDArray[np.int64]
    """(N,) ascending."""
    labels: NDArray[np.integer]
    """(N,) or (N, K)."""
    right: NDArray[np.bool_]
    """(N * K,): every seed is right."""
    wrong: NDArray[np.int64]
    """(W,) ascending places in ``right`` where every seed is wrong."""
    predicted: NDArray[np.integer]
    """(W,) the most common answer there."""
    confidence: NDArray[np.float64]
    """(W,) mean over seeds of the probability of their own answer."""
    agreeing: NDArray[np.int64]
    """(W,) seeds that give the most common answer."""
    consistent: float
    """Share of images on which all seeds give the same answer; of several labels the same to all of them."""
    weights: tuple[str, ...]
    """Names of the files of their weights, each once."""

    @property
    def seeds(self) -> int:
        """How many runs these are."""
        return len(self.places)

    @property
    def width(self) -> int:
        """K."""
        return 1 if self.labels.ndim == 1 else self.labels.shape[1]

    def images(self, places: NDArray[np.int64]) -> int:
        """How many images ``places`` lie in."""
        return len(np.unique(places // self.width))


@dataclass(frozen=True, slots=True, eq=False)
class Disagreement:
    """M norms on the same N images."""

    norms: tuple[NormAnswers, ...]
    wrong_right: NDArray[np.int64]
    """(M, M) images that all seeds of norm i get wrong and all seeds of norm j right; of several labels in at least one."""
    both_wrong: NDArray[np.int64]
    """(M, M) images that all seeds of both get wrong, of several labels in the same one; on the diagonal: all of one."""

    @property
    def images(self) -> int:
        """N."""
        return len(self.norms[0].rows)

    @property
    def multiple(self) -> bool:
        """Whether an image has any number of labels."""
        return self.norms[0].labels.ndim == 2

    def pairs(self) -> list[tuple[int, int]]:
        """All pairs i < j, those with most images on which they disagree, either way, first; then as the norms come."""
        counts = self.wrong_right + self.wrong_right.T
        first, second = np.triu_indices(len(self.norms), 1)
        order = np.argsort(-counts[first, second], kind="stable")
        return [(int(first[one]), int(second[one])) for one in order]

    def disputed(self, wrong: int, right: int, classes: Sequence[str] = ()) -> list[Disputed]:
        """What norm ``wrong`` gets wrong and norm ``right`` right: most seeds that agree first, then the highest mean
        confidence to six decimals, then by row and label. A class without a name in ``classes`` is its number.
        """
        one, other = self.norms[wrong], self.norms[right]
        chosen = np.flatnonzero(other.right[one.wrong])
        places = one.wrong[chosen]
        # rounded: what differs by the last bit of a softmax must not change the order
        order = np.lexsort((places, -one.confidence[chosen].round(_DECIMALS), -one.agreeing[chosen]))
        found = []
        for at, place in zip(chosen[order].tolist(), places[order].tolist(), strict=True):
            image, label = divmod(place, one.width)
            answer = int(one.predicted[at])
            if self.multiple:
                true, predicted = _named(label, classes), "false positive" if answer else "false negative"
            else:
                true, predicted = _named(int(one.labels[image]), classes), _named(answer, classes)
            counts = (int(one.agreeing[at]), one.seeds, other.seeds)
            row, confidence = int(one.rows[image]), float(one.confidence[at])
            found.append(Disputed(one.name, other.name, row, true, predicted, confidence, *counts))
        return found

    def table(self, classes: Sequence[str] = ()) -> pd.DataFrame:
        """All of :meth:`disputed` for every two norms, in the order of the norms."""
        return pd.DataFrame(self._all(classes), columns=list(Disputed._fields))

    def _all(self, classes: Sequence[str]) -> Iterator[Disputed]:
        for wrong in range(len(self.norms)):
            for right in range(len(self.norms)):
                if wrong != right:
                    yield from self.disputed(wrong, right, classes)


def joined(name: str, runs: Sequence[RunAnswers]) -> NormAnswers:
    """What ``runs``, the seeds of the norm ``name``, say together.

    Raises :class:`~normhpc.errors.InputError` when they are not about the same images.
    """
    first = runs[0]
    for other in runs[1:]:
        _check_same(first, first.place, other, other.place)
    predicted = np.stack([run.predicted.ravel() for run in runs])
    is_right = predicted == first.labels.ravel()
    wrong = np.flatnonzero(~is_right.any(axis=0))
    answers = predicted[:, wrong]
    # (S, W): how many seeds give the answer of each; of equally frequent ones the lower number counts as the more frequent
    votes = (answers[:, None] == answers[None]).sum(axis=0)
    best = np.argmax(votes * (int(answers.max(initial=0)) + 1) - answers, axis=0)[None]
    same = (predicted == predicted[0]).all(axis=0).reshape(len(first.rows), -1).all(axis=1)
    return NormAnswers(
        name=name,
        places=tuple(run.place for run in runs),
        rows=first.rows,
        labels=first.labels,
        right=is_right.all(axis=0),
        wrong=wrong,
        predicted=np.take_along_axis(answers, best, axis=0)[0],
        confidence=np.mean([run.confidence.ravel()[wrong] for run in runs], axis=0),
        agreeing=np.take_along_axis(votes, best, axis=0)[0],
        consistent=float(same.mean()),
        weights=tuple(dict.fromkeys(run.weights for run in runs if run.weights)),
    )


def compare(norms: Sequence[NormAnswers]) -> Disagreement:
    """``norms``, at least one, beside each other.

    Raises :class:`~normhpc.errors.InputError` when they are not about the same images.
    """
    for other in norms[1:]:
        _check_same(norms[0], norms[0].places[0], other, other.places[0])
    count = len(norms)
    wrong_right, both_wrong = np.zeros((count, count), np.int64), np.zeros((count, count), np.int64)
    for i, one in enumerate(norms):
        for j, other in enumerate(norms):
            wrong_right[i, j] = one.images(one.wrong[other.right[one.wrong]])
            both_wrong[i, j] = one.images(np.intersect1d(one.wrong, other.wrong, assume_unique=True))
    return Disagreement(tuple(norms), wrong_right, both_wrong)


def _check_same(first: RunAnswers | NormAnswers, there: str, other: RunAnswers | NormAnswers, here: str) -> None:
    hint = "compare runs on the same data, or analyze them again: normhpc analyze RUN --what predictions --again"
    if not np.array_equal(first.rows, other.rows):
        foreign = len(np.setdiff1d(other.rows, first.rows))
        raise InputError(
            f"{here}: expected answers to the {len(first.rows)} test images of {there}, "
            f"got {len(other.rows)}, {foreign} of them to other rows; {hint}"
        )
    if not np.array_equal(first.labels, other.labels):
        raise InputError(f"{here}: expected the labels of the test images of {there}, got others; {hint}")


def _named(label: int, classes: Sequence[str]) -> str:
    return classes[label] if label < len(classes) else str(label)
