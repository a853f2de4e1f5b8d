"""Where networks look: Grad-CAM of the same test images, a column for each norm, with the SRG of every map under it.

Needs `normhpc analyze RUNS_DIR --what saliency` and the images of the runs; --images N shows the first N of them, or where
images have several labels the first N labels of images.
SRG (--metric: another array of saliency.npz): area between the shares of unchanged answers when the least and when the
most important pixels go first; 1 is best, 0 is what a random order gains. Its mean over each network's own images, and
over the common list: the answers that all of the networks shown get right.
"""

import argparse

import numpy as np
import pandas as pd

from normhpc import data
from normhpc.errors import InputError
from normhpc.posthoc.load import lowest_seeds
from normhpc.posthoc.pictures import shown, to_look_at
from normhpc.results import figures
from normhpc.results.explained import own_and_common, parts_of, told

MOST_COLUMNS = 40
MEANS = [f"{of}_{part}" for of in ("own", "common") for part in ("mean", "low", "high", "n")]
COLUMNS = ["panel", "norm", "seed", "run_id", *MEANS]
COLUMNS += ["row", "label", "class", "right", "zero", "measure", "value"]


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Images down; the image itself, then a map for each norm across."""
    cells, (runs, kept), measure = [], lowest_seeds(given, "saliency", MOST_COLUMNS), given.metric or "srg_retention"
    arrays = [kept[run].arrays() for run in runs["run_id"]]
    if any(own.get(measure, np.zeros(())).ndim != 1 for own in arrays):
        raise InputError(f"--metric: expected a number of each image, srg_retention for instance, got {measure}")
    config = next(iter(kept.values())).folder.read_run().config.data
    images = data.load(config)
    answers = [list(zip(own["rows"].tolist(), own["labels"].tolist(), strict=True)) for own in arrays]
    caption = (
        f"Grad-CAM of the predicted class (several labels: of each label) over test images, {measure} under each map. X: "
        "the answer is wrong. Above: mean over the n images of the analysis with half of its 95 % Student t interval over "
        "images; common: over the answers that all networks shown get right. The run of the lowest seed for each norm."
    )
    shared = sorted(set.intersection(*map(set, answers)))[: max(1, given.images)]
    figure, axes = figures.page(len(shared), len(runs) + 1, 1.5, 1.75, caption)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0][0].set_title("image")
    for line, (row, label) in zip(axes, shared, strict=True):
        line[0].set_xlabel(f"{row}: {images.classes[label]}")
    for column, (run, means) in enumerate(zip(runs.itertuples(), own_and_common(arrays, measure), strict=True)):
        name = f"{run.norm} {run.panel.replace(',', '')} seed={run.seed}".replace(" ", "\n")
        title = [name, *(f"{of} {told(mean)}" for of, mean in zip(("mean", "common"), means, strict=True))]
        axes[0][column + 1].set_title(
            "\n".join(title).replace("common ", "common\n").replace(", n", "\nn"), fontsize=figures.FONT_POINTS
        )
        for line, (row, label) in zip(axes, shared, strict=True):
            own, at, axis = arrays[column], answers[column].index((row, label)), line[column + 1]
            pixels = shown(to_look_at(images, config, images.test, np.array([row]))[0])
            line[0].imshow(pixels)
            right, zero, value = (own[name][at].item() for name in ("right", "zero", measure))
            axis.imshow(pixels, extent=(0, 1, 0, 1))
            look = {"cmap": "inferno", "alpha": 0.6, "vmin": 0, "vmax": 1}
            heat = axis.imshow(own["maps"][at].astype(float), extent=(0, 1, 0, 1), **look)
            axis.set_xlabel(f"{value:.2f}{'' if right else ' X'}{' all 0' if zero else ''}")
            answer = (row, images.classes[label], own["classes"][at], right, zero, measure, value)
            cells.append((run.panel, run.norm, run.seed, run.run_id, *parts_of(means[0]), *parts_of(means[1]), *answer))
    figure.colorbar(heat, ax=figure.axes, label="Grad-CAM (share of its maximum)", shrink=0.5)
    return figures.Drawing(figure, pd.DataFrame(cells, columns=COLUMNS))


if __name__ == "__main__":
    figures.run("explainability_grid", __doc__, draw, options={"--images": {"type": int, "default": 6, "metavar": "N"}})
