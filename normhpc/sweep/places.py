"""Collecting what is wrong with a sweep file, each mistake with its place."""

import re
from collections.abc import Iterable

from normhpc.config.problems import Keys, dotted
from normhpc.errors import InputError, Problem
from normhpc.sweep.yaml12 import Document

_IN_CONDITION = re.compile(r"exclude\[|--only|when\[\d+\]\.match")


class Mistakes:
    """Every problem found in one document so far, each told once, in the order of the file."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._found: dict[tuple[str, int | None, int | None], Problem] = {}

    def add(self, origin: Keys, message: str, *, at_key: bool = False) -> None:
        """Note ``message`` about the value (or the key) at ``origin``; the first message about a place stands."""
        self.take([located(self.document, origin, message, at_key=at_key)])

    def take(self, problems: Iterable[Problem]) -> None:
        """Note problems that already have their place."""
        for problem in problems:
            self._found.setdefault((problem.path, problem.line, problem.column), problem)

    def words(self) -> set[str]:
        """Every key on the paths of the problems so far; those in conditions say nothing of the values of runs."""
        paths = [problem.path for problem in self._found.values() if not _IN_CONDITION.match(problem.path)]
        return {word for path in paths for word in re.split(r"[.\[\] ]", path)}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def raise_any(self) -> None:
        """Raise :class:`InputError` with all problems when there are any."""
        if self._found:
            raise InputError(sorted(self._found.values(), key=lambda problem: (problem.line or 0, problem.column or 0)))


def written(origin: Keys) -> str:
    """``origin`` as the user wrote it: ``matrix.norm[2]``, or ``--set optim.lr`` for what the command line says."""
    if origin and str(origin[0]).startswith("--"):
        return f"{origin[0]} {dotted(origin[1:])}"
    return dotted(origin)


def located(document: Document, origin: Keys, message: str, rest: Keys = (), *, at_key: bool = False) -> Problem:
    """``message`` as a :class:`Problem` about ``rest`` below ``origin``, placed at the nearest of both that is written.

    What the command line says has no file and no line.
    """
    shown = origin
    if rest and isinstance(origin[-1], str) and origin[-1].endswith(".name"):
        # `norm.name: group` stands for the whole of norm, and the rest is a field of norm, not of its name.
        shown = (*origin[:-1], origin[-1].removesuffix(".name"))
    path = written((*shown, *rest))
    if path.startswith("--"):
        return Problem(message, path)
    line, column = document.place((*origin, *rest), of_key=at_key) or (None, None)
    return Problem(message, path, document.file, line, column)
