"""What happens inside the networks while they train: quantiles of the pooled features over epochs, and a number of every
layer over steps (--metric: activation_variance, gradient_norm ..., see docs/training.md), a column for each norm.

All norms on one scale. Means over seeds. Needs runs with probes: --set 'probes={name: layers, every_steps: 10,
feature_quantiles: [0.01, 0.2, 0.8, 0.99]}' or sweeps/probes.yaml.
"""

import argparse
import textwrap

import pandas as pd

from normhpc.errors import InputError, did_you_mean
from normhpc.results import figures, load_probes
from normhpc.results.probe_axes import heat_maps, ribbons

MOST_COLUMNS = 6


def measured(given: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """Mean and n over the seeds of each column, measure, layer and step; and the measure that the layers show."""
    runs, probes = figures.compared_runs(given), load_probes(*given.dirs)
    probes = probes[probes["run_id"].isin(runs["run_id"])].astype({"measure": "str", "layer": "str"})
    if probes.empty:
        raise InputError(
            f"no run in {' '.join(given.dirs)} has probes.h5; normhpc sweep sweeps/probes.yaml makes such runs, as does "
            "any sweep with --set 'probes={name: layers, every_steps: 10, feature_quantiles: [0.01, 0.2, 0.8, 0.99]}'"
        )
    there = list(probes.loc[probes["kind"] != "features", "measure"].unique())
    measure = given.metric or next((name for name in ("activation_variance", *there) if name in there), "")
    if measure not in there and given.metric:
        raise InputError(
            f"--metric: no probe {measure!r}{did_you_mean(measure, there) or ','} there are {', '.join(there)}"
        )
    found = figures.panels(runs, "norm")
    titles = pd.concat([own.runs["norm"] + (f"\n{own.title}" if len(found) > 1 else "") for own in found])
    column = dict(zip(runs["run_id"], titles[runs.index], strict=True))
    chosen = probes[(probes["kind"] == "features") | (probes["measure"] == measure)]
    chosen = chosen.assign(column=chosen["run_id"].astype("str").map(column))
    keys = ["column", "measure", "layer", "epoch", "step"]
    table = chosen.groupby(keys, sort=False, observed=True)["value"].agg(mean="mean", n="count").reset_index()
    if table["column"].nunique() > MOST_COLUMNS:
        text = (
            f"{table['column'].nunique()} columns, at most {MOST_COLUMNS} fit on a page; choose with --only FIELD=VALUE"
        )
        raise InputError(text)
    return table, measure


def draw(given: argparse.Namespace) -> figures.Drawing:
    """Norms across; ribbons above, layers below."""
    table, measure = measured(given)
    columns = list(dict.fromkeys(table["column"]))
    features = table["layer"] == ""
    parts = [name for name, chosen in (("features", features), ("layers", ~features)) if chosen.any()]
    caption = (
        f"Means over seeds, {figures.counted(table['n'])}. Ribbons: quantiles of all pooled features of val after each "
        f"epoch. Layers from input (top) to output; hatched: no finite value (a run that diverged ends). One scale for all."
    )
    titles = {name: [text for line in name.splitlines() for text in textwrap.wrap(line, 28)] for name in columns}
    height = 2.7 + 0.18 * max(map(len, titles.values()))
    figure, axes = figures.page(len(parts), len(columns), 3.6, height, caption)
    for row, part in zip(axes, parts, strict=True):
        own = {
            name: table[(table["column"] == name) & ((table["layer"] == "") == (part == "features"))]
            for name in columns
        }
        if part == "features":
            ribbons(figure, row, own)
        else:
            heat_maps(figure, row, own, measure.replace("_", " "))
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title("\n".join(titles[name]), loc="left")
    return figures.Drawing(figure, table)


if __name__ == "__main__":
    figures.run("feature_evolution", __doc__, draw)
