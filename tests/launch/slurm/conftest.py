"""What the tests of the Slurm launching share."""

import os
from pathlib import Path

import pytest
from support.fake_slurm import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    place = tmp_path / "slurm-bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return FakeSlurm(place)
