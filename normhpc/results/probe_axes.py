"""Pictures of what probes measured, a pair of axes for each column of a figure and one scale for all of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normhpc.results.figures import COLOURS, LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMES = 12
"""Layers whose names fit beside a heat map."""

_WIDE = 50.0
"""Largest over smallest number from which on a scale is logarithmic."""

_LEAST = 1e-12


def ribbons(figure: "Figure", axes: Sequence["Axes"], tables: Mapping[str, pd.DataFrame]) -> None:
    """Quantiles over epochs: outer pairs pale, inner ones darker, edges in lines of different dashes, the middle a line.

    ``tables`` by column in the order of ``axes``, each with ``measure`` (``quantile_0.2``), ``epoch`` and ``mean``; an
    empty one leaves its axes empty. The scale is linear near zero and logarithmic beyond where spreads differ 50-fold.
    """
    spreads, lows, highs = [], [], []
    for axis, table in zip(axes, tables.values(), strict=True):
        axis.set_xlabel("epoch")
        wide = table.pivot(index="epoch", columns="measure", values="mean")
        wide.columns = pd.Index([float(str(measure).removeprefix("quantile_")) for measure in wide.columns])
        wide = wide.sort_index(axis="columns")
        levels = list(wide.columns)
        if len(levels):
            spreads.append(float(np.nanmax(np.abs(wide))))
            lows.append(float(np.nanmin(wide)))
            highs.append(float(np.nanmax(wide)))
        for number, (low, high) in enumerate(zip(levels[: len(levels) // 2], levels[::-1], strict=False)):
            shade, label = 0.2 + 0.25 * number, f"{low:g} to {high:g}"
            axis.fill_between(
                wide.index, wide[low], wide[high], color=COLOURS[0], label=label, alpha=shade, linewidth=0
            )
            for level in (low, high):
                axis.plot(
                    wide.index, wide[level], color=COLOURS[0], linestyle=LINES[number % 3 + 1], marker="_", lw=0.9
                )
        if len(levels) % 2:
            middle = levels[len(levels) // 2]
            axis.plot(wide.index, wide[middle], color=COLOURS[6], marker="o", markersize=3, label=f"{middle:g}")
        axis.set_xticks(_ticks(wide.index.to_numpy()))
    for axis in axes[1:]:
        axis.sharey(axes[0])
        axis.tick_params(labelleft=False)
    if spreads:
        if max(spreads) > _WIDE * max(min(spreads), _LEAST):
            axes[0].set_yscale("symlog", linthresh=max(min(spreads), _LEAST))
        margin = 0.05 * max(max(highs) - min(lows), _LEAST)
        axes[0].set_ylim(0 if min(lows) >= 0 else min(lows) - margin, max(highs) + margin)
    axes[0].set_ylabel("pooled feature")
    labelled = [axis for axis, table in zip(axes, tables.values(), strict=True) if len(table)]
    handles, labels = labelled[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), title="quantiles of the features")


def heat_maps(figure: "Figure", axes: Sequence["Axes"], tables: Mapping[str, pd.DataFrame], label: str) -> None:
    """Layers down as the networks go through them, steps across, values as colours; logarithmic where they differ 50-fold.

    ``tables`` by column in the order of ``axes``, each with ``layer``, ``step`` and ``mean``. What is not finite is hatched.
    """
    from matplotlib.colors import LogNorm, Normalize

    values = np.concatenate([table["mean"].to_numpy(np.float64) for table in tables.values()])
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    logarithmic = len(positive) > 0 and low >= 0 and high > _WIDE * float(positive.min())
    norm = LogNorm(float(positive.min()), high) if logarithmic else Normalize(low, high)
    image, named = None, list[str]()
    for axis, table in zip(axes, tables.values(), strict=True):
        axis.set_xlabel("step")
        if table.empty:
            axis.set_axis_off()
            continue
        layers = list(dict.fromkeys(table["layer"]))
        wide = table.pivot(index="layer", columns="step", values="mean").reindex(layers)
        grid = wide.where(np.isfinite(wide)).to_numpy(np.float64)
        # not grey, which is the middle of the colours
        axis.patch.set(hatch="///", facecolor="white", edgecolor="#999999")
        axis.grid(visible=False)
        image = axis.pcolormesh(
            wide.columns.to_numpy(np.float64),
            np.arange(1, len(layers) + 1),
            np.ma.masked_invalid(np.where(grid <= 0, float(positive.min()), grid) if logarithmic else grid),
            cmap="cividis",
            norm=norm,
            shading="nearest",
            rasterized=True,
        )
        if layers == named:
            axis.tick_params(labelleft=False)
        elif len(layers) <= _MOST_NAMES:
            axis.set_yticks(np.arange(1, len(layers) + 1), layers)
        named = layers
        axis.set_ylim(len(layers) + 0.5, 0.5)
    axes[0].set_ylabel("layer, from the input down")
    if image is not None:
        figure.colorbar(image, ax=list(axes), label=label)


def _ticks(numbers: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> "list[int]":
    """At most six of the whole ``numbers``, evenly apart."""
    return [int(number) for number in numbers[:: max(1, -(-len(numbers) // 6))]]
