"""A second count of the tables of images on which norms disagree: the arrays of the run folders and sets of images.

Of the first code nothing is used but which runs a page compares; every number is made again from ``predictions.npz``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normhpc.report.disagreement import MOST_ROWS, MOST_ROWS_OF_BLOCK, ComparedBlock, compared_blocks
from normhpc.report.recount import Recount
from normhpc.report.study import Study

Place = tuple[int, int]
"""Row of an image and number of a label, 0 where an image has one."""


class Answers(NamedTuple):
    """What one network says of N images in any order, of K labels each where labels are several, else K = 1."""

    at: dict[int, int]
    """Of each row its place in the arrays."""
    logits: NDArray[Any]
    """(N, outputs)."""
    said: NDArray[np.integer]
    """(N, K): a class, or 1 where a label is predicted."""
    right: NDArray[np.bool_]
    """(N, K)."""

    def places(self, chosen: NDArray[np.bool_]) -> set[Place]:
        """Where ``chosen`` (N, K) is true."""
        rows = list(self.at)
        return {
            (rows[image], label) for image, label in zip(*(part.tolist() for part in chosen.nonzero()), strict=True)
        }


def recounted_answers(study: Study) -> Iterator[Recount]:
    """Counts, consistency and every listed image of each block that is compared."""
    for block in compared_blocks(study)[0]:
        yield from _block(block)


def _block(block: ComparedBlock) -> Iterator[Recount]:
    seeds = [[_answers(Path(place)) for place in norm.places] for norm in block.disagreement.norms]
    wrong = [set.intersection(*(run.places(~run.right) for run in runs)) for runs in seeds]
    # far more are right than wrong
    unsure = [set.union(*(run.places(~run.right) for run in runs)) for runs in seeds]
    names = [norm.name for norm in block.disagreement.norms]
    disputed: dict[tuple[int, int], list[Place]] = {}
    for i, runs in enumerate(seeds):
        yield f"disagreement{block.suffix}", i, "n", float(len(runs))
        yield f"disagreement{block.suffix}", i, "consistent", _consistent(runs) if len(runs) > 1 else None
        for j, name in enumerate(names):
            disputed[i, j] = sorted(wrong[i] - unsure[j])
            yield f"disagreement{block.suffix}", i, f"right:{name}", _images(disputed[i, j]) if i != j else None
            yield f"shared-mistakes{block.suffix}", i, f"wrong:{name}", _images(wrong[i] & wrong[j])
    yield from _listed(block, seeds, disputed)


def _listed(
    block: ComparedBlock, seeds: Sequence[Sequence[Answers]], disputed: dict[tuple[int, int], list[Place]]
) -> Iterator[Recount]:
    """The listed images: those of the norms that disagree on most images first."""
    number = {way: _images(places) for way, places in disputed.items()}
    pairs = [(i, j) for i in range(len(seeds)) for j in range(i + 1, len(seeds))]
    pairs.sort(key=lambda pair: -(number[pair] + number[pair[1], pair[0]]))
    row = 0
    for pair in pairs:
        for i, j in sorted((pair, (pair[1], pair[0])), key=lambda way: -number[way]):
            found = [_of_seeds(seeds[i], place, block.disagreement.multiple) for place in disputed[i, j]]
            found.sort(key=lambda image: (-image[0], -round(image[1], 6), image[2]))
            for agreeing, confidence, place in found[: min(MOST_ROWS, MOST_ROWS_OF_BLOCK - row)]:
                values = {"row": place[0], "confidence": confidence, "seeds_agreeing": agreeing}
                values |= {"seeds_wrong": len(seeds[i]), "seeds_right": len(seeds[j])}
                for key, value in values.items():
                    yield f"disputed-images{block.suffix}", row, key, float(value)
                row += 1


def _of_seeds(runs: Sequence[Answers], place: Place, several: bool) -> tuple[int, float, Place]:
    """Of ``runs`` how many give the most common answer at ``place``, and the mean probability of their own answers."""
    row, label = place
    said = Counter(int(run.said[run.at[row], label]) for run in runs)
    shares = [_probability(run.logits[run.at[row]].tolist(), label if several else None) for run in runs]
    return max(said.values()), math.fsum(shares) / len(runs), place


def _probability(logits: list[float], label: int | None) -> float:
    """Of the answer: the softmax of the highest logit, or the sigmoid for or against ``label``."""
    if label is not None:
        return 1 / (1 + math.exp(-abs(logits[label])))
    return 1 / math.fsum(math.exp(logit - max(logits)) for logit in logits)


def _answers(folder: Path) -> Answers:
    with np.load(folder / "posthoc" / "predictions.npz") as arrays:
        logits, labels, rows = (arrays[name] for name in ("logits", "labels", "rows"))
    several = labels.ndim == 2
    said = (logits[:, : labels.shape[1]] >= 0).astype(np.int8) if several else np.argmax(logits, axis=1)[:, None]
    right = said == (labels if several else labels[:, None])
    return Answers({row: image for image, row in enumerate(rows.tolist())}, logits, said, right)


def _consistent(runs: Sequence[Answers]) -> float:
    """Share of images to which all ``runs`` say the same."""
    first = runs[0]
    differing = set()
    for run in runs[1:]:
        other = run.said[[run.at[row] for row in first.at]]
        differing |= {row for row, _ in first.places(other != first.said)}
    return 1 - len(differing) / len(first.at)


def _images(places: Iterable[Place]) -> float:
    return float(len({row for row, _ in places}))
