"""Reading what a run printed, while it prints."""

import sys
import time

from normhpc.errors import InputError
from normhpc.record.folder import RunFolder
from normhpc.record.state import IN_FLIGHT, read_status

_POLL_SECONDS = 0.2


def print_log(folder: RunFolder, *, follow: bool) -> None:
    """Print ``log.txt``; with ``follow`` go on until the run is no longer under way.

    Raises :class:`InputError` when the run has printed nothing and is not asked to be followed.
    """
    if not folder.log.exists():
        state = read_status(folder).state
        if not follow:
            raise InputError(f"{folder.log}: not there, the run is {state}; follow it with -f")
        while not folder.log.exists() and read_status(folder).state in IN_FLIGHT:
            time.sleep(_POLL_SECONDS)
        if not folder.log.exists():
            raise InputError(f"{folder.log}: not there, the run is {state}; launch its sweep first")
    with folder.log.open(encoding="utf-8", errors="replace") as log:
        while True:
            # the state is asked first: what the run wrote before it ended is still read
            ended = not follow or read_status(folder).state not in IN_FLIGHT
            sys.stdout.write(log.read())
            sys.stdout.flush()
            if ended:
                return
            time.sleep(_POLL_SECONDS)
