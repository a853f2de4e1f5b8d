"""Whether a file is the one that was read."""

import os
import stat

Mark = tuple[int, int, int]
"""Of a file: bytes, modification time in ns, inode."""


def mark_of(path: str) -> Mark | None:
    """The mark of a file; None when there is none, or something else that is no file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - tens of thousands of them
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ino) if stat.S_ISREG(found.st_mode) else None
