"""``normhpc sweep`` of :mod:`support.slurm_cli`, killed at each step of a submission, and then called twice more.

``python killed_cli.py POINTS [OPTION ...]`` does so for the sweeps ``k1.yaml`` to ``kPOINTS.yaml``. A step is the moment
before, or after, a file of the submission is written or sbatch is called. Each call is a fork, which saves the imports.
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
kill_at = 0


def step(name: str) -> None:
    global seen
    seen += 1
    if kill_at == seen:
        print(f"killing {name}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


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


def call(arguments: list[str], kill: int) -> int:
    """Exit code of ``normhpc sweep`` in a process of its own, negative for a signal."""
    global kill_at
    child = os.fork()
    if not child:
        kill_at, sys.argv = kill, ["normhpc", "sweep", *arguments]
        code = 1
        try:
            slurm_cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    Journal.append = append  # type: ignore[method-assign, assignment]
    ArrayExecutor._submit_command = stepping("sbatch", ArrayExecutor._submit_command)
    journal.replace_file = stepping("chunks", journal.replace_file)
    snapshot.shutil.rmtree = stepping("snapshot", shutil.rmtree)  # type: ignore[attr-defined]
    for point in range(1, int(sys.argv[1]) + 1):
        arguments = [f"k{point}.yaml", *sys.argv[2:]]
        first, second, third = (call(arguments, kill) for kill in (point, 0, 0))
        print(f"point {point}: killed by {-first}, then {second}, then {third}", flush=True)
