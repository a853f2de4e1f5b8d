"""Stopping between two steps, all ranks at the same one."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from normhpc.train.world import World

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""What asks a training to save itself: the user, a launcher, and Slurm some time before a job's limit."""

_LAST_STEP = 2**40


class StopRequest:
    """Set by a signal or by the death of the launcher; looked at between steps."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._process = os.getpid()

    def __call__(self, number: int, frame: object) -> None:
        """The signal handler: it only leaves a note, because it may run at any point of a step."""
        if os.getpid() != self._process:
            # a forked child inherited the handler, but it has no training to stop
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.reason = signal.Signals(number).name


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[StopRequest]:
    """Let SIGINT and SIGTERM leave a note in ``request``; outside the main thread signals are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Decision(NamedTuple):
    """What all ranks do before the next step. ``diverged_step`` is the first step without a finite loss."""

    stop: bool = False
    save: bool = False
    diverged_step: int | None = None

    def __or__(self, other: "Decision") -> "Decision":
        """What either decision asks for."""
        steps = [step for step in (self.diverged_step, other.diverged_step) if step is not None]
        return Decision(self.stop or other.stop, self.save or other.save, min(steps, default=None))


class Agreement:
    """Turns each rank's wishes into one decision, the same on all ranks at the same step.

    With several ranks the vote of a step is collected while the next one computes, so a decision comes one step
    late and costs no waiting.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._votes: torch.Tensor | None = None
        self._work: Any = None

    def decide(self, *, stop: bool, save: bool, diverged_step: int | None) -> Decision:
        """Cast this rank's vote; the answer is the newest vote that is complete."""
        if self._world.size == 1:
            return Decision(stop, save, diverged_step)
        # the maximum over ranks of a mirrored step number is the earliest step
        mirrored = _LAST_STEP - diverged_step if diverged_step is not None else 0
        votes = torch.tensor([int(stop), int(save), mirrored], dtype=torch.int64)
        complete = self._finished()
        self._votes = votes
        self._work = dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._world.control, async_op=True)
        return complete

    def last(self) -> Decision:
        """The decision on the votes still under way; call it where a loop ends."""
        return self._finished()

    def _finished(self) -> Decision:
        if self._work is None or self._votes is None:
            return Decision()
        self._work.wait()
        votes, self._work, self._votes = self._votes, None, None
        return _decision(votes)


def _decision(votes: torch.Tensor) -> Decision:
    stop, save, mirrored = votes.tolist()
    return Decision(bool(stop), bool(save), _LAST_STEP - mirrored if mirrored else None)
