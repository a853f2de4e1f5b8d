"""Do maps lie on the objects they speak for? COCO's boxes of each label that a network finds, a row for each norm.

Needs `normhpc analyze RUNS_DIR --what saliency` of runs on shards that data_prep/coco.py has made, and --boxes, the file of
their test images (instances_val2017.json). Pointing game: whether the highest pixel of a map is in a box of its label.
Energy: the share of the map that is. Grey: chance, the share of the image's pixels that are in boxes.
"""

import argparse
from pathlib import Path

import pandas as pd

from normhpc.config.data import Shards
from normhpc.errors import InputError
from normhpc.posthoc.boxes import OnObjects, on_objects, read_boxes
from normhpc.posthoc.load import lowest_seeds
from normhpc.results import figures
from normhpc.results.explained import own_and_common, parts_of

MOST_ROWS = 40
MEANS = [f"{of}_{part}" for of in ("own", "common") for part in ("mean", "low", "high", "n")]
COLUMNS = ["panel", "norm", "seed", "run_id", "measure", *MEANS]


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Norms down, the pointing game and the energy across."""
    runs, kept = lowest_seeds(given, "saliency", MOST_ROWS)
    config = next(iter(kept.values())).folder.read_run().config.data
    if given.boxes is None or not isinstance(config, Shards):
        found = "no file" if given.boxes is None else "runs on other data"
        raise InputError(f"--boxes: expected COCO's instances_*.json of the test images of runs on shards, got {found}")
    boxes, arrays = read_boxes(given.boxes), [kept[run].arrays() for run in runs["run_id"]]
    arrays = [own | on_objects(own, config, boxes)._asdict() for own in arrays]
    means = {measure: own_and_common(arrays, measure) for measure in OnObjects._fields}
    rows = [
        (run.panel, run.norm, run.seed, run.run_id, measure, *parts_of(own), *parts_of(common))
        for measure, found in means.items()
        for run, (own, common) in zip(runs.itertuples(), found, strict=True)
    ]
    caption = (
        f"Grad-CAM and the boxes of the labels found: mean and 95 % Student t interval over "
        f"{figures.counted(row[8] for row in rows)} images, labels of one averaged first. Grey: chance. The run of the lowest "
        "seed for each norm. The table has the same over the labels that all of these networks find."
    )
    figure, [axes] = figures.page(1, 2, 4.0, 0.9 + 0.27 * len(runs), caption, sharey=True)
    for axis, measure in zip(axes, ("pointing", "energy"), strict=True):
        for place, (own, _) in enumerate(means[measure]):
            if own is None:
                continue
            figures.dot(axis, place, own.mean, own.low, own.high, reference=False)
            axis.plot([means["chance"][place][0].mean], [place], "|", color="#777777", markersize=12)
        axis.set_xlabel(f"{measure} (fraction)")
    figures.name_rows(axes[0], [f"{run.norm} {run.panel}" for run in runs.itertuples()])
    return figures.Drawing(figure, pd.DataFrame(rows, columns=COLUMNS))


if __name__ == "__main__":
    figures.run("pointing_game", __doc__, draw, options={"--boxes": {"type": Path, "metavar": "FILE"}})
