"""The small real samples of public image sets, which lie beside the repository and not in it."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def sample(name: str) -> Path:
    """The sample folder ``name`` under ``$NORMHPC_SAMPLES``, by default ``../shared/data``; skips when it is absent."""
    folder = Path(os.environ.get("NORMHPC_SAMPLES", REPOSITORY.parent / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"no samples at {folder}; set NORMHPC_SAMPLES to the folder that holds {name}")
    return folder
