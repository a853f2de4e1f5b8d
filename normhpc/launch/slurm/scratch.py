"""Copies of the data on a node's own disk: made once a node, used by every run on it."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from normhpc.config import RunConfig
from normhpc.config.data import STAGED_VARIABLE, OfficialArchives, Shards
from normhpc.errors import BusyError
from normhpc.record.lock import exclusive_lock

_COPY_PATIENCE_SECONDS = 3600


def stage_data(scratch: str, configs: Iterable[RunConfig]) -> None:
    """Copy the data folders of ``configs`` below ``scratch`` and tell the ranks started from here to read the copies.

    ``scratch`` may name variables of the job (``$SLURM_TMPDIR``). A folder whose files have changed is copied anew. What
    cannot be copied is read from where it is: that costs speed alone, so it is told and no error.
    """
    staged = {}
    for path in sorted({found for config in configs if (found := _data_path(config))}):
        source = Path(path).expanduser()
        if not source.is_dir():
            continue  # the run itself says best what it lacks
        try:
            staged[path] = str(_copy_of(source.absolute(), _place(scratch)))
        except (OSError, BusyError) as error:
            why = getattr(error, "strerror", None) or error
            print(f"{path} is read from where it is, not from a copy in {scratch}: {why}", file=sys.stderr, flush=True)
    os.environ[STAGED_VARIABLE] = json.dumps(staged)


def _data_path(config: RunConfig) -> str | None:
    data = config.data
    if isinstance(data, Shards):
        return data.path
    return data.path if isinstance(data, OfficialArchives) and not data.download else None


def _place(scratch: str) -> Path:
    place = os.path.expandvars(scratch)
    if "$" in place:
        raise OSError(f"{place}: no such variable in this job")
    folder = Path(place).expanduser() / f"normhpc-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _copy_of(source: Path, place: Path) -> Path:
    """The copy of ``source`` in ``place``, which is whole from the moment it is there."""
    target = place / _fingerprint(source)
    with exclusive_lock(
        place, f"{place}: another job has been copying for an hour", wait_seconds=_COPY_PATIENCE_SECONDS
    ):
        if not target.exists():
            unfinished = target.with_suffix(".tmp")
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                shutil.copytree(source, unfinished)
                unfinished.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _fingerprint(source: Path) -> str:
    """16 hex digits for the folder and the names, sizes and times of its files."""
    digest = hashlib.blake2b(str(source).encode(), digest_size=8)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        status = path.stat()
        digest.update(f"\0{path.relative_to(source)}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()
