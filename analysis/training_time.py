"""What each norm costs: seconds per epoch and images per second relative to batch norm, beside peak memory.

One row of panels for each data set, network, other setting that varies, and number of runs trained in one process.
Ratios are of geometric means over the finished runs. Only runs on the same kind of machine can be compared, and on an
idle one. --metric has no use here.
"""

import argparse

import pandas as pd

from normhpc.errors import InputError
from normhpc.results import figures
from normhpc.results.statistics.intervals import Estimate, mean_of, ratio_of

MEASURES = {
    "seconds_per_epoch": "seconds per epoch\n(multiple of batch norm's)",
    "images_per_second": "images per second\n(multiple of batch norm's)",
    "peak_memory_mb": "peak memory (MB)",
}
COLUMNS = ["panel", "norm", "measure", "mean", "shown", "low", "high", "n", "method"]


def cost(panel: figures.Panel) -> list[tuple[object, ...]]:
    """A row per norm and measure; without finished runs of batch norm none."""
    runs, rows = panel.runs[panel.runs["state"] == "finished"], []
    of_batch = runs[runs["norm"] == "batch"]
    for norm, own in runs.groupby("norm", sort=False) if len(of_batch) else ():
        for measure in MEASURES:
            values, of_it = own[measure].dropna(), of_batch[measure].dropna()
            if not len(values) or not len(of_it):
                continue
            if measure == "peak_memory_mb":
                own_mean = mean_of(values)
                found = Estimate(own_mean.mean, own_mean.low, own_mean.high, own_mean.n, own_mean.method)
            else:
                found = (
                    Estimate(1, None, None, len(values), "reference") if norm == "batch" else ratio_of(values, of_it)
                )
            shown = (found.value, found.low, found.high, len(values), found.method)
            rows.append((panel.title, norm, measure, values.mean(), *shown))
    return rows


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Norms down; time, speed and memory across."""
    runs = figures.compared_runs(given)
    found = {panel.title: cost(panel) for panel in figures.by_company(figures.panels(runs, "norm"))}
    tables = {title: pd.DataFrame(rows, columns=COLUMNS) for title, rows in found.items() if rows}
    if not tables:
        raise InputError(
            f"no finished runs of batch norm in {' '.join(given.dirs)} to compare with; normhpc sweep SWEEP.yaml --local "
            "trains the runs of a sweep, --only norm=batch those of its batch norm"
        )
    table = pd.concat(tables.values(), ignore_index=True).astype({"low": float, "high": float})
    caption = (
        "Ratios of geometric means over seeds with 95 % interval (Welch t of logarithms); memory: "
        f"{figures.T_INTERVAL}. {figures.counted(table['n'])}; finished runs alone ({(runs['state'] == 'finished').sum()} "
        f"of {len(runs)}). Square and dashed line: batch norm."
    )
    most = max(own["norm"].nunique() for own in tables.values())
    figure, axes = figures.page(len(tables), len(MEASURES), 3.3, 1.1 + 0.27 * most, caption)
    for (title, own), row in zip(tables.items(), axes, strict=True):
        order = list(own["norm"].unique())[::-1]
        for axis, (measure, label) in zip(row, MEASURES.items(), strict=True):
            for point in own[own["measure"] == measure].itertuples():
                place = order.index(point.norm)
                figures.dot(axis, place, point.shown, point.low, point.high, reference=point.norm == "batch")
            if measure != "peak_memory_mb":
                figures.reference_line(axis, 1)
            figures.name_rows(axis, order if axis is row[0] else [""] * len(order))
            axis.set_xlabel(label)
        row[0].set_title(title, loc="left")
    return figures.Drawing(figure, table)


if __name__ == "__main__":
    figures.run("training_time", __doc__, draw)
