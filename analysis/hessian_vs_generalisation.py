"""Is a sharp minimum a bad one: largest eigenvalue of the Hessian, in both modes, against the generalisation gap, a point
for each run, with Spearman's rank correlation; as it is, times |w|², and times SGD's peak learning rate with the limit at 2.

Needs `normhpc analyze RUNS_DIR --what hessian`. gap = train - test of --metric (test_top1; for a loss test - train): what
the last epoch said of train, with augmentation and in training mode, less what the evaluation says of test.
"""

import argparse

import pandas as pd
from scipy.stats import spearmanr

from normhpc.errors import InputError
from normhpc.posthoc.load import load_kept
from normhpc.results import figures
from normhpc.results.names import better, quality_of

MODES = ("eval", "train")
AXES = {"lambda_max": "nats / weight²", "lambda_max_times_squared_norm": "nats", "lambda_max_times_lr": "no unit"}
COLUMNS = ["panel", "norm", "seed", "run_id", "gap", "mode", "modes_differ", "settled", *AXES]


def points(given: argparse.Namespace) -> tuple[pd.DataFrame, str, int]:
    """A row per run, mode and axis, the metric whose gap it has, and the number of runs left out."""
    kept, runs = load_kept(given.dirs, "hessian"), figures.compared_runs(given)
    metric = figures.metric_of(runs, given)
    train = f"train_{quality_of(metric)}"
    if not metric.startswith("test_") or train not in runs:
        raise InputError(f"--metric: expected one of test that is measured on train too, got {metric}; try test_top1")
    rows = []
    for panel in figures.panels(runs[runs["run_id"].isin(kept)], "norm"):
        for run_id, own in panel.runs.set_index("run_id").iterrows():
            values, gap = kept[run_id].document["values"], better(metric) * (own[train] - own[metric])
            for mode in MODES:
                found = (values["modes_differ"], values[mode]["checks"]["settled"], *map(values[mode].get, AXES))
                rows.append((panel.title, own["norm"], own["seed"], run_id, gap, mode, *found))
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(AXES, float))
    whole = table[table["gap"].notna() & (table["lambda_max"] > 0)]
    if whole.empty:
        raise InputError(f"no run has a Hessian and the gap of {metric}; normhpc status {' '.join(given.dirs)}")
    long = whole.melt([name for name in COLUMNS if name not in AXES], list(AXES), "quantity").dropna(subset="value")
    return long, metric, len(table) - len(whole)


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Modes across, a row for each panel and each of AXES; norms as colours and markers."""
    table, metric, lost = points(given)
    rows = list(dict.fromkeys(zip(table["panel"], table["quantity"], strict=True)))
    caption = (
        "A point per run: lambda max of the mean training loss by Lanczos, against the generalisation gap. rho: Spearman's "
        "rank correlation over the n runs of a panel; seeds of one norm are not independent, so it has no p value. Hollow: "
        "the network answers alike in both modes. Faint: Lanczos has not settled. A scale of all weights that the loss does not hang on "
        "changes lambda max, not its product with |w|² (squared norm). lr: SGD's peak, momentum in it; dashed: 2, limit of stability."
        f"{f' {lost} points without gap or with lambda max not above 0 are left out.' if lost else ''}"
    )
    figure, axes = figures.page(len(rows), len(MODES), 3.8, 3.2, caption, beside=2, sharey="row")
    looks, parts, named = figures.looks(table["norm"]), [], {}
    for (title, quantity), line in zip(rows, axes, strict=True):
        for axis, mode in zip(line, MODES, strict=True):
            own = table[table[["panel", "quantity", "mode"]].eq([title, quantity, mode]).all(axis=1)]
            rho = spearmanr(own["value"], own["gap"]).statistic if own["gap"].nunique() > 1 else float("nan")
            for point in own.itertuples():
                look, alpha = looks[point.norm], 1.0 if point.settled else 0.35
                style = {"facecolors": look.colour if point.modes_differ else "none", "edgecolors": look.colour}
                named[point.norm] = axis.scatter(point.value, point.gap, 36, marker=look.marker, alpha=alpha, **style)
            if quantity == "lambda_max_times_lr":
                figures.reference_line(axis, 2)
            figures.log_ticks(axis)
            axis.set_xlabel(f"{quantity.replace('_', ' ')} ({AXES[quantity]})")
            axis.set_title(f"{title}\n{mode} mode: rho = {rho:.2f}, n = {len(own)}", loc="left")
            parts.append(own.assign(metric=metric, rho=rho, n=len(own)))
        gap = f"{'train - test' if better(metric) > 0 else 'test - train'}, {figures.axis_label(quality_of(metric))}"
        line[0].set_ylabel(gap)
    figures.legend_of_norms(figure, named)
    return figures.Drawing(figure, pd.concat(parts, ignore_index=True))


if __name__ == "__main__":
    figures.run("hessian_vs_generalisation", __doc__, draw)
