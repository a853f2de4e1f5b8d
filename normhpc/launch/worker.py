"""What runs where the training runs: one rank of one run, from its folder to an exit code.

The one place of the launching side that reaches :mod:`normhpc.train`, inside the function, so that planning and
watching never load torch.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normhpc.config import RunConfig
from normhpc.errors import NormhpcError

if TYPE_CHECKING:
    from normhpc.train import StopRequest

LAUNCHER_PIPE_VARIABLE = "NORMHPC_LAUNCHER_PIPE"
"""Set when standard input is a pipe that closes with the launcher, however it dies."""

INTERRUPTED = 130
"""Exit code of a rank that was stopped and has saved its run."""

_PATIENCE_SECONDS = 30
"""How long a rank without a launcher may take to save itself."""


def run_rank(run_dir: Path) -> int:
    """Train ``run_dir`` as the rank that the environment names. Returns the exit code.

    0 sealed, 1 failed (recorded in the run's events), 2 bad input, 130 stopped and saved.
    """
    from normhpc.train import Interrupted, StopRequest, run, stop_on_signals

    request = StopRequest()
    if os.environ.pop(LAUNCHER_PIPE_VARIABLE, None):
        threading.Thread(target=_stop_with_launcher, args=(request,), daemon=True).start()
    with stop_on_signals(request):
        try:
            run(run_dir, request)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr, flush=True)
            return INTERRUPTED
        except NormhpcError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return error.exit_code
        except Exception:
            # recorded by run(); no collective and no clean-up that could wait for a peer on the way out
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return 0


def _stop_with_launcher(request: "StopRequest") -> None:
    """Wait until standard input closes, then ask the run to save itself and stop; insist after a while."""
    while os.read(0, 1024):
        pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    request.reason = "the launcher is gone"
    time.sleep(_PATIENCE_SECONDS)
    os._exit(1)


def try_cases(cases: Sequence[tuple[str, RunConfig]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Build every case on this machine and take one training step; see :func:`normhpc.train.smoke.try_cases`."""
    from normhpc.train.smoke import try_cases

    return try_cases(cases, tell)
