"""Learning curves: a small drawing for each block, split and quality, the seeds of a method as a band."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from normhpc.report.elements import Section, figure, paragraph
from normhpc.report.study import Curve, Study
from normhpc.report.svg import Axis, Plot, axis_over, legend
from normhpc.results.names import quality_of

MOST_BLOCKS = 8
MOST_EPOCHS = 80
QUARTILES_FROM = 5
"""Seeds from which on a band is the quartiles; below it reaches from the lowest to the highest."""

_SPLITS = ("train", "val", "test")


def curves_section(study: Study) -> Section:
    """Curves of the loss and of the study's metric over epochs."""
    qualities = list(dict.fromkeys([quality_of(study.metric), "loss"]))
    parts: list[str] = []
    for block in range(min(len(study.blocks), MOST_BLOCKS)):
        plots = list(_plots(study, block, qualities))
        if plots:
            parts.append(figure(plots, study.blocks[block] if len(study.blocks) > 1 else ""))
    if not parts:
        return Section("curves", "Learning curves", (paragraph("No run has measured two epochs: no curves."),))
    if len(study.blocks) > MOST_BLOCKS:
        parts.append(paragraph(f"Drawn are the first {MOST_BLOCKS} of {len(study.blocks)} blocks."))
    return Section("curves", "Learning curves", (legend(study.methods), paragraph(_caption(study)), *parts))


def stacked(curves: Sequence[Curve]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All epochs (E,) of ``curves``, and what each measured there (runs, E), NaN where it did not."""
    epochs = np.unique(np.concatenate([own for own, _ in curves]))
    values = np.full((len(curves), len(epochs)), math.nan)
    for row, (own, measured) in zip(values, curves, strict=True):
        row[np.searchsorted(epochs, own)] = measured
    return epochs, values


def thinned(count: int, most: int = MOST_EPOCHS) -> NDArray[np.int64]:
    """The numbers of at most ``most`` of ``count`` points, evenly spread, the first and the last among them."""
    return np.unique(np.round(np.linspace(0, count - 1, min(count, most))).astype(np.int64))


def middle_and_band(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Median, lower and upper edge over the runs (runs, E): quartiles from five runs on, below the extremes.

    Only epochs that all runs have: a median over ever fewer runs would jump as they end.
    """
    whole = ~np.isnan(values).any(axis=0)
    ends = (25, 75) if len(values) >= QUARTILES_FROM else (0, 100)
    found = np.full((3, values.shape[1]), math.nan)
    found[:, whole] = np.percentile(values[:, whole], [50, *ends], axis=0)
    return found[0], found[1], found[2]


def _plots(study: Study, block: int, qualities: Sequence[str]) -> Iterator[str]:
    for quality in qualities:
        last_split = next((split for split in ("val", "train") if _by_cell(study, block, split, quality)), None)
        for split in _SPLITS:
            cells = _by_cell(study, block, split, quality)
            if cells and any(len(epochs) > 1 for epochs, _ in cells.values()):
                points = _final_points(study, block, quality) if split == last_split else {}
                yield _plot(study, f"{split} {quality}", quality, cells, points)


def _by_cell(
    study: Study, block: int, split: str, quality: str
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Epochs and (runs, E) values of each cell of ``block`` that measured ``quality`` on ``split`` in two epochs."""
    curves = study.curves(split, quality)
    found = {}
    for cell in study.cells_in(block):
        own = [curves[run] for run in study.runs_of(cell) if run in curves and len(curves[run][0]) > 1]
        if own:
            found[cell] = stacked(own)
    return found


def _final_points(study: Study, block: int, quality: str) -> dict[int, tuple[int, float]]:
    """Of each cell the last epoch and mean on test, where test was measured once."""
    found = {}
    curves = study.curves("test", quality)
    for cell in study.cells_in(block):
        own = [curves[run] for run in study.runs_of(cell) if run in curves]
        if own and all(len(epochs) == 1 for epochs, _ in own):
            found[cell] = (max(int(epochs[0]) for epochs, _ in own), float(np.mean([values[0] for _, values in own])))
    return found


def _plot(
    study: Study,
    title: str,
    quality: str,
    cells: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]],
    points: dict[int, tuple[int, float]],
) -> str:
    bands = {cell: middle_and_band(values) for cell, (_, values) in cells.items()}
    heights = [float(value) for lines in bands.values() for line in lines for value in line]
    heights += [value for _, value in points.values()]
    ends = [float(epoch) for epochs, _ in cells.values() for epoch in (epochs[0], epochs[-1])]
    log = quality == "loss" and _spans_decades(heights)
    y = axis_over(f"{quality}{_unit(quality)}", heights, log=log)
    plot = Plot(title, Axis("epoch", *_widened(min(ends), max(ends)), whole=True), y, says=f"{len(cells)} methods.")
    for cell, (epochs, values) in cells.items():
        median, low, high = bands[cell]
        series, kept = study.cell_method[cell], thinned(len(epochs))
        if len(values) > 1:
            plot.band(series, epochs[kept], low[kept], high[kept])
        plot.line(series, epochs[kept], median[kept])
    for cell, (epoch, value) in points.items():
        tip = f"{study.cell_name(cell)}: test {quality} {value:.4g} after epoch {epoch}"
        plot.dot(study.cell_method[cell], epoch, value, tip, kind="dot hollow")
    return plot.svg()


def _spans_decades(values: Sequence[float]) -> bool:
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 20 * min(finite)


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _unit(quality: str) -> str:
    return " (nats)" if quality == "loss" else " (share)"


def _caption(study: Study) -> str:
    longest = max((len(epochs) for split in _SPLITS for epochs, _ in study.curves(split, "loss").values()), default=0)
    kept = f" Of {longest} epochs {MOST_EPOCHS} are drawn." if longest > MOST_EPOCHS else ""
    return (
        f"Median over seeds at the end of each epoch that all of them have; the band holds the middle half of the "
        f"seeds, with fewer than {QUARTILES_FROM} all of them. Circles: mean on test after the last epoch. train is "
        f"measured while learning, on augmented images.{kept}"
    )
