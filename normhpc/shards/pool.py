"""Worker processes that read images: they die with the process that started them, and import what they need alone."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Protocol

from normhpc.shards.job import Job

_SET_SIGNAL_OF_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of linux/prctl.h

_job: Job | None = None


class Pool(Protocol):
    """Calls ``function(job, *arguments)``, here or elsewhere."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]": ...

    def stop(self) -> None: ...


def open_pool(job: Job, workers: int) -> Pool:
    """This process itself for one worker, else so many new ones."""
    return _Here(job) if workers == 1 else _Elsewhere(job, workers)


class _Here:
    def __init__(self, job: Job) -> None:
        self._job = job

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call it now."""
        future: Future[Any] = Future()
        future.set_result(function(self._job, *arguments))
        return future

    def stop(self) -> None:
        """Nothing runs."""


class _Elsewhere:
    def __init__(self, job: Job, workers: int) -> None:
        # spawned and not forked: a fork would share the locks, and may not follow threads
        self._executor = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(job, os.getpid())
        )

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Let the next free process call it."""
        return self._executor.submit(_call, function, *arguments)

    def stop(self) -> None:
        """Wait for what runs, forget what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _begin(job: Job, parent: int) -> None:
    global _job
    ctypes.CDLL(None, use_errno=True).prctl(_SET_SIGNAL_OF_PARENTS_DEATH, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked to tell
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    _job = job


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(_job, *arguments)
