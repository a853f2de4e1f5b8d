"""Fields that change together: one of them tells them all, so that no label is longer than it must be."""

from collections.abc import Mapping, Sequence

import pandas as pd

_LEAST = 3
"""Fields that are told once; two may stand side by side."""


def going_along(cells: pd.DataFrame, fields: Sequence[str]) -> dict[str, list[str]]:
    """For one of each three or more of ``fields`` that differ between the same rows of ``cells``, the others.

    So the sides, classes and splits of a set of images. The one is the first that holds text, else the first.
    """
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in fields:
        codes, _ = pd.factorize(cells[name], use_na_sentinel=False)
        alike.setdefault(tuple(codes.tolist()), []).append(name)
    found = {}
    for names in alike.values():
        if len(names) >= _LEAST:
            chosen = next((name for name in names if not pd.api.types.is_numeric_dtype(cells[name])), names[0])
            found[chosen] = [name for name in names if name != chosen]
    return found


def told_once(cells: pd.DataFrame, along: Mapping[str, Sequence[str]]) -> list[str]:
    """``data.dataset coco: data.height 64, data.classes 80`` for each value of each field that stands for others."""
    lines = []
    for chosen, others in along.items():
        for value, row in cells.drop_duplicates(chosen)[[chosen, *others]].set_index(chosen).iterrows():
            told = [f"{name} {_plain(row[name])}" for name in others if pd.notna(row[name])]
            lines.append(f"{chosen} {_plain(value)}: {', '.join(told)}")
    return lines


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
