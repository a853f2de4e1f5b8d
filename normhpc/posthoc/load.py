"""What analyses left in the folders of runs, read again. Imports no torch."""

import os
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normhpc.errors import InputError
from normhpc.files import read_json
from normhpc.posthoc.kept import result_file
from normhpc.record import RunFolder
from normhpc.results import figures
from normhpc.results.records import RunRecord, read_records

_VALUES = {
    "corruption": ("clean_error", "mean_corruption_error", "error_by_severity", "in_mean", "test_batch_statistics"),
    "hessian": ("modes_differ", "eval", "train"),
}
"""What scripts take from the values of an analysis; results of older versions lack some."""

_ARRAYS = {"saliency": ("rows", "labels", "classes", "right", "counted", "zero", "maps")}
"""The same of its arrays."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of one analysis of one run."""

    record: RunRecord
    document: Mapping[str, Any]
    """The content of ``posthoc/<what>.json``."""

    @property
    def folder(self) -> RunFolder:
        """Of the run."""
        return self.record.folder

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The content of ``posthoc/<what>.npz``.

        Raises :class:`~normhpc.errors.InputError` when it is damaged, or was written before it had what scripts take.
        """
        what = str(self.document["what"])
        file = result_file(self.folder, what, ".npz")
        try:
            with np.load(file) as content:
                arrays = {name: content[name] for name in content.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            raise _unusable(file, what, self.folder) from None
        _refuse_older(file, what, self.folder, arrays, _ARRAYS)
        return arrays


def load_kept(dirs: Sequence[str | os.PathLike[str]], what: str) -> dict[str, Kept]:
    """The results of the analysis ``what`` of the runs in ``dirs``, by run id; runs without one have no entry.

    Raises :class:`~normhpc.errors.InputError` when no run has one, with the command that makes it, and for a file that
    is damaged or of an older version.
    """
    found = {}
    for record in read_records(dirs).runs:
        file = result_file(record.folder, what)
        if not file.is_file():
            continue
        try:
            document = read_json(file)
            complete = isinstance(document, Mapping) and document.get("what") == what
            complete = complete and isinstance(document.get("values"), Mapping)
        except ValueError:
            complete = False
        if not complete:
            raise _unusable(file, what, record.folder)
        _refuse_older(file, what, record.folder, document["values"], _VALUES)
        found[record.run_id] = Kept(record, document)
    if not found:
        places = " ".join(os.fspath(place) for place in dirs)
        raise InputError(f"no run in {places} has posthoc/{what}.json; normhpc analyze {places} --what {what} makes it")
    return found


def require_same_images(kept: Iterable[Kept]) -> None:
    """Raise :class:`~normhpc.errors.InputError` unless results, of one analysis, are over as many test images each."""
    results = list(kept)
    counts = sorted({result.document["n"].get("test_images", 0) for result in results})
    if len(counts) > 1:
        what, place = results[0].document["what"], results[0].folder.path.parent
        raise InputError(
            f"expected results of the analysis {what} over the same images, got some over {' and '.join(map(str, counts))}; "
            f"normhpc analyze {place} --what {what} with one --images makes them alike"
        )


def lowest_seeds(given: Namespace, what: str, most: int) -> tuple[pd.DataFrame, dict[str, Kept]]:
    """The run of the lowest seed for each norm (and network) that a script was ``given``, and its analysis ``what``.

    Raises :class:`~normhpc.errors.InputError` for more than ``most``, and when they are not on the same images.
    """
    kept, runs = load_kept(given.dirs, what), figures.compared_runs(given)
    runs = runs[runs["run_id"].isin(list(kept))].sort_values("seed", kind="stable")
    titles = {run: panel.title for panel in figures.panels(runs, "norm") for run in panel.runs["run_id"]}
    runs = runs.assign(panel=runs["run_id"].map(titles)).drop_duplicates(["norm", "panel"]).sort_index()
    sets = runs["data_digest"].nunique(dropna=False)
    if len(runs) > most or sets != 1:
        found = f"{len(runs)} networks on {sets} sets of images; choose with --only FIELD=VALUE"
        raise InputError(f"expected 1 to {most} analysed networks on one set of images, got {found}")
    return runs, {run: kept[run] for run in runs["run_id"]}


def _refuse_older(
    file: Path, what: str, folder: RunFolder, content: Mapping[str, Any], needed: Mapping[str, tuple[str, ...]]
) -> None:
    missing = [name for name in needed.get(what, ()) if name not in content]
    if missing:
        # the other runs of the sweep were analysed by that version too
        raise InputError(
            f"{file}: expected {', '.join(missing)} in a result of the analysis {what}, got one of an older version without; "
            f"normhpc analyze {folder.path.parent} --what {what} --again makes them anew"
        )


def _unusable(file: Path, what: str, folder: RunFolder) -> InputError:
    again = f"normhpc analyze {folder.path} --what {what} --again"
    return InputError(f"{file}: expected a result of the analysis {what}, got something else; {again} makes it anew")
