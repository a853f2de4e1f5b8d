"""Confusion of classes as a drawing: shares of each true class, with names and numbers that can be read."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normhpc.report.elements import escaped

MOST_CLASSES = 25
"""Whose names have room; of more the picture of the analysis is shown."""

_CELL = 24
_LETTER = 6.6
"""Width of a letter, about."""
_LEVELS = 9
"""Colours of the style sheet: ``f0`` to ``f8`` for squares, ``n0`` to ``n8`` for the numbers in them."""


def confusion_drawing(values: Mapping[str, Any], name: str) -> str | None:
    """The matrix (K, outputs) of counts in ``values`` as SVG; None for several labels, many classes, and what is damaged.

    A square holds the share of its row in hundredths, nothing for 0; outputs that are no class have no column.
    """
    classes, counts = values.get("classes"), values.get("matrix")
    if not isinstance(classes, list) or not 1 <= len(classes) <= MOST_CLASSES:
        return None
    try:
        matrix = np.array(counts, np.float64)
    except (TypeError, ValueError):
        return None
    if (
        matrix.ndim != 2
        or len(matrix) != len(classes)
        or matrix.shape[1] < len(classes)
        or not np.isfinite(matrix).all()
    ):
        return None
    shares = matrix[:, : len(classes)] / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [str(each) for each in classes]
    edge = 10 + _LETTER * max(map(len, names))
    side = edge + _CELL * len(names)
    marks = []
    for place, each in enumerate(names):
        middle = edge + _CELL * (place + 0.5)
        marks.append(f'<text x="{edge - 5:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escaped(each)}</text>')
        turned = f'x="{middle + 4:.1f}" y="{edge - 5:.1f}" transform="rotate(-90 {middle + 4:.1f} {edge - 5:.1f})"'
        marks.append(f"<text {turned}>{escaped(each)}</text>")
    for row, column in np.ndindex(shares.shape):
        share = float(shares[row, column])
        level = min(_LEVELS - 1, int(share * _LEVELS))
        left, top = edge + _CELL * column, edge + _CELL * row
        told = escaped(f"{names[row]}, taken for {names[column]}: {int(matrix[row, column])} ({share:.1%})")
        marks.append(
            f'<rect class="f{level}" x="{left:.1f}" y="{top:.1f}" width="{_CELL}" height="{_CELL}"><title>{told}</title></rect>'
        )
        if share > 0:
            at = f'x="{left + _CELL / 2:.1f}" y="{top + _CELL / 2 + 4:.1f}" text-anchor="middle"'
            marks.append(f'<text class="n{level}" {at}>{100 * share:.0f}</text>')
    # never smaller: its letters are to be read
    size = f'width="{side:.1f}" viewBox="0 0 {side:.1f} {side:.1f}"'
    label = escaped(f"{name}, in hundredths of each true class")
    return f'<svg class="matrix" {size} role="img" aria-label="{label}">{"".join(marks)}</svg>'
