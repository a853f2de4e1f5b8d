"""Append-only files of one JSON object a line that survive a crash at any byte.

Writers: O_APPEND, one ``write`` per line with its newline, a missing last newline supplied on opening, so
that a torn line never swallows the next one. Readers: line by line, torn lines counted and skipped.
"""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self


class Journal:
    """The writing end. One process writes a journal at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._torn = False
        try:
            self._heal()
        except BaseException:
            self.close()
            raise

    def _heal(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line and sync it to disk. Numbers that are not finite become null.

        Raises OSError when the line cannot be written whole (a full disk); the next append starts a new line.
        """
        line = json.dumps(finite(row), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if self._torn:
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        self._torn = written != len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JournalRows(NamedTuple):
    """What a journal holds: its readable ``rows`` in order and the number of ``torn`` lines."""

    rows: list[dict[str, Any]]
    torn: int


def read_journal(path: Path) -> JournalRows:
    """Every whole line of ``path``; an absent file is an empty journal."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return JournalRows([], 0)
    rows: list[dict[str, Any]] = []
    torn = 0
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            torn += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    return JournalRows(rows, torn)


def finite(value: Any) -> Any:
    """``value`` with null in place of every number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
