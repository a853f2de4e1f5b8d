"""Files that are whole or absent: atomic replacement, canonical JSON, exclusive locks."""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from normhpc.errors import BusyError


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value: sorted keys, no blanks, ASCII, no NaN.

    Floats are written by ``repr`` (shortest text that reads back equal), the same on every Python >= 3.11.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


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


@contextlib.contextmanager
def exclusive_lock(path: Path, busy_message: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the kernel's lock on an existing file or folder; it is gone with the process, even after ``kill -9``.

    Raises :class:`BusyError` with ``busy_message`` when another process holds it after ``wait_seconds``.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BusyError(busy_message) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether some process holds :func:`exclusive_lock` on ``path``."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
