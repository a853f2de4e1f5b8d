"""The tests that start a real Slurm are asked for by name: ``make test-slurm``."""

import os
import signal
from pathlib import Path

NEEDS_SLURM = Path("tests/slurm")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts the tests in the background ignores it for them, and they for all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path, config):
    """Leave out the folder that needs a cluster, unless NORMHPC_TEST_SLURM says otherwise."""
    wanted = os.environ.get("NORMHPC_TEST_SLURM") == "1"
    return None if wanted else collection_path == config.rootpath / NEEDS_SLURM or None
