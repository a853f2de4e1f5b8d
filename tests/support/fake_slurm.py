"""Slurm's commands as scripts that answer what a test wants."""

import json
import sys
from pathlib import Path
from typing import Any

SCRIPT = """#!{python}
import json, sys
from pathlib import Path
place = Path({place!r})
with (place / "calls").open("a") as calls:
    calls.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
answer = json.loads((place / "{name}.json").read_text())
for words, out, err, code in answer:
    if all(word in " ".join(sys.argv[1:]) for word in words):
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
"""


class FakeSlurm:
    """``answer`` says what a command prints; the first answer whose ``words`` are all among the arguments counts."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._answers: dict[str, list[tuple[Any, ...]]] = {}
        for name in ("sbatch", "squeue", "sacct", "sacctmgr", "scancel", "scontrol", "sinfo", "srun"):
            path = place / name
            path.write_text(SCRIPT.format(python=sys.executable, place=str(place), name=name))
            path.chmod(0o755)
            (place / f"{name}.json").write_text("[]")

    def answer(self, name: str, out: str = "", *words: str, err: str = "", code: int = 0) -> None:
        answers = self._answers.setdefault(name, [])
        answers.insert(0, (words, out, err, code))
        (self.place / f"{name}.json").write_text(json.dumps(answers))

    def calls(self, name: str) -> list[list[str]]:
        path = self.place / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [arguments for called, *arguments in lines if called == name]
