"""Reliability: how often a method is right where it says that it is right with probability p."""

import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from normhpc.report.elements import figure, paragraph
from normhpc.report.finding import Found
from normhpc.report.study import Study
from normhpc.report.svg import Axis, Plot, legend

MOST_BLOCKS = 8

_CAPTION = (
    "Reliability, without tempering: share of right answers against mean confidence, in the 15 bins of the equal-width ECE, "
    "images of all seeds together. On the dashed line a method is right as often as it says; below it, it says too much. "
    "Bins of few images scatter: the floors in the table of calibration say how far."
)


def pooled(bins: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, share of right answers and number of images, (B,) each, of the seeds' ``bins`` together.

    Those are (3, B): images, confidence and accuracy, NaN in bins without images; so are bins without images of all.
    """
    each = np.stack(bins)
    images = each[:, 0].sum(axis=0)
    sums = np.where(each[:, :1] > 0, each[:, :1] * each[:, 1:], 0.0).sum(axis=0)
    means = np.divide(sums, images, out=np.full(sums.shape, np.nan), where=images > 0)
    return means[0], means[1], images.astype(np.int64)


def reliability_figure(study: Study, found: Sequence[Found]) -> Iterator[str]:
    """A drawing for each block whose results of calibration have bins; nothing where none has."""
    bins: dict[int, list[NDArray[np.float64]]] = {}
    for one in found:
        if one.what == "calibration" and (read := _bins(one)) is not None:
            bins.setdefault(int(study.cell_of[one.run]), []).append(read)
    drawings: list[str] = []
    for block, name in enumerate(study.blocks):
        cells = [cell for cell in study.cells_in(block) if cell in bins]
        if cells and len(drawings) < MOST_BLOCKS:
            title = f"{name}: reliability" if len(study.blocks) > 1 else "Reliability"
            plot = Plot(
                title, Axis("confidence", 0.0, 1.0), Axis("right (share)", 0.0, 1.0), says=f"{len(cells)} methods."
            )
            plot.reference([0.0, 1.0], [0.0, 1.0])
            for cell in cells:
                _draw(plot, study, cell, bins[cell])
            drawings.append(plot.svg())
    if drawings:
        yield "<h3>calibration</h3>"
        yield legend(study.methods)
        yield paragraph(_CAPTION)
        yield figure(drawings)


def _draw(plot: Plot, study: Study, cell: int, bins: list[NDArray[np.float64]]) -> None:
    series = study.cell_method[cell]
    confidence, right, images = pooled(bins)
    there = images > 0
    plot.line(series, confidence[there], right[there])
    for at, share, count in zip(confidence[there], right[there], images[there], strict=True):
        plot.dot(
            series, at, share, f"{study.cell_name(cell)}: right {share:.3f} at confidence {at:.3f}, {count} images"
        )


def _bins(one: Found) -> NDArray[np.float64] | None:
    """(3, B) of the bins of equal width; None where they cannot be read, as of several labels."""
    try:
        with np.load(one.folder / "calibration.npz") as content:
            parts = [content[f"equal_width_{part}"] for part in ("images", "confidence", "accuracy")]
            read = np.array(parts, np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return read if read.ndim == 2 and read.shape[1] == 15 else None
