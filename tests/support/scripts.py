"""Scripts outside the package, as modules."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[2]


def script(place: str) -> ModuleType:
    """The script at ``place`` in the repository, loaded but not run; worker processes find it by its name."""
    path = REPOSITORY / place
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return import_module(path.stem)
