"""Where the records are: below a folder of sweeps, below one sweep, or one run itself."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from normhpc.errors import InputError, Problem
from normhpc.record import RunFolder


def find_runs(dirs: Iterable[str | os.PathLike[str]]) -> list[RunFolder]:
    """Every run in ``dirs``, each once, by name within each folder; folders that are no runs are passed over.

    A directory is a run (it has a ``run.json``), a sweep (its children are runs) or holds sweeps.
    Raises :class:`InputError` naming each directory that does not exist or has no run in it.
    """
    found: dict[str, RunFolder] = {}
    problems = []
    for directory in dict.fromkeys(os.fspath(directory) for directory in dirs):
        if not os.path.isdir(directory):  # noqa: PTH112 - no Path is made for it
            what = "not a folder" if Path(directory).exists() else "there is no such folder"
            problems.append(Problem(f"{what}; normhpc sweep SWEEP.yaml makes runs", file=directory))
            continue
        paths = list(_runs_below(directory))
        if not paths:
            problems.append(Problem("there are no runs in it; normhpc sweep SWEEP.yaml makes runs", file=directory))
        for path in paths:
            found.setdefault(str(Path(path).absolute()), RunFolder(Path(path)))
    if problems:
        raise InputError(problems)
    return list(found.values())


def find_runs_if_any(dirs: Iterable[str | os.PathLike[str]]) -> list[RunFolder]:
    """As :func:`find_runs`, but without runs there are simply none."""
    try:
        return find_runs(dirs)
    except InputError:
        return []


def _runs_below(directory: str) -> Iterator[str]:
    if _is_run(directory):
        yield directory
        return
    for child in _folders_in(directory):
        if _is_run(child):
            yield child
        else:
            yield from filter(_is_run, _folders_in(child))


def _folders_in(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except PermissionError:
        # somebody else's folder among ours is foreign, not an error
        return []


def _is_run(directory: str) -> bool:
    return os.path.isfile(f"{directory}/run.json")  # noqa: PTH113 - ten thousand of them in a blink
