"""Runs to train in tests: short ones, stopped ones, and ranks in processes of their own."""

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from normhpc.config import Resources, RunConfig
from normhpc.launch.worker import run_rank
from normhpc.record import RunFolder
from normhpc.record.journal import read_journal
from normhpc.train import Interrupted, StopRequest, run
from normhpc.train.checkpoint import digest, read_checkpoint

TIMES = {"time", "attempt", "seconds", "images_per_second"}
"""Keys of a metrics line that differ between two equal trainings."""

SMALL = {
    "data": {"name": "digits"},
    "model": {"name": "convnet", "widths": [4, 8]},
    "norm": "batch",
    "optim": {"lr": 0.1},
    "epochs": 2,
    "batch_size": 256,
}
"""Real images, 5 steps an epoch, a fraction of a second in all."""

TINY = {
    **SMALL,
    "data": {
        "name": "synthetic",
        "images": 40,
        "test_images": 12,
        "channels": 2,
        "height": 8,
        "width": 8,
        "num_classes": 7,
    },
    "batch_size": 9,
}
"""Random images: 36 to train on, 4 steps an epoch."""


def new_run(path: Path, *changes: Mapping[str, Any], resources: Resources | None = None) -> RunFolder:
    """A run that nobody has started, of :data:`SMALL` with top-level ``changes``."""
    merged: dict[str, Any] = dict(SMALL)
    for change in changes:
        merged |= change
    folder = RunFolder(path)
    folder.create(RunConfig.model_validate(merged), sweep="test", swept={}, resources=resources or Resources(), code={})
    return folder


class StopAfter(StopRequest):
    """Asks to stop after so many steps of this attempt, as a signal between two steps would."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        super().__init__()

    @property
    def reason(self) -> str | None:
        # the loop looks once after every step
        self._left -= 1
        return "test" if self._left < 1 else None

    @reason.setter
    def reason(self, value: str | None) -> None:
        assert value is None


def trained(path: Path, *changes: Mapping[str, Any]) -> RunFolder:
    """A run as :func:`new_run` makes it, trained to its end."""
    folder = new_run(path, *changes)
    run(folder.path)
    return folder


def train_in_pieces(folder: RunFolder, steps: list[int]) -> dict[str, Any]:
    """Train with a stop after each number of steps; the summary of the last attempt, which is left alone."""
    for piece in steps:
        try:
            run(folder.path, StopAfter(piece))
        except Interrupted:
            continue
        raise AssertionError(f"the run ended before it was stopped after {piece} steps")
    return run(folder.path)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The network in the checkpoint."""
    content = torch.load(folder.checkpoint, weights_only=True)["content"]
    state: dict[str, torch.Tensor] = content["shared"]["model"]
    return state


def outcome(folder: RunFolder) -> dict[str, Any]:
    """All that two equal trainings have in common: digests of everything in the last checkpoint but the clock,
    and the metrics that hold, the newest of each (epoch, step, split)."""
    content = read_checkpoint(folder, folder.read_run().run_id)
    shared = {name: digest(value) for name, value in content["shared"].items() if name != "clock"}
    return {**shared, "by_rank": digest(content["by_rank"]), "metrics": metrics(folder)}


def metrics(folder: RunFolder) -> dict[tuple[int, int, str], dict[str, float]]:
    """The metrics that hold, without what depends on the time."""
    return {
        (row["epoch"], row["step"], row["split"]): {name: row[name] for name in row if name not in TIMES}
        for row in read_journal(folder.metrics).rows
    }


def events(folder: RunFolder) -> list[str]:
    """The kinds of events in order."""
    return [row["event"] for row in read_journal(folder.events).rows]


def warnings_told(folder: RunFolder) -> list[str]:
    """The messages of all warnings."""
    return [row["message"] for row in read_journal(folder.events).rows if row["event"] == "warning"]


# ---- processes ------------------------------------------------------------------------------------------------------


def start_ranks(
    folder: RunFolder, ranks: int = 1, by_rank: Sequence[Mapping[str, str]] = (), **environment: str
) -> list[BaseProcess]:
    """What a launcher starts: ``ranks`` processes that find each other and train; their output goes to ``log.txt``.

    ``by_rank`` is what the environment of each has beside ``environment``, as nodes of their own would give it.
    Forked from a server that has imported torch, since the import takes longer than most of these runs.
    """
    _warm_server()
    context = multiprocessing.get_context("forkserver")
    store = folder.path.parent / f"{folder.path.name}.store.{time.monotonic_ns()}"
    processes: list[BaseProcess] = []
    for rank in range(ranks):
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "NORMHPC_RENDEZVOUS": str(store),
            **environment,
            **(by_rank[rank] if by_rank else {}),
        }
        processes.append(context.Process(target=_rank, args=(str(folder.path), own)))
        processes[-1].start()
    return processes


@cache
def _warm_server() -> None:
    """Start the fork server with all that a rank imports; torch's DDP imports torch._dynamo, which takes seconds."""
    # one that other tests have started with less is of no use here
    forkserver._forkserver._stop()
    multiprocessing.set_forkserver_preload(["torch._dynamo", "normhpc.train", __name__])


def _rank(path: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    log = os.open(RunFolder(Path(path)).log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(run_rank(Path(path)))


def exit_codes(processes: list[BaseProcess], seconds: float = 60) -> list[int | None]:
    """The exit code of every process, None for one that has not ended after ``seconds`` (and is killed)."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def train_on_ranks(folder: RunFolder, ranks: int, seconds: float = 90) -> None:
    """Train to the end on ``ranks`` processes."""
    codes = exit_codes(start_ranks(folder, ranks), seconds)
    assert codes == [0] * ranks, folder.log.read_text()


def wait_for_progress(folder: RunFolder, process: BaseProcess, seconds: float = 60) -> None:
    """Wait until this attempt has written a checkpoint."""
    before = folder.checkpoint.stat().st_mtime_ns if folder.checkpoint.exists() else None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.is_alive():
        if folder.checkpoint.exists() and folder.checkpoint.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)
    log = folder.log.read_text() if folder.log.exists() else ""
    raise AssertionError(f"no checkpoint came, exit code {process.exitcode}: {log}")
