"""What can go wrong, named by who must act.

Everything normhpc raises on purpose derives from :class:`NormhpcError` and carries the exit code of
the command that meets it; anything else that escapes is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


class NormhpcError(Exception):
    """Something failed that the user can read about and act on."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the user's input and where it stands.

    ``line`` and ``column`` count from 1; all places may be absent when the input has none
    (a value given on the command line has no line).
    """

    message: str
    path: str = ""
    file: str = ""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part not in ("", None))
        return ": ".join(part for part in (place, self.path, self.message) if part)


class InputError(NormhpcError):
    """Bad usage or bad input; nothing was changed. Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(InputError):
    """Images, labels or their files are missing, damaged or not what the configuration says."""


class RecordError(NormhpcError):
    """A run's folder cannot be read or written."""


class DamagedError(RecordError):
    """A file of a run's folder is damaged, of another run or of another version: bad input, to be deleted or put back."""

    exit_code = 2


class CheckpointError(DamagedError):
    """A checkpoint is such a file."""


class BusyError(NormhpcError):
    """Somebody else holds what is asked for: a sweep being launched, a run being trained."""


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """``", did you mean 'momentum'?"`` when one of ``allowed`` is close to ``given``, else nothing."""
    close = get_close_matches(str(given), list(allowed), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""
