"""The readable form of a sweep's runs, kept beside each golden sweep.

``python tests/sweep/golden_text.py [NAME ...]`` writes ``golden/NAME.runs.txt`` anew (all without a NAME); the tests
only ever compare. Read the difference before committing it: a changed run id makes every old record an orphan.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from normhpc.config import Resources, RunConfig
from normhpc.files import canonical_json
from normhpc.sweep import Sweep, load

GOLDEN = Path(__file__).parent / "golden"


def golden_text(sweep: Sweep) -> str:
    """One line a run: its id and the fields that are not the default; then the notes."""
    default = dict(leaves(RunConfig().to_json())) | dict(leaves({"resources": Resources().model_dump()}))
    lines = []
    for config, run in zip(sweep.expand(), sweep.runs(), strict=True):
        given = leaves(config.to_json() | {"resources": run.resources.model_dump()})
        differing = [f"{path}={canonical_json(value)}" for path, value in given if default.get(path, ...) != value]
        lines.append(" ".join([config.run_id, *differing]))
    return "".join(f"{line}\n" for line in [*lines, *(f"note: {note}" for note in sweep.notes)])


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values in ``value`` under their dotted paths."""
    if not isinstance(value, dict):
        yield path, value
        return
    for key, item in value.items():
        yield from leaves(item, f"{path}.{key}" if path else key)


if __name__ == "__main__":
    for file in [GOLDEN / f"{name}.yaml" for name in sys.argv[1:]] or sorted(GOLDEN.glob("*.yaml")):
        file.with_suffix(".runs.txt").write_text(golden_text(load(file)))
