"""The records of a study as a page needs them: cells, the methods compared, and the blocks they are compared in."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normhpc.errors import InputError
from normhpc.results import load_metrics, load_runs, summarize
from normhpc.results.names import SPLITS, better, is_share, limits_of, quality_of, split_of
from normhpc.results.records import RunRecord, read_records
from normhpc.results.summary import checked_metrics, field_columns
from normhpc.results.together import going_along, told_once

HEADLINES = ("top1", "map_macro", "map_micro", "loss")
"""Qualities that a report is about when nobody names one, the first that runs have."""

COSTS = ("seconds_per_epoch", "images_per_second", "peak_memory_mb")
"""What the results are shown with: s, 1/s, MB."""

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Epochs, ascending, and what was measured at the end of each."""


@dataclass(frozen=True, eq=False)
class Study:
    """Runs with everything measured. A cell is a method (a norm with its fields) in a block (all other fields)."""

    dirs: tuple[str, ...]
    metric: str
    runs: pd.DataFrame
    records: tuple[RunRecord, ...]
    """In the order of ``runs``."""
    measured: pd.DataFrame
    cells: pd.DataFrame
    """The table of :func:`~normhpc.results.summarize`."""
    cell_of: NDArray[np.int64]
    """Of each run the row in ``cells``."""
    fields: tuple[str, ...]
    """The fields that vary."""
    shown: tuple[str, ...]
    """Those of them that tables have columns for; ``together`` tells the others."""
    together: tuple[str, ...]
    """What changes together with a field that is shown, once for each of its values."""
    method_fields: tuple[str, ...]
    methods: tuple[str, ...]
    blocks: tuple[str, ...]
    cell_method: tuple[int, ...]
    """Of each row of ``cells``."""
    cell_block: tuple[int, ...]
    """Of each row of ``cells``."""

    @property
    def direction(self) -> int:
        """1 when more of the metric is better, -1 when less is."""
        return better(self.metric)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``cells``, with ``<metric>_half`` of each interval, whose ends are cut to what the metric can be."""
        return [
            _with_halves({str(name): value for name, value in row.items()}) for row in self.cells.to_dict("records")
        ]

    @cached_property
    def run_method(self) -> NDArray[np.int64]:
        """Of each run the number of its method."""
        return np.array(self.cell_method, np.int64)[self.cell_of]

    @cached_property
    def run_block(self) -> NDArray[np.int64]:
        """Of each run the number of its block."""
        return np.array(self.cell_block, np.int64)[self.cell_of]

    def cells_in(self, block: int) -> list[int]:
        """The rows of ``cells`` that lie in ``block``."""
        return [cell for cell, its in enumerate(self.cell_block) if its == block]

    def runs_of(self, cell: int) -> list[int]:
        """The numbers of the runs of ``cell``."""
        return self._runs_by_cell[cell]

    @cached_property
    def _runs_by_cell(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.cell_method]
        for run, cell in enumerate(self.cell_of):
            found[cell].append(run)
        return found

    def cell_name(self, cell: int) -> str:
        """``group groups=8, cifar10 resnet20``: the method, and the block where there are several."""
        method = self.methods[self.cell_method[cell]]
        return f"{method}, {self.blocks[self.cell_block[cell]]}" if len(self.blocks) > 1 else method

    def values_by_seed(self, cell: int, metric: str) -> dict[int, float]:
        """What the runs of ``cell`` have of ``metric``, by seed; runs without it are left out."""
        values = self.runs[metric].to_numpy(np.float64)
        own = {self.records[run].seed: float(values[run]) for run in self.runs_of(cell)}
        return {seed: value for seed, value in own.items() if value == value}

    def curves(self, split: str, metric: str) -> dict[int, Curve]:
        """Of each run that has it, by its number: ``metric`` on ``split`` at the end of each epoch."""
        return self._curves_by_name.get((split, metric), {})

    @cached_property
    def _curves_by_name(self) -> dict[tuple[str, str], dict[int, Curve]]:
        frame = self.measured
        numbers = {run_id: number for number, run_id in enumerate(self.runs["run_id"])}
        # 10^6 rows: text is compared once a run and once a name, by the number of its category
        run, runs = pd.factorize(frame["run_id"])
        split, splits = pd.factorize(frame["split"])
        metric, names = pd.factorize(frame["metric"])
        epoch = frame["epoch"].to_numpy(np.int64)
        value = frame["value"].to_numpy(np.float64)
        kind = np.asarray(split, np.int64) * len(names) + metric
        found: dict[tuple[str, str], dict[int, Curve]] = {}
        order = np.lexsort((np.arange(len(frame)), epoch, run, kind))
        kind, run, epoch, value = kind[order], run[order], epoch[order], value[order]
        edges = np.append(np.flatnonzero(np.diff(kind, prepend=-1) | np.diff(run, prepend=-1)), len(frame))
        for start, end in pairwise(edges):
            name = (str(splits[kind[start] // len(names)]), str(names[kind[start] % len(names)]))
            # of several measurements within an epoch the last one
            last = np.append(epoch[start + 1 : end] != epoch[start : end - 1], True)
            curve = (epoch[start:end][last], value[start:end][last])
            found.setdefault(name, {})[numbers[runs[run[start]]]] = curve
        return found

    @cached_property
    def curve_split(self) -> str:
        """The split on which progress is judged: ``val``, else ``test``, else ``train``, the first measured in two epochs."""
        quality = quality_of(self.metric)
        for split in ("val", "test", "train"):
            if any(len(epochs) > 1 for epochs, _ in self.curves(split, quality).values()):
                return split
        return "val"


def load_study(dirs: Sequence[str | os.PathLike[str]], metric: str | None = None, *, rebuild: bool = False) -> Study:
    """Everything in ``dirs``, with ``rebuild`` from the run folders alone, not from what was kept.

    Raises :class:`InputError` for folders without runs and for a metric that is not there.
    """
    # the first to read deletes what was kept, for all that read after it
    runs = load_runs(*dirs, rebuild=rebuild)
    measured = load_metrics(*dirs)
    found = {record.run_id: record for record in read_records(dirs).runs}
    chosen = _checked_metric(runs, metric)
    split = split_of(chosen) if split_of(chosen) in SPLITS else "test"
    others = [f"{split}_{quality}" for quality in HEADLINES]
    shown = [name for name in others if name in runs and runs[name].notna().any()]
    cells = summarize(runs, metrics=list(dict.fromkeys([chosen, *shown, *COSTS])))
    cells.attrs["notes"] = list(dict.fromkeys([*cells.attrs["notes"], *measured.attrs["notes"]]))
    fields = field_columns(runs)
    varied = [name for name in fields if runs[name].nunique(dropna=False) > 1]
    own = [name for name in varied if name.startswith("norm.")] or varied
    block_fields = [name for name in varied if name not in own]
    along = going_along(cells, block_fields)
    hidden = {name for others in along.values() for name in others}
    block_fields = [name for name in block_fields if name not in hidden]
    cell_of = np.asarray(runs.groupby(fields, sort=False, dropna=False).ngroup(), dtype=np.int64)
    methods = _labels(cells, own or ["norm.name"])
    blocks = _labels(cells, block_fields or [name for name in ("data.name", "model.name") if name not in own])
    known_methods, known_blocks = list(dict.fromkeys(methods)), list(dict.fromkeys(blocks))
    return Study(
        dirs=tuple(os.fspath(directory) for directory in dirs),
        metric=chosen,
        runs=runs,
        records=tuple(found[run_id] for run_id in runs["run_id"]),
        measured=measured,
        cells=cells,
        cell_of=cell_of,
        fields=tuple(varied),
        shown=tuple(name for name in varied if name not in hidden),
        together=tuple(told_once(cells, along)),
        method_fields=tuple(own or ["norm.name"]),
        methods=tuple(known_methods),
        blocks=tuple(known_blocks),
        cell_method=tuple(known_methods.index(label) for label in methods),
        cell_block=tuple(known_blocks.index(label) for label in blocks),
    )


def _with_halves(row: dict[str, Any]) -> dict[str, Any]:
    found = dict(row)
    for metric in [name.removesuffix("_mean") for name in row if name.endswith("_mean")]:
        least, most = limits_of(metric)
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        found[f"{metric}_half"] = high - row[f"{metric}_mean"]
        if high == high:
            found |= {f"{metric}_low": max(low, least), f"{metric}_high": min(high, most)}
    return found


def _checked_metric(runs: pd.DataFrame, given: str | None) -> str:
    if given is not None:
        (name,) = checked_metrics(runs, [given])
        if better(name) == 0:
            raise InputError(
                f"--metric: neither more nor less {name} is better; a report needs one that has a direction"
            )
        return name
    candidates = [f"{split}_{quality}" for split in reversed(SPLITS) for quality in HEADLINES]
    counts = {name: int(runs[name].notna().sum()) for name in candidates if name in runs}
    on_test = [name for name in counts if split_of(name) == "test" and counts[name]]
    # a share before a loss, which means something else for images of several labels; then what most runs have
    return max(on_test or counts, key=lambda name: (is_share(name), counts[name]))


def _labels(cells: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    if not fields:
        return ["all runs"] * len(cells)
    return [" ".join(_spelled(fields, row)) for row in cells[list(fields)].itertuples(index=False)]


def _spelled(fields: Sequence[str], values: Sequence[Any]) -> list[str]:
    """``group groups=8``: names bare, other fields of the norm without its name, fields that are missing not at all."""
    there = [(name, value) for name, value in zip(fields, values, strict=True) if not pd.isna(value)]
    words = []
    for name, value in there:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words.append(text if name.endswith((".name", ".dataset")) else f"{name.removeprefix('norm.')}={text}")
    return words or ["-"]
