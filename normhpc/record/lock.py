"""Locks of the kernel on files and folders: gone with the process that holds them, however it dies."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from normhpc.errors import BusyError


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
