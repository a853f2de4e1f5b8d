"""What every command says and where: consoles, JSON documents, mistakes, exit codes."""

import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from normhpc.errors import InputError, NormhpcError, Problem

if TYPE_CHECKING:
    from rich.console import Console

_UNWRAPPED = 10_000
"""Letters of a line that nothing is wide enough to reach."""


class _Trimmed(io.TextIOBase):
    """A stream without blanks at the ends of lines, with which rich fills up the last column of a table."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # as the stream's own, which may not know box characters
        return self._stream.encoding

    def write(self, text: str) -> int:
        self._stream.write(re.sub(" +(?=\n)", "", text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def new_console(*, stderr: bool = False) -> "Console":
    """Where people read: user text is printed as it is; lines are wrapped on terminals, and only as long as they must be."""
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _UNWRAPPED
        console.file = _Trimmed(sys.stderr if stderr else sys.stdout)  # type: ignore[assignment]  # writes, and no more
    return console


def print_json(value: Any) -> None:
    """Print ``value`` as one JSON document on standard output."""
    print(json.dumps(value, indent=2))


def run_command(command: Callable[[], object]) -> None:
    """Call ``command``. Mistakes of the user end the process with their text and exit code, without a traceback."""
    _open_closed_streams()
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except NormhpcError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer must not fail again at exit
        if error.errno != errno.EPIPE:
            print(f"error: writing failed: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _tell(error: NormhpcError) -> None:
    """Print what is wrong: a mistake in a file as ``file:line:column: ...``, which editors can follow."""
    problems = error.problems if isinstance(error, InputError) else [Problem(str(error))]
    for problem in problems:
        prefix = "" if problem.line is not None else "error: "
        for line in str(problem).splitlines():
            print(f"{prefix}{line}", file=sys.stderr)


def _open_closed_streams() -> None:
    """Let what a shell closed (``>&-``) swallow what is written to it, and keep its number from the records."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (stays open)
