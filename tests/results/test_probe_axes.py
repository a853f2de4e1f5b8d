"""Ribbons and heat maps: what is on the axes is what was measured, on one scale."""

import numpy as np
import pandas as pd
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm

from normhpc.results import figures
from normhpc.results.probe_axes import heat_maps, ribbons


def layer_table(values: list[list[float]]) -> pd.DataFrame:
    """(layers, steps), a step every two."""
    rows = [(f"l{layer}", 2 * at, value) for layer, row in enumerate(values) for at, value in enumerate(row)]
    return pd.DataFrame(rows, columns=["layer", "step", "mean"])


def quantile_table(rows: dict[float, list[float]]) -> pd.DataFrame:
    cells = [(f"quantile_{level!r}", at, value) for level, own in rows.items() for at, value in enumerate(own, 1)]
    return pd.DataFrame(cells, columns=["measure", "epoch", "mean"])


def mesh(axis) -> QuadMesh:
    [found] = [child for child in axis.collections if isinstance(child, QuadMesh)]
    return found


def test_heat_maps_share_one_logarithmic_scale() -> None:
    tables = {"batch": layer_table([[1, 2], [3, 4]]), "none": layer_table([[1, 1e6], [10, np.nan]])}
    with figures.styled():
        figure, [axes] = figures.page(1, 2, 3, 3, "")
        heat_maps(figure, axes, tables, "variance")
    first, second = map(mesh, axes)
    assert isinstance(first.norm, LogNorm)
    for one in (first, second):
        assert (one.norm.vmin, one.norm.vmax) == (1, 1e6)
    assert first.get_array().tolist() == [[1, 2], [3, 4]]
    assert second.get_array().tolist() == [[1, 1e6], [10, None]]
    # behind what is not finite: hatched, as grey is among the colours
    assert (axes[1].patch.get_hatch(), axes[1].patch.get_facecolor()) == ("///", (1, 1, 1, 1))
    # the first layer on top
    assert axes[0].get_ylim() == (2.5, 0.5)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["l0", "l1"]


def test_a_scale_through_zero_is_linear() -> None:
    with figures.styled():
        figure, [[axis]] = figures.page(1, 1, 3, 3, "")
        heat_maps(figure, [axis], {"batch": layer_table([[-0.5, 0.9]])}, "cosine")
    assert not isinstance(mesh(axis).norm, LogNorm)
    assert (mesh(axis).norm.vmin, mesh(axis).norm.vmax) == (-0.5, 0.9)


def test_ribbons_are_the_pairs_around_the_middle() -> None:
    tables = {
        "batch": quantile_table({0.1: [0, 1], 0.5: [2, 3], 0.9: [4, 9]}),
        "none": quantile_table({0.1: [0, 1], 0.5: [2, 3], 0.9: [4, 400]}),
        "layer": quantile_table({}),
    }
    with figures.styled():
        figure, [axes] = figures.page(1, 3, 3, 3, "")
        ribbons(figure, axes, tables)
    lines = {tuple(line.get_ydata()) for line in axes[0].get_lines()}
    assert lines == {(0, 1), (2, 3), (4, 9)}
    [band] = axes[0].collections
    assert {tuple(point) for point in band.get_paths()[0].vertices.tolist()} == {(1, 0), (2, 1), (1, 4), (2, 9)}
    assert len({axis.get_ylim() for axis in axes}) == 1
    assert axes[0].get_ylim()[0] == 0
    assert axes[0].get_ylim()[1] > 400
    # the largest of one is 44 times that of the other: still linear
    assert axes[0].get_yscale() == "linear"


def test_ribbons_of_very_different_width_are_logarithmic_beyond_the_narrow_one() -> None:
    tables = {"batch": quantile_table({0.1: [-1.0], 0.9: [2.0]}), "none": quantile_table({0.1: [-1.0], 0.9: [300.0]})}
    with figures.styled():
        figure, [axes] = figures.page(1, 2, 3, 3, "")
        ribbons(figure, axes, tables)
    assert [axis.get_yscale() for axis in axes] == ["symlog", "symlog"]
    assert axes[1].get_ylim()[0] < -1
