"""Where the cache of a folder of records lies, and files in it that are whole or count as absent."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from normhpc.errors import BusyError
from normhpc.record.lock import exclusive_lock

NAME = ".normhpc-cache"

READER = 3
"""Version of the readers and of the files: a cache of another one is not used. Raised when either changes."""


class CacheFolder:
    """The cache of the records in a folder; for None, and where nothing can be written, it keeps nothing."""

    def __init__(self, records: str | None) -> None:
        self.path = None if records is None else _writable_place(Path(records))

    def read(self, name: str, checksum: int, parts: Iterable[memoryview]) -> bool:
        """Fill ``parts``, one after the other, with what :meth:`write` wrote.

        False when it is absent, of another length or checksum; what is in ``parts`` then is nothing to use.
        """
        if self.path is None:
            return False
        found = 0
        try:
            # not mapped into memory: a file that shrinks under a map kills the process
            with (self.path / name).open("rb") as file:
                for part in parts:
                    if file.readinto(part) != part.nbytes:
                        return False
                    found = zlib.crc32(part, found)
                return not file.read(1) and found == checksum
        except OSError:
            return False

    def read_head(self, name: str) -> bytes | None:
        """The content of a file that :meth:`write_head` wrote, None when it is absent or damaged."""
        if self.path is None:
            return None
        try:
            checksum, _, content = (self.path / name).read_bytes().partition(b"\n")
        except OSError:
            return None
        return content if checksum == _head(content) else None

    def write(self, name: str, content: memoryview) -> int:
        """Put a file there in one step; the CRC-32 of its content."""
        self._put(name, [content])
        return zlib.crc32(content)

    def write_head(self, name: str, content: bytes) -> None:
        """Put a file there that knows its own checksum."""
        self._put(name, [_head(content), b"\n", content])

    def update(self, write: Callable[[], None]) -> None:
        """Call ``write`` unless another process is writing, whose work will do as well.

        What the system refuses it (a full disk) is no error: the cache can be done without.
        """
        if self.path is not None:
            with contextlib.suppress(OSError, BusyError), exclusive_lock(self.path, "the cache is being written"):
                write()

    def remove_others(self, prefix: str, kept: set[str]) -> None:
        """Delete what begins with ``prefix`` but ``kept``: parts nobody refers to, and what a killed process left."""
        if self.path is not None:
            for path in self.path.glob(f"{prefix}*"):
                if path.name not in kept:
                    path.unlink(missing_ok=True)

    def _put(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        assert self.path is not None
        # not synced to disk: after a power cut the checksum does not fit, and it is read again
        descriptor, temporary = tempfile.mkstemp(prefix=f"{name}.", suffix=".tmp", dir=self.path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(parts)
            Path(temporary).replace(self.path / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def remove_cache(records: str) -> None:
    """Delete the cache of the records in a folder, wherever it lies."""
    for place in _places(Path(records)):
        shutil.rmtree(place, ignore_errors=True)


def _head(content: bytes) -> bytes:
    return f"normhpc cache {READER} {zlib.crc32(content):08x}".encode()


def _places(records: Path) -> tuple[Path, Path]:
    """Inside the folder; for folders where one may not write, in the user's own cache under a hash of the path."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    digest = hashlib.blake2b(os.fsencode(records.absolute()), digest_size=8).hexdigest()
    return records / NAME, own / "normhpc" / digest


def _writable_place(records: Path) -> Path | None:
    for place in _places(records):
        with contextlib.suppress(OSError):
            place.mkdir(parents=place.parent != records, exist_ok=True)
            if os.access(place, os.W_OK | os.X_OK):
                return place
    return None
