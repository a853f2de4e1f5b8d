"""A bar for what takes longer than a second."""

import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

_PATIENCE_SECONDS = 1.0

T = TypeVar("T")


def with_bar(
    items: Iterable[T], label: str, total: int, console: Console, *, size: Callable[[T], int] = lambda item: 1
) -> Generator[T]:
    """``items`` as they are; on a terminal a bar shows their sizes' sum out of ``total`` after the first second."""
    began, bar = time.monotonic(), Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(label, total=total)
    try:
        for item in items:
            yield item
            bar.advance(task, size(item))
            if not bar.live.is_started and time.monotonic() - began > _PATIENCE_SECONDS:
                bar.start()
    finally:
        bar.stop()
