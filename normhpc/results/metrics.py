"""Every metric line of every run, one number a row."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from normhpc.record.journal import read_journal
from normhpc.results.fields import field_names
from normhpc.results.records import read_records, torn_note
from normhpc.results.runs import field_columns, in_order

_KEYS = frozenset({"time", "attempt", "epoch", "step", "split"})


@dataclass(slots=True)
class _Numbers:
    """The columns of the measurements as they are read."""

    epoch: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    attempt: list[int] = field(default_factory=list)
    metric: list[str] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take the numbers of one line. What was not finite is null in the file and NaN here."""
        before = len(self.value)
        for name, value in row.items():
            if name in _KEYS:
                continue
            if value is None:
                self.metric.append(name)
                self.value.append(math.nan)
            elif type(value) in (int, float):
                self.metric.append(name)
                self.value.append(float(value))
        count = len(self.value) - before
        attempt = row.get("attempt")
        self.epoch += [row["epoch"]] * count
        self.step += [row["step"]] * count
        self.split += [row["split"]] * count
        self.attempt += [attempt if isinstance(attempt, int) else 1] * count

    def frame(self) -> pd.DataFrame:
        """All of them as typed columns."""
        return pd.DataFrame(
            {
                "epoch": pd.Series(self.epoch, dtype="int64"),
                "step": pd.Series(self.step, dtype="int64"),
                "split": pd.Series(self.split, dtype="str"),
                "attempt": pd.Series(self.attempt, dtype="int64"),
                "metric": pd.Series(self.metric, dtype="str"),
                "value": pd.Series(self.value, dtype="float64"),
            }
        )


def load_metrics(*dirs: str | os.PathLike[str]) -> pd.DataFrame:
    """Every number in the ``metrics.jsonl`` of the runs in ``dirs``, finished or not, as one long table.

    Columns: ``run_id sweep``, the fields of :func:`~normhpc.results.load_runs`, ``seed epoch step split attempt
    metric value``. Of lines with the same epoch, step and split, written again after a resume, the last holds.
    A value that was not finite is NaN. Rows: runs as in ``load_runs``, then by epoch and step.

    ``attrs["notes"]`` counts the lines that could not be read (torn by a crash), file by file.
    Raises :class:`~normhpc.errors.InputError` when a directory does not exist or has no runs.
    """
    found = read_records(dirs)
    names = field_names(found.runs)
    records = in_order(found.runs, names)
    torn = dict(found.torn)
    numbers = _Numbers()
    lengths = []
    for record in records:
        rows, unreadable = read_journal(record.folder.metrics)
        held, keyless = _lines_that_hold(rows)
        if unreadable + keyless:
            torn[str(record.folder.metrics)] = unreadable + keyless
        before = len(numbers.value)
        for row in held:
            numbers.add(row)
        lengths.append(len(numbers.value) - before)
    of_run = np.repeat(np.arange(len(records)), lengths)
    constant = pd.DataFrame(
        {
            "run_id": pd.Series([record.run_id for record in records], dtype="str"),
            "sweep": pd.Series([record.sweep for record in records], dtype="str"),
            **field_columns(records, names),
            "seed": pd.Series([record.seed for record in records], dtype="int64"),
        }
    )
    frame = pd.concat([constant.take(of_run).reset_index(drop=True), numbers.frame()], axis="columns")
    frame.attrs["notes"] = [*found.notes, *torn_note(torn)]
    return frame


def _lines_that_hold(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """The last row per (epoch, step, split) by epoch and step, and the number of rows without such a place."""
    last: dict[tuple[int, int, str], Mapping[str, Any]] = {}
    keyless = 0
    for row in rows:
        epoch, step, split = row.get("epoch"), row.get("step"), row.get("split")
        if isinstance(epoch, int) and isinstance(step, int) and isinstance(split, str):
            # taken out first, so that the newest line also comes last within its step
            last.pop((epoch, step, split), None)
            last[epoch, step, split] = row
        else:
            keyless += 1
    return [row for _, row in sorted(last.items(), key=lambda item: item[0][:2])], keyless
