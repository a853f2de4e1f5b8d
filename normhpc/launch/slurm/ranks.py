"""One rank of a run whose ranks are tasks of one Slurm step, possibly on several nodes."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

from normhpc.launch.ranks import Job, pump_output
from normhpc.launch.worker import LAUNCHER_PIPE_VARIABLE

_POLL_SECONDS = 0.1

_WISHES = (signal.SIGTERM, signal.SIGUSR2)
"""What asks a rank to stop; Slurm sends it to the ranks as well as to their tasks."""

PEERS_SECONDS = 10
"""What ranks are given to notice that one of them is gone."""


def end_file(rendezvous: Path) -> Path:
    """Where a task says that its rank has ended badly, so that the others do not wait for it."""
    return rendezvous.with_name(f"{rendezvous.name}.end")


class Told(Protocol):
    """Who knows whether this task was told to go."""

    told: bool


class RemoteRank:
    """Starts this task's rank, copies its output into the run's log, passes on the wish to stop."""

    def __init__(self, command: list[str], job: Job, rank: int, rendezvous: Path, patience_seconds: float) -> None:
        self._command = command
        self._job = job
        self._rank = rank
        self._rendezvous = rendezvous
        self._patience_seconds = patience_seconds
        self.killed = False
        """Whether the rank did not end by itself."""

    def run(self, signals: Told) -> int:
        """Train; returns the rank's exit code, negative for a signal."""
        self._job.folder.path.mkdir(parents=True, exist_ok=True)
        log = self._job.folder.log.open("ab", buffering=0)
        process = self._start()
        assert process.stdout is not None
        pump = threading.Thread(target=pump_output, args=(process.stdout, [log], self._rank), daemon=True)
        pump.start()
        deadline = None
        while (code := process.poll()) is None:
            now = time.monotonic()
            if deadline is None and signals.told:
                deadline = now + self._patience_seconds
                process.terminate()
            if deadline is None and end_file(self._rendezvous).exists():
                deadline = now + PEERS_SECONDS
            if deadline is not None and now > deadline:
                self.killed = True
                process.kill()
            time.sleep(_POLL_SECONDS)
        pump.join(timeout=5)
        if process.stdin is not None:
            process.stdin.close()
        return code

    def _start(self) -> subprocess.Popen[bytes]:
        # a wish to stop waits until the rank can listen: one that died of it would leave its peers waiting
        signal.pthread_sigmask(signal.SIG_BLOCK, _WISHES)
        try:
            return subprocess.Popen(
                self._command,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WISHES)

    def _environment(self) -> dict[str, str]:
        need = self._job.resources
        own = {
            "RANK": str(self._rank),
            "WORLD_SIZE": os.environ["SLURM_NTASKS"],
            "LOCAL_RANK": os.environ["SLURM_LOCALID"],
            "NORMHPC_RENDEZVOUS": str(self._rendezvous.absolute()),
            "OMP_NUM_THREADS": str(need.cpus_per_gpu),
            "PYTHONUNBUFFERED": "1",
            LAUNCHER_PIPE_VARIABLE: "1",
        }
        return {**os.environ, **own}
