"""What was measured inside the networks, one number a row."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normhpc.errors import DamagedError
from normhpc.record.probes import ProbeContent, read_probes
from normhpc.results.fields import field_names
from normhpc.results.records import read_records
from normhpc.results.runs import in_order

_KEYS = ("run_id", "layer", "kind", "measure")


def load_probes(*dirs: str | os.PathLike[str]) -> pd.DataFrame:
    """Every number in the ``probes.h5`` of the runs in ``dirs``, finished or not, as one long table.

    Columns: ``run_id layer kind measure`` (categories), ``epoch step`` (finished before the measurement) and ``value``
    (NaN where it was no number). ``kind`` is ``conv``, ``norm``, ``activation`` or, for the quantiles of the features,
    ``features``, with the measure ``quantile_0.25`` (``repr`` of the number) and an empty layer. Formulas are in
    :mod:`normhpc.train.probes`. Rows: runs as in ``load_runs``, then by step, then by layer as the network goes through
    them. A run without ``probes.h5`` has no rows.

    ``attrs["notes"]`` tells which files could not be read. Raises :class:`~normhpc.errors.InputError` when a directory
    does not exist or has no runs.
    """
    found = read_records(dirs)
    notes = list(found.notes)
    parts = []
    for record in in_order(found.runs, field_names(found.runs)):
        if not record.folder.probes.exists():
            continue
        try:
            parts.append((record.run_id, read_probes(record.folder.probes)))
        except DamagedError as error:
            notes.append(str(error))
        except OSError as error:
            why = os.strerror(error.errno) if error.errno is not None else str(error).splitlines()[0]
            notes.append(f"{record.folder.probes}: not read ({why}); load it again when it can be")
    frame = pd.DataFrame(_columns(parts))
    frame.attrs["notes"] = notes
    return frame


def _columns(parts: Sequence[tuple[str, ProbeContent]]) -> dict[str, pd.Series | pd.Categorical]:
    """The table of all runs. Names are kept once each: a long run has tens of millions of numbers."""
    known: dict[str, dict[str, int]] = {key: {} for key in _KEYS}
    codes: dict[str, list[NDArray[np.int32]]] = {key: [] for key in _KEYS}
    numbers: dict[str, list[NDArray[np.float64]]] = {"epoch": [], "step": [], "value": []}
    for run_id, content in parts:
        of_features = [("", "features", f"quantile_{quantile!r}") for quantile in content.quantiles.tolist()]
        tables = (
            (content.columns, content.epoch, content.step, content.values),
            (of_features, content.feature_epoch, content.feature_step, content.feature_values),
        )
        for columns, epoch, step, values in tables:
            rows = len(values)
            for number, key in enumerate(_KEYS):
                names = [(run_id, *column)[number] for column in columns]
                own = [known[key].setdefault(name, len(known[key])) for name in names]
                codes[key].append(np.tile(np.array(own, np.int32), rows))
            numbers["epoch"].append(np.repeat(epoch, len(columns)))
            numbers["step"].append(np.repeat(step, len(columns)))
            numbers["value"].append(values.astype(np.float64).ravel())
    named = {
        key: pd.Categorical.from_codes(
            np.concatenate([np.empty(0, np.int32), *codes[key]]), pd.Index(list(known[key]), dtype="str")
        )
        for key in _KEYS
    }
    kinds = {"epoch": np.int64, "step": np.int64, "value": np.float64}
    measured = {
        name: pd.Series(np.concatenate([np.empty(0, kind), *numbers[name]]).astype(kind))
        for name, kind in kinds.items()
    }
    return {**named, **measured}
