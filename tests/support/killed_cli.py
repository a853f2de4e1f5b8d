"""The ``normhpc`` command line of :mod:`support.slurm_cli` with a power cut built in: KILL_AT=N ends it with SIGKILL
at its N-th step of a submission. A step is the moment before, or after, a file of the submission is written or sbatch
is called. With KILL_AT=0 it prints the steps instead.
"""

import functools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import slurm_cli

from normhpc.launch.slurm import journal, snapshot
from normhpc.launch.slurm.submit import ArrayExecutor
from normhpc.record.journal import Journal

seen = 0


def step(name: str) -> None:
    global seen
    seen += 1
    if int(os.environ["KILL_AT"]) == seen:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ["KILL_AT"] == "0":
        print(f"step {seen}: {name}", file=sys.stderr)


def stepping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        step(f"before {name}")
        result = function(*arguments, **options)
        step(f"after {name}")
        return result

    return wrapped


def append(self: Journal, row: dict[str, Any]) -> None:
    inside = ".slurm" in Path(self.path).parts
    (stepping(f"journal {row['event']}", real_append) if inside else real_append)(self, row)


real_append = Journal.append

if __name__ == "__main__":
    Journal.append = append  # type: ignore[method-assign, assignment]
    ArrayExecutor._submit_command = stepping("sbatch", ArrayExecutor._submit_command)
    journal.replace_file = stepping("chunks", journal.replace_file)
    snapshot.shutil.rmtree = stepping("snapshot", shutil.rmtree)  # type: ignore[attr-defined]
    slurm_cli.main()
