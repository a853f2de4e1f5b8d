"""Where the records are: below a folder of sweeps, below one sweep, or one run itself."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from normhpc.errors import InputError, Problem
from normhpc.record import RunFolder
from normhpc.results.store.marks import Mark, mark_of

_MADE_BY_DEFAULT = "runs"
_MAKES_RUNS = "; normhpc sweep SWEEP.yaml makes runs"


def find_runs(dirs: Iterable[str | os.PathLike[str]]) -> list[RunFolder]:
    """Every run in ``dirs``, each once, by name within each folder; folders that are no runs are passed over.

    A directory is a run (it has a ``run.json``), a sweep (its children are runs) or holds sweeps.
    Raises :class:`InputError` naming each directory that does not exist or has no run in it.
    """
    return [RunFolder(Path(path)) for paths in runs_by_directory(dirs).values() for path in paths]


def runs_by_directory(dirs: Iterable[str | os.PathLike[str]]) -> dict[str, dict[str, Mark]]:
    """As :func:`find_runs`: under the directory that they were first found in, paths of runs and marks of ``run.json``."""
    found: dict[str, dict[str, Mark]] = {}
    seen: set[str] = set()
    problems = []
    directories = list(dict.fromkeys(os.fspath(directory) for directory in dirs))
    for directory in directories:
        if not os.path.isdir(directory):  # noqa: PTH112 - no Path is made for it
            problems.append(Problem(_what_to_do(directory), file=directory))
            continue
        paths = dict(_runs_below(directory))
        if not paths:
            problems.append(Problem(f"there are no runs in it{_MAKES_RUNS}", file=directory))
        if len(directories) > 1:
            start = Path(directory).absolute()
            absolute = {path: f"{start}/{name_below(directory, path)}".rstrip(os.sep) for path in paths}
            paths = {path: mark for path, mark in paths.items() if absolute[path] not in seen}
            seen |= set(absolute.values())
        found[directory] = paths
    if problems:
        raise InputError(problems)
    return found


def _what_to_do(directory: str) -> str:
    """What is wrong with what is no folder, and what was probably meant."""
    path = Path(directory)
    if path.exists():
        likely = Path(_MADE_BY_DEFAULT, path.stem if path.suffix in (".yaml", ".yml") else "")
        return f"not a folder; give the one of a run, of a sweep or of sweeps, such as {likely}"
    likely = Path(_MADE_BY_DEFAULT, directory)
    return f"there is no such folder{f', did you mean {likely}?' if likely.is_dir() else _MAKES_RUNS}"


def name_below(directory: str, path: str) -> str:
    """``demo/0123456789abcdef``: the path of a run in a directory; empty when the directory is the run itself."""
    return path[len(directory) :].strip(os.sep)


def find_runs_if_any(dirs: Iterable[str | os.PathLike[str]]) -> list[RunFolder]:
    """As :func:`find_runs`, but without runs there are simply none."""
    try:
        return find_runs(dirs)
    except InputError:
        return []


def _runs_below(directory: str) -> Iterator[tuple[str, Mark]]:
    mark = mark_of(f"{directory}/run.json")
    if mark:
        yield directory, mark
        return
    for child in _folders_in(directory):
        mark = mark_of(f"{child}/run.json")
        if mark:
            yield child, mark
            continue
        for grandchild in _folders_in(child):
            mark = mark_of(f"{grandchild}/run.json")
            if mark:
                yield grandchild, mark


def _folders_in(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except PermissionError:
        # somebody else's folder among ours is foreign, not an error
        return []
