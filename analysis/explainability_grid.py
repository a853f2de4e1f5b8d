"""Where networks look: Grad-CAM of the same test images, a column for each norm, with the SRG of every map under it.

Needs `normhpc analyze RUNS_DIR --what saliency` and the images of the runs; --images N shows the first N of them.
SRG (--metric: another array of saliency.npz): area between the shares of unchanged answers when the least and when the
most important pixels go first; 1 is best, 0 is what a random order gains.
"""

import argparse

import numpy as np
import pandas as pd

from normhpc import data
from normhpc.errors import InputError
from normhpc.posthoc.load import Kept, load_kept
from normhpc.posthoc.pictures import shown, to_look_at
from normhpc.results import figures

MOST_COLUMNS = 8
COLUMNS = ["panel", "norm", "seed", "run_id", "row", "label", "predicted", "right", "zero", "measure", "value"]


def chosen_runs(given: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Kept]]:
    """The run of the lowest seed for each norm (and network), all on the same images; and what was kept of each."""
    kept, runs = load_kept(given.dirs, "saliency"), figures.compared_runs(given)
    runs = runs[runs["run_id"].isin(kept)].sort_values("seed", kind="stable")
    titles = {run: panel.title for panel in figures.panels(runs, "norm") for run in panel.runs["run_id"]}
    runs = runs.assign(panel=runs["run_id"].map(titles)).drop_duplicates(["norm", "panel"]).sort_index()
    sets = runs["data_digest"].nunique(dropna=False)
    if len(runs) > MOST_COLUMNS or sets != 1:
        found = f"{len(runs)} networks on {sets} sets of images; choose with --only FIELD=VALUE"
        raise InputError(f"expected 1 to {MOST_COLUMNS} analysed networks on one set of images, got {found}")
    return runs, {run: kept[run] for run in runs["run_id"]}


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Images down; the image itself, then a map for each norm across."""
    cells, (runs, kept), measure = [], chosen_runs(given), given.metric or "srg_retention"
    arrays = {run: own.arrays() for run, own in kept.items()}
    if any(own.get(measure, np.zeros(())).ndim != 1 for own in arrays.values()):
        raise InputError(f"--metric: expected a number of each image, srg_retention for instance, got {measure}")
    config = next(iter(kept.values())).folder.read_run().config.data
    images = data.load(config)
    rows = sorted(set.intersection(*(set(own["rows"].tolist()) for own in arrays.values())))[: max(1, given.images)]
    caption = (
        f"Grad-CAM of the predicted class over test images, {measure} under each map, the mean over the n images of the "
        "analysis with its standard error above. X: the answer is wrong. The run of the lowest seed for each norm."
    )
    figure, axes = figures.page(len(rows), len(runs) + 1, 1.5, 1.75, caption)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for line, row in zip(axes, rows, strict=True):
        pixels, label = shown(to_look_at(images, config, images.test, np.array([row]))[0]), images.test.labels[row]
        words = images.classes[int(label)] if label.ndim == 0 else ""
        line[0].imshow(pixels)
        line[0].set_xlabel(f"{row}: {words}")
        for axis, run in zip(line[1:], runs.itertuples(), strict=True):
            own = arrays[run.run_id]
            at = own["rows"].tolist().index(row)
            right, zero, value = (own[name][at].item() for name in ("right", "zero", measure))
            axis.imshow(pixels, extent=(0, 1, 0, 1))
            look = {"cmap": "inferno", "alpha": 0.6, "vmin": 0, "vmax": 1}
            heat = axis.imshow(own["maps"][at].astype(float), extent=(0, 1, 0, 1), **look)
            axis.set_xlabel(f"{value:.2f}{'' if right else ' X'}{' all 0' if zero else ''}")
            answer = (row, words, int(own["predicted"][at]), right, zero)
            cells.append((run.panel, run.norm, run.seed, run.run_id, *answer, measure, value))
    axes[0][0].set_title("image")
    for axis, run in zip(axes[0][1:], runs.itertuples(), strict=True):
        each = arrays[run.run_id][measure]
        error = f" ± {each.std(ddof=1) / len(each) ** 0.5:.2f}" if len(each) > 1 else ""
        name = f"{run.norm} {run.panel.replace(',', '')} seed={run.seed}".replace(" ", "\n")
        axis.set_title(f"{name}\nmean {each.mean():.2f}{error}\nn = {len(each)}", fontsize=figures.FONT_POINTS)
    figure.colorbar(heat, ax=figure.axes, label="Grad-CAM (share of its maximum)", shrink=0.5)
    return figures.Drawing(figure, pd.DataFrame(cells, columns=COLUMNS))


if __name__ == "__main__":
    figures.run("explainability_grid", __doc__, draw, options={"--images": {"type": int, "default": 6, "metavar": "N"}})
