"""Who makes which shard: locks of the kernel on bytes of one file, gone with the process that holds them."""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from normhpc.errors import InputError

LOCK_NAME = ".lock"

_FOLDER_BYTE = 0
_FIRST_SHARD_BYTE = 1
# struct flock of Linux on 64 bits: type, whence, start, length, process
_REGION = "hhqqi4x"


class FolderLocks:
    """Locks for one split: one on its list of shards, held for moments, and one on each shard that is being made.

    They belong to the open file (``F_OFD_SETLK``) and not to the process, so that reading the file elsewhere in the
    process does not drop them. The file itself, of no bytes, stays: removing it would let two hold the same lock.
    Where the file system has no locks, nothing is locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @contextlib.contextmanager
    def whole_folder(self) -> Iterator[None]:
        """Hold what every task of a conversion needs for a moment: its plan, the list of what is there, the index."""
        self._lock(fcntl.F_WRLCK, _FOLDER_BYTE, fcntl.F_OFD_SETLKW)
        try:
            yield
        finally:
            self._lock(fcntl.F_UNLCK, _FOLDER_BYTE, fcntl.F_OFD_SETLK)

    def claim(self, numbers: Sequence[int]) -> None:
        """Hold these shards until the end. Raises :class:`~normhpc.errors.InputError` when another process has one."""
        for number in numbers:
            if not self._lock(fcntl.F_WRLCK, _FIRST_SHARD_BYTE + number, fcntl.F_OFD_SETLK):
                raise InputError(
                    f"{self.folder}: another conversion is making shard {number} there now; wait for it, "
                    "or give each its own share with --task K/N"
                )

    def _lock(self, kind: int, byte: int, command: int) -> bool:
        try:
            fcntl.fcntl(self._descriptor, command, struct.pack(_REGION, kind, os.SEEK_SET, byte, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        return True
