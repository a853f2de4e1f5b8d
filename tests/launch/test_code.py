"""Which code a run was made with."""

import subprocess
from pathlib import Path

import pytest

import normhpc
from normhpc.launch import code


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of nothing but the package's ``__init__.py``, which the version is then asked of."""
    package = tmp_path / "normhpc"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(normhpc, "__file__", str(package / "__init__.py"))
    code.code_version.cache_clear()
    yield tmp_path
    code.code_version.cache_clear()


def git(checkout: Path, *arguments: str) -> str:
    who = ["-c", "user.name=me", "-c", "user.email=me@here"]
    done = subprocess.run(["git", *who, *arguments], cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_outside_a_checkout(checkout: Path) -> None:
    assert code.code_version() == {"version": normhpc.__version__, "commit": None, "dirty": None}


def test_commit_and_changes(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "untracked").write_text("does not count")
    assert code.code_version() == {"version": normhpc.__version__, "commit": commit, "dirty": False}
    (checkout / "normhpc" / "__init__.py").write_text("changed")
    code.code_version.cache_clear()
    assert code.code_version() == {"version": normhpc.__version__, "commit": commit, "dirty": True}
