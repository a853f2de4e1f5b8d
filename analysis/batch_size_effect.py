"""How good each norm is at each batch size: means over seeds with bands of their 95 % t intervals.

One panel for each data set, network and other setting that varies at the same norm and batch size; what a sweep varies
along with the batch size, as sweeps/batch_size.yaml does with the learning rate, belongs to it.
"""

import argparse

import pandas as pd

from normhpc.errors import InputError
from normhpc.results import figures


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Batch size across, the metric up, a line per norm."""
    runs = figures.compared_runs(given)
    sizes = sorted(runs["batch_size"].unique()) if "batch_size" in runs else []
    if len(sizes) < 2:
        raise InputError(
            f"expected runs of several batch sizes in {' '.join(given.dirs)}, got one; "
            "normhpc sweep sweeps/batch_size.yaml makes such runs"
        )
    metric = figures.metric_of(runs, given)
    tables = figures.means(runs, metric, "norm", "batch_size")
    counts = figures.counted(n for _, table in tables for n in table["n"])
    caption = (
        f"{figures.axis_label(metric)} by images per optimizer step, over all ranks: {figures.T_INTERVAL} as bands, "
        f"{counts}; without a band: one seed.{figures.absences(runs, metric)}"
    )
    figure, axes = figures.paged([panel for panel, _ in tables], 4.6, 3.4, caption, beside=2)
    looks, named = figures.looks(runs["norm"]), {}
    for (_, table), axis in zip(tables, axes, strict=False):
        for norm, own in table.groupby("norm", sort=False):
            look, there = looks[norm], own.dropna(subset="mean").sort_values("batch_size")
            line = {"color": look.colour, "marker": look.marker, "linestyle": look.line, "markersize": 5}
            band = {"facecolor": (look.colour, 0.1), "edgecolor": (look.colour, 0.4), "linestyle": look.line}
            [named[norm]] = axis.plot(there["batch_size"], there["mean"], label=norm, **line)
            axis.fill_between(there["batch_size"], there["low"], there["high"], **band)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel("batch size (images)")
        axis.set_ylabel(figures.axis_label(metric))
    figures.legend_of_norms(figure, named)
    return figures.Drawing(figure, pd.concat([table for _, table in tables]))


if __name__ == "__main__":
    figures.run("batch_size_effect", __doc__, draw)
