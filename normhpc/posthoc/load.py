"""What analyses left in the folders of runs, read again. Imports no torch."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normhpc.errors import InputError
from normhpc.files import read_json
from normhpc.posthoc.kept import result_file
from normhpc.record import RunFolder
from normhpc.results.records import RunRecord, read_records


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
        """The content of ``posthoc/<what>.npz``. Raises :class:`~normhpc.errors.InputError` when it is damaged."""
        what = str(self.document["what"])
        file = result_file(self.folder, what, ".npz")
        try:
            with np.load(file) as content:
                return {name: content[name] for name in content.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            raise _unusable(file, what, self.folder) from None


def load_kept(dirs: Sequence[str | os.PathLike[str]], what: str) -> dict[str, Kept]:
    """The results of the analysis ``what`` of the runs in ``dirs``, by run id; runs without one have no entry.

    Raises :class:`~normhpc.errors.InputError` when no run has one, with the command that makes it, and for a file that
    is damaged.
    """
    found = {}
    for record in read_records(dirs).runs:
        file = result_file(record.folder, what)
        if not file.is_file():
            continue
        try:
            document = read_json(file)
            complete = isinstance(document, Mapping) and document.get("what") == what and "values" in document
        except ValueError:
            complete = False
        if not complete:
            raise _unusable(file, what, record.folder)
        found[record.run_id] = Kept(record, document)
    if not found:
        places = " ".join(os.fspath(place) for place in dirs)
        raise InputError(f"no run in {places} has posthoc/{what}.json; normhpc analyze {places} --what {what} makes it")
    return found


def _unusable(file: Path, what: str, folder: RunFolder) -> InputError:
    again = f"normhpc analyze {folder.path} --what {what} --again"
    return InputError(f"{file}: expected a result of the analysis {what}, got something else; {again} makes it anew")
