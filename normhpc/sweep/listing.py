"""``normhpc expand``: the runs of a sweep on standard output."""

import sys

from normhpc.errors import InputError
from normhpc.sweep.language import Sweep


def print_count(sweep: Sweep) -> None:
    """Print the number of runs alone."""
    print(sweep.count())


def print_runs(sweep: Sweep) -> None:
    """Print one JSON line per run, and notes on standard error. Raises :class:`InputError` when no run is left."""
    write, run = sys.stdout.write, None
    for run in sweep.runs():
        write(f'{{"run_id": "{run.run_id}", "config": {run.config_json}}}\n')
    if run is None:
        raise InputError(f"{sweep.file}: no run is left; exclude or --only leaves nothing of it")
    for note in sweep.notes:
        print(f"note: {note}", file=sys.stderr)
