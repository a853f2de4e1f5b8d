"""Which code a run was made with."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import normhpc


@cache
def code_version() -> dict[str, Any]:
    """Version of normhpc, git commit of its checkout and whether files differ from it; null outside a checkout."""
    root = Path(normhpc.__file__).resolve().parents[1]
    commit = _git(root, "rev-parse", "HEAD")
    changes = (
        _git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        if commit is not None
        else None
    )
    return {
        "version": normhpc.__version__,
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
    }


def _git(root: Path, *arguments: str) -> str | None:
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
