"""Sweeps written on the spot."""

import pytest

from normhpc.sweep import load


@pytest.fixture
def sweep_of(tmp_path):
    """``sweep_of(text, overrides, only)`` loads ``text`` as ``x.yaml``."""

    def loaded(text, overrides=(), only=()):
        file = tmp_path / "x.yaml"
        file.write_text(text)
        return load(file, overrides, only)

    return loaded
