"""Test images that every seed of one norm gets wrong and every seed of another right, a row for each two norms.

Needs `normhpc analyze RUNS_DIR --what misclassified`. Drawn are the first --images N of the --rows N with most such
images, as far as the analysis kept them; the CSV has all. --metric has no use here.
"""

import argparse
import textwrap

import pandas as pd

from normhpc.errors import InputError
from normhpc.posthoc.load import load_kept
from normhpc.results import figures
from normhpc.results.disagreement import Disagreement, Disputed, compare, joined
from normhpc.results.predictions import class_names, kept_pictures, read_answers

WAY = ["panel", "norm_wrong", "norm_right"]
LEAST_COLUMNS = 4
"""So that a line of words fits over a row; what is left over is empty."""


def compared(given: argparse.Namespace) -> tuple[dict[str, Disagreement], pd.DataFrame]:
    """For each panel the norms that have predictions, and all images on which they disagree."""
    kept, runs = load_kept(given.dirs, "predictions"), figures.compared_runs(given)
    found, tables = {}, []
    for panel in figures.panels(runs[runs["run_id"].isin(kept)], "norm"):
        answers = {
            str(norm): [own for run in chosen["run_id"] if (own := read_answers(kept[run].folder)) is not None]
            for norm, chosen in panel.runs.groupby("norm", sort=False)
        }
        one = found[panel.title] = compare([joined(norm, own) for norm, own in answers.items() if own])
        classes = class_names(kept[panel.runs["run_id"].iloc[0]].record.summary)
        tables.append(one.table(classes).assign(panel=panel.title))
    table = pd.concat(tables) if tables else pd.DataFrame()
    if table.empty:
        raise InputError("no image that all seeds of one norm get wrong and all of another right: nothing to draw")
    return found, table[["panel", *Disputed._fields]]


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Two norms down; images across."""
    found, table = compared(given)
    ways = table.groupby(WAY, sort=False)["row"].nunique().sort_values(ascending=False, kind="stable")
    ways = ways.head(max(1, given.rows))
    count = min(max(1, given.images), int(ways.max()))
    columns = max(LEAST_COLUMNS, count)
    caption = (
        "Under each image the true class and what most seeds of the norm that is wrong take it for, the mean of their "
        "confidence, how many answer so. Those on which most seeds agree first, then the most confident. Empty: not kept "
        "(normhpc analyze --what misclassified --again)."
    )
    titles = []
    for (title, *names), images in ways.items():
        wrong, right = (next(norm for norm in found[title].norms if norm.name == name) for name in names)
        told = f"{wrong.name} wrong ({wrong.seeds} seeds), {right.name} right ({right.seeds}), {title}: "
        titles.append((textwrap.wrap(f"{told}{images} of {len(wrong.rows)} images", int(1.4 * columns * 13)), wrong))
    height = 2.1 + 0.17 * max(len(lines) for lines, _ in titles)
    figure, axes = figures.page(len(ways), columns, 1.4, height, caption)
    for line, way, (told, wrong) in zip(axes, ways.index, titles, strict=True):
        own = table[(table[WAY] == list(way)).all(axis=1)].drop_duplicates("row").head(count)
        pictures = kept_pictures(wrong.places, own["row"])
        line[0].annotate("\n".join(told), (0, 1), (0, 5), "axes fraction", "offset points", in_layout=False)
        for axis, image in zip(line, own.itertuples(), strict=False):
            if image.row in pictures:
                axis.imshow(pictures[image.row])
            answer = f"{image.true}, not {image.predicted}".replace("not false", "false")
            seeds = f"{image.confidence:.2f}, {image.seeds_agreeing}/{image.seeds_wrong} seeds"
            axis.set_xlabel("\n".join([f"row {image.row}", *textwrap.wrap(answer, 17), seeds]))
        for axis in line:
            axis.set(xticks=[], yticks=[], anchor="S", box_aspect=1)
            axis.spines[:].set_visible(False)
    return figures.Drawing(figure, table)


if __name__ == "__main__":
    numbers = {option: {"type": int, "default": 6, "metavar": "N"} for option in ("--rows", "--images")}
    figures.run("disagreement_grid", __doc__, draw, options=numbers)
