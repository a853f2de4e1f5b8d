"""How good each norm is: mean and 95 % t interval over seeds, best on top, batch norm as the reference line.

One panel for each data set, network and other setting that varies. Every norm has a row: "(2/3)" says that 2 of its 3
runs have a value. --metric names another column of `normhpc collect --per-run`, test_loss for instance.
"""

import argparse

import pandas as pd

from normhpc.results import figures
from normhpc.results.names import better


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Norms down, the metric across."""
    runs = figures.compared_runs(given)
    metric = figures.metric_of(runs, given)
    # worst at the bottom, what has no value below it
    order = {"by": "mean", "key": lambda mean: mean * (better(metric) or 1), "kind": "stable", "na_position": "first"}
    tables = [(panel, table.sort_values(**order)) for panel, table in figures.means(runs, metric, "norm")]
    counts = figures.counted(n for _, table in tables for n in table["n"])
    caption = (
        f"{figures.axis_label(metric)}: {figures.T_INTERVAL}, {counts}; without whiskers: one seed, or equal values. "
        f"Square and dashed line: batch norm.{figures.absences(runs, metric)}"
    )
    most = max(len(table) for _, table in tables)
    figure, axes = figures.paged([panel for panel, _ in tables], 4.6, 0.9 + 0.27 * most, caption)
    for (_, table), axis in zip(tables, axes, strict=False):
        for place, row in enumerate(table.itertuples()):
            figures.dot(axis, place, row.mean, row.low, row.high, reference=row.norm == "batch")
            if row.norm == "batch" and row.n:
                figures.reference_line(axis, row.mean)
        figures.name_rows(axis, [f"{row.norm} ({row.n}/{row.total})" for row in table.itertuples()])
        axis.set_xlabel(figures.axis_label(metric))
    return figures.Drawing(figure, pd.concat([table for _, table in tables]))


if __name__ == "__main__":
    figures.run("accuracy_by_norm", __doc__, draw)
