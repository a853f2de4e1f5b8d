"""What the tests of launching share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bench import Bench


@pytest.fixture(autouse=True)
def quiet_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No GPU of this machine, a trace of every fake rank; the path of the trace."""
    trace = tmp_path / "trace.jsonl"
    monkeypatch.setenv("FAKE_TRACE", str(trace))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("FAKE_RANKS", raising=False)
    return trace


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say how fake ranks behave, by name or seed of their run."""
    return lambda **runs: monkeypatch.setenv("FAKE_RANKS", json.dumps(runs))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "runs")
