"""The result of one analysis of one run, as the report needs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one analysis of one run."""

    run: int
    what: str
    method: str
    values: Mapping[str, float]
    """Its finite numbers by dotted name."""
    document: Mapping[str, Any]
    """The content of its file, as it stands there."""
    folder: Path
    files: tuple[str, ...]
    images: int | None
    """How many images it is over; None where nothing says."""
