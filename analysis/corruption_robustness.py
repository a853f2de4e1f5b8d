"""How much worse is each norm on corrupted images than batch norm: mCE (Hendrycks and Dietterich 2019, arXiv:1903.12261).

Needs `normhpc analyze RUNS_DIR --what corruption`. The reference, batch norm with its running statistics on the same data,
network and seeds, is 1. A norm of the batch has a row more, with statistics of test batches: another predictor.
--metric: mce, relative_mce (errors less the clean one), mean_corruption_error (no ratio) or CE of one corruption, by its name.
"""

import argparse

import pandas as pd

from normhpc.errors import InputError
from normhpc.posthoc.load import Kept, load_kept, require_same_images
from normhpc.results import figures
from normhpc.results.robustness import REFERENCE, TEST_BATCH, USUAL, compared

COLUMNS = ["panel", "norm", "predictor", "measure", "mean", "low", "high", "n", "seeds", "left_out", "reference"]


def measures(panel: figures.Panel, kept: dict[str, Kept]) -> list[tuple[object, ...]]:
    """A row for each norm, predictor and measure, over the seeds that the reference has too."""
    require_same_images(kept[run] for run in panel.runs["run_id"])
    values = {
        norm: {seed: kept[run].document["values"] for seed, run in zip(own["seed"], own["run_id"], strict=True)}
        for norm, own in panel.runs.groupby("norm", sort=False)
    }
    rows: list[tuple[object, ...]] = []
    for norm, by_seed in values.items():
        for one in compared(by_seed, values.get(REFERENCE, {})):
            told = (" ".join(map(str, one.seeds)), one.left_out, f"{REFERENCE}, running statistics, same seeds")
            for measure, mean in one.measures.items():
                shown = (mean.mean, mean.low, mean.high, mean.n)
                rows.append((panel.title, norm, one.predictor, measure, *shown, *told))
    return rows


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Norms down, a panel for each data set, network and other setting."""
    kept, runs, measure = load_kept(given.dirs, "corruption"), figures.compared_runs(given), given.metric or "mce"
    found = [(panel, measures(panel, kept)) for panel in figures.panels(runs[runs["run_id"].isin(kept)], "norm")]
    table = pd.DataFrame([row for _, rows in found for row in rows], columns=COLUMNS)
    table = table.astype({"low": float, "high": float})
    shown = table[table["measure"] == measure]
    if shown.empty:
        there = ", ".join(table["measure"].unique()) or f"none: no analysed runs of {REFERENCE} with the same seeds"
        raise InputError(f"--metric: expected a measure that these runs have, got {measure}; there are {there}")
    relative = measure != "mean_corruption_error"
    reference = "reference (dashed, 1): batch norm with running statistics, mean over the same seeds, taken as known"
    caption = (
        f"{measure}; {reference if relative else 'no ratio'}; {figures.T_INTERVAL}. {figures.counted(shown['n'])}; "
        f"{runs['run_id'].isin(kept).sum()} of {len(runs)} runs are analysed. Not all 15 corruptions of the benchmark, five of them restated."
    )
    drawn = [panel for panel, _ in found if panel.title in set(shown["panel"])]
    most = shown.groupby("panel").size().max()
    figure, axes = figures.paged(drawn, 3.6, 1.1 + 0.27 * most, caption)
    for panel, axis in zip(drawn, axes, strict=False):
        own = shown[shown["panel"] == panel.title].iloc[::-1].reset_index(drop=True)
        for point in own.itertuples():
            usual = (point.norm, point.predictor) == (REFERENCE, USUAL)
            figures.dot(axis, point.Index, point.mean, point.low, point.high, reference=usual)
        if relative:
            figures.reference_line(axis, 1)
        suffix = own["predictor"].map({USUAL: "", TEST_BATCH: ",\ntest batch"})
        figures.name_rows(axis, list(own["norm"] + suffix))
        axis.set_xlabel(measure.replace("_", " "))
    return figures.Drawing(figure, table)


if __name__ == "__main__":
    figures.run("corruption_robustness", __doc__, draw)
