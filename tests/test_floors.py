"""Imports go down: a module reaches its own part or a lower floor, and what plans and watches never loads torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOOR = {
    "errors": 0,
    "files": 0,
    "config": 1,
    "terminal": 1,
    "record": 2,
    "shards": 2,
    "norms": 2,
    "sweep": 3,
    "models": 3,
    "data": 3,
    "results": 3,
    "train": 4,
    "posthoc": 4,
    "report": 4,
    "launch": 5,
    "cli": 6,
    "__main__": 7,
}

WITHOUT_TORCH = ("config", "sweep", "record", "shards", "launch", "results", "report", "terminal", "cli")

# the one function that runs where the training runs
REACHES_TRAIN = "launch/worker.py"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import in ``path``, also those inside functions and for the type checker alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "normhpc":
                yield from ((node.lineno, f"normhpc.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def part_of(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def upward_imports(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        here = part_of(path, package)
        if here == "__init__":
            continue
        for line, module in imports(path):
            names = module.split(".")
            if names[0] != "normhpc" or len(names) == 1 or names[1] not in FLOOR:
                continue
            there = names[1]
            if there != here and FLOOR[there] >= FLOOR[here]:
                place = f"{path.relative_to(package)}:{line}"
                found.append(f"{place}: {here} (floor {FLOOR[here]}) imports {there} (floor {FLOOR[there]})")
    return found


def torch_imports(package: Path) -> list[str]:
    return [
        f"{path.relative_to(package)}:{line}: imports {module}"
        for path in sorted(package.rglob("*.py"))
        if part_of(path, package) in WITHOUT_TORCH
        for line, module in imports(path)
        if module.split(".")[0] in ("torch", "torchvision")
        or module.startswith(("normhpc.norms", "normhpc.models"))
        or (module.startswith("normhpc.train") and path.relative_to(package).as_posix() != REACHES_TRAIN)
    ]


def test_every_part_has_a_floor():
    parts = {part_of(path, ROOT / "normhpc") for path in (ROOT / "normhpc").rglob("*.py")}
    assert parts - {"__init__"} <= FLOOR.keys()


def test_no_import_goes_up():
    assert upward_imports(ROOT / "normhpc") == []


def test_planning_and_watching_import_no_torch():
    assert torch_imports(ROOT / "normhpc") == []


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        (
            "config/x.py",
            "from normhpc.train.loop import run",
            "config/x.py:1: config (floor 1) imports train (floor 4)",
        ),
        ("norms/x.py", "import normhpc.record", "norms/x.py:1: norms (floor 2) imports record (floor 2)"),
        (
            "sweep/x.py",
            "def f():\n    from normhpc import data",
            "sweep/x.py:2: sweep (floor 3) imports data (floor 3)",
        ),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path: Path, file: str, line: str, found: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir()
    planted.write_text(line)
    assert upward_imports(tmp_path) == [found]


def test_a_planted_torch_import_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "results" / "x.py"
    planted.parent.mkdir()
    planted.write_text("def f():\n    import torch\n")
    assert torch_imports(tmp_path) == ["results/x.py:2: imports torch"]


def test_no_torch_is_loaded_by_what_plans_and_watches():
    modules = [f"normhpc.{part}" for part in WITHOUT_TORCH]
    modules += [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for part in WITHOUT_TORCH
        for path in sorted((ROOT / "normhpc" / part).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_stay_readable():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "normhpc").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert long == {}
