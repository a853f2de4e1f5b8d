"""A process that appends to a journal, as a rank or a launcher does."""

from pathlib import Path

from normhpc.record import RunFolder, append_event


def append_many(path: str, name: str, count: int) -> None:
    """``count`` events of about 3 KB, each through a journal of its own."""
    for number in range(count):
        append_event(RunFolder(Path(path)), "warning", who=name, number=number, message=name * 3000)
