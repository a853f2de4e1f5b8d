"""Files that are whole or absent: atomic replacement and canonical JSON."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# made once, because json.dumps would make one for every call that does not use its defaults
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value: sorted keys, no blanks, ASCII, no NaN.

    Floats are written by ``repr`` (shortest text that reads back equal), the same on every Python >= 3.11.
    """
    return _CANONICAL.encode(value)


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Put a new file at ``path`` in one step: a reader, or a crash, sees the old file or the new, never a part.

    ``write`` fills a temporary file beside the target, which is synced to disk and renamed over it;
    when anything fails the temporary file is removed, the old file is untouched and the error goes on.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)


def replace_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON through :func:`replace_file`."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """The JSON document in ``path``."""
    return json.loads(path.read_bytes())


def sync_directory(path: Path) -> None:
    """Make a rename or creation inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
