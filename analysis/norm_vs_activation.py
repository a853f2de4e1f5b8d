"""How good each norm is with each activation: a heat map, and in every cell mean, 95 % t interval and n.

One panel for each data set, network and other setting that varies; all panels on one scale of colours. A norm that is
its own activation (EvoNorm, FRN with its threshold, SELU) has the same network in every column.
"""

import argparse

import numpy as np
import pandas as pd

from normhpc.errors import InputError
from normhpc.results import figures


def words(row: pd.Series) -> str:
    """What a cell says."""
    if not row["n"]:
        return f"no value\n0 of {row['total']}"
    interval = "" if pd.isna(row["low"]) else f"[{row['low']:.3f}, {row['high']:.3f}]\n"
    return f"{row['mean']:.3f}\n{interval}n = {row['n']}"


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Norms down, activations across."""
    runs = figures.compared_runs(given)
    if "act" not in runs or runs["act"].nunique() < 2:
        raise InputError(
            f"expected runs of several activations in {' '.join(given.dirs)}, got one; "
            "normhpc sweep sweeps/norm_as_activation.yaml makes such runs"
        )
    metric = figures.metric_of(runs, given)
    tables = figures.means(runs, metric, "norm", "act")
    means = pd.concat(table["mean"] for _, table in tables)
    caption = (
        f"{figures.axis_label(metric)}: {figures.T_INTERVAL}, n seeds; hatched: not run, or without a value."
        + figures.absences(runs, metric)
    )
    norms, acts = list(dict.fromkeys(runs["norm"])), list(dict.fromkeys(runs["act"]))
    figure, axes = figures.paged([p for p, _ in tables], 2.0 + 1.35 * len(acts), 1.0 + 0.62 * len(norms), caption)
    image = None
    for (_, table), axis in zip(tables, axes, strict=False):
        cells = table.pivot(index="norm", columns="act", values="mean").reindex(index=norms, columns=acts)
        image = axis.imshow(cells, cmap="cividis", vmin=means.min(), vmax=means.max(), aspect="auto")
        axis.patch.set(hatch="///", facecolor="white", edgecolor="#999999")
        for _, row in table.iterrows():
            light = pd.isna(row["mean"]) or image.norm(row["mean"]) > 0.45
            place = (acts.index(row["act"]), norms.index(row["norm"]))
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 1} if pd.isna(row["mean"]) else None
            ink = {"color": "black" if light else "white", "ha": "center", "va": "center", "bbox": paper}
            axis.text(*place, words(row), **ink)
        axis.grid(visible=False)
        axis.set_xticks(np.arange(len(acts)), acts)
        axis.set_yticks(np.arange(len(norms)), norms)
        axis.set_xlabel("activation")
        axis.set_ylabel("norm")
    figure.colorbar(image, ax=figure.axes, label=figures.axis_label(metric))
    return figures.Drawing(figure, pd.concat([table for _, table in tables]))


if __name__ == "__main__":
    figures.run("norm_vs_activation", __doc__, draw)
