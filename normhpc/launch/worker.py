"""What runs where the training runs: one rank of one run, from its folder to an exit code.

The one place of the launching side that reaches :mod:`normhpc.train`, inside the function, so that planning and
watching never load torch.
"""

import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from normhpc.errors import NormhpcError

if TYPE_CHECKING:
    from normhpc.config import RunConfig
    from normhpc.record import RunFolder, RunInfo
    from normhpc.train.trained import Trained

LAUNCHER_PIPE_VARIABLE = "NORMHPC_LAUNCHER_PIPE"
"""Set when standard input is a pipe that closes with the launcher, however it dies."""

INTERRUPTED = 130
"""Exit code of a rank that was stopped and has saved its run."""

_PATIENCE_SECONDS = 30
"""How long a rank without a launcher may take to save itself."""


class Stoppable(Protocol):
    """What can be asked to stop: a training looks at ``reason`` between two steps."""

    reason: str | None


class LauncherWatch(threading.Thread):
    """Waits for standard input to close, which it does with the launcher, however that dies."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.request: Stoppable | None = None
        """Whom to ask to stop; None while nothing has begun that would have to be saved."""

    def run(self) -> None:
        """End this process: at once before :attr:`request` is set, otherwise when it has saved itself, or too late."""
        while os.read(0, 1024):
            pass
        if self.request is None:
            os._exit(INTERRUPTED)
        self.request.reason = "the launcher is gone"
        time.sleep(_PATIENCE_SECONDS)
        os._exit(1)


def watched_launcher() -> LauncherWatch | None:
    """A watch over the launcher that started this process; None when it was started by hand."""
    if not os.environ.pop(LAUNCHER_PIPE_VARIABLE, None):
        return None
    # the launcher reads what is printed: without it a print must not fail the run before it has saved itself
    sys.stdout, sys.stderr = _lasting_output(1), _lasting_output(2)
    watch = LauncherWatch()
    watch.start()
    return watch


class _LastingFile(io.FileIO):
    """Takes what is written also when nobody reads it any more."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _lasting_output(descriptor: int) -> io.TextIOWrapper:
    binary = io.BufferedWriter(_LastingFile(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", write_through=True)


class EarlyStop:
    """Keeps a wish to stop that comes while torch is loaded, where peers wait for this rank to agree to it."""

    def __init__(self) -> None:
        self.reason: str | None = None
        wanted = (signal.SIGTERM, signal.SIGUSR2)
        if os.environ.get("WORLD_SIZE", "1") != "1" and threading.current_thread() is threading.main_thread():
            for number in wanted:
                signal.signal(number, self._note)
        # whoever started this rank may have held signals back until now
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)

    def _note(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name


def run_rank(*run_dirs: Path) -> int:
    """Train the runs in ``run_dirs`` as the rank that the environment names, several together. Returns the exit code.

    0 sealed, 1 failed (recorded in the run's events), 2 bad input, 130 stopped and saved; of several runs stopped
    goes before failed. Raises :class:`~normhpc.errors.NormhpcError` for a folder that is no run.
    """
    early = EarlyStop()
    watch = watched_launcher()
    has_peers = os.environ.get("WORLD_SIZE", "1") != "1"
    from normhpc.record import RunFolder, read_summary

    folders = [RunFolder(run_dir) for run_dir in run_dirs]
    for folder in folders:
        folder.read_run()  # a slip is told before torch is loaded, which takes seconds
    left = []
    for folder in folders:
        if (summary := read_summary(folder)) is None:
            left.append(folder.path)
        elif os.environ.get("RANK", "0") == "0":
            _tell_result(folder, summary)
    if not left:
        return _leave(0, at_once=watch is not None)
    from normhpc.train import Interrupted, StopRequest, run, run_together, stop_on_signals

    request = StopRequest()
    if watch is not None:
        watch.request = request
    with stop_on_signals(request):
        request.reason = request.reason or early.reason
        try:
            if len(left) == 1:
                run(left[0], request)
            else:
                run_together(left, request)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr, flush=True)
            return _leave(INTERRUPTED, at_once=watch is not None)
        except NormhpcError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return _leave(error.exit_code, at_once=has_peers)
        except Exception:
            traceback.print_exc()  # recorded by run()
            return _leave(1, at_once=has_peers)
    return _leave(0, at_once=watch is not None)


def _tell_result(folder: "RunFolder", summary: Mapping[str, Any]) -> None:
    """Print what came of a run that is over."""
    place = (
        f"at step {summary['diverged_at_step']}" if summary["state"] == "diverged" else f"{summary['epochs']} epochs"
    )
    final = {name: value for name, value in summary["final"].items() if isinstance(value, float)}
    shown = " ".join(f"{name} {value:.4f}" for name, value in final.items())
    print(
        ": ".join(part for part in (f"{folder.path}: {summary['state']} already, {place}", shown) if part), flush=True
    )


def _leave(code: int, *, at_once: bool) -> int:
    """``code``, or the end of this process with it ``at_once``.

    A rank that failed must not wait for its peers in a clean-up; one that is done has closed all its files, and
    under a launcher the second that Python takes to unload torch would be a second of an idle slot.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if at_once:
        os._exit(code)
    return code


def load_trained(folder: "RunFolder", info: "RunInfo", weights: Path, device_name: str | None = None) -> "Trained":
    """A run's network with ``weights``; see :func:`normhpc.train.trained.load_trained`."""
    from normhpc.train.trained import load_trained

    return load_trained(folder, info, weights, device_name)


def try_cases(cases: Sequence[tuple[str, "RunConfig", int]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Build every case on this machine and take one training step; see :func:`normhpc.train.smoke.try_cases`."""
    from normhpc.train.smoke import try_cases

    return try_cases(cases, tell)
