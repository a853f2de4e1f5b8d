"""Runs of one cell trained together in one process: each as alone, but for one pass forward and backward for all.

A small network leaves a GPU idle: its kernels take less time than their launches. The networks of several seeds are one
:class:`~normhpc.train.stack.Stack`, whose kernels do more each. Images, optimizer, schedule, checkpoint and record stay
each run's own, so that a run may go on alone where it stopped in company, and the other way round.
"""

import contextlib
import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from normhpc.config.training import LossConfig
from normhpc.data import TrainBatch, rank_share
from normhpc.errors import InputError, Problem
from normhpc.models.facts import summarize
from normhpc.record import RecordWriter, RunFolder, RunInfo, read_summary
from normhpc.train.loop import (
    Diverged,
    Interrupted,
    count_epoch_seconds,
    end_epoch,
    epoch_steps,
    finish,
    record_failure,
    seal_diverged,
    step_alone,
)
from normhpc.train.losses import summed_loss
from normhpc.train.memory import forget_frames, give_back, lack_of_memory
from normhpc.train.precision import autocast
from normhpc.train.stack import Stack, stacked_as_is
from normhpc.train.startup import prepare_torch
from normhpc.train.state import Measured
from normhpc.train.step import begin_update, end_update
from normhpc.train.stop import StopRequest
from normhpc.train.training import Training, prepare
from normhpc.train.world import World, joined_world

Rows = NDArray[np.int64]
Result = TypeVar("Result")

_MOST_APART = {"fp32": 1e-2, "bf16": 0.2, "fp16": 0.2}
"""By how much a network's gradient of a first batch may differ from the lone network's, relative to its 2-norm, before
the two are taken for different functions. Rounding, also of a GPU's TF32, stays far below."""

_WIDEST_MAP = 1 << 15
"""Values of the widest map of a micro-batch up to which a processor computes several networks faster together: maps of so
many keep it busy, and those of several leave its caches. Measured by ``benchmarks/fused.py``."""

_SLOW_PATH = "There is a performance drop because we have not yet implemented the batching rule for "
"""How torch's warning begins that it computes one network after the other."""


def run_together(record_dirs: Sequence[Path | str], stop: StopRequest | None = None) -> list[dict[str, Any]]:
    """Train the runs in ``record_dirs``, which differ by their seed alone, to their ends; returns their summaries.

    Each is what :func:`~normhpc.train.loop.run` makes of it, up to rounding: sums are taken in another order. Runs that
    are behind are brought level first. What cannot be trained together is trained one run after another, for a reason
    that is told in each record; so they are from where memory is not enough for all at once. A run that diverges is
    sealed and the others go on; so they do when one fails.

    Raises :class:`Interrupted` when stopped; otherwise the first failure, after all others have ended, of which each is
    in its run's ``events.jsonl``. Raises :class:`~normhpc.errors.InputError` for runs of different cells, and where this
    process is one rank of several.
    """
    folders = [RunFolder(Path(record_dir)) for record_dir in record_dirs]
    infos = [folder.read_run() for folder in folders]
    _check_one_cell(folders, infos)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(
            f"expected one rank for several runs, got WORLD_SIZE={os.environ['WORLD_SIZE']}; train the runs one by one"
        )
    with contextlib.ExitStack() as opened, joined_world() as world:
        company = Company(stop or StopRequest(), opened)
        waiting = [pair for pair in zip(folders, infos, strict=True) if read_summary(pair[0]) is None]
        for folder, info in waiting:
            company.open(folder, info, world, [info.run_id for _, info in waiting])
        company.train()
    if company.failures:
        raise next((error for error in company.failures if isinstance(error, Interrupted)), company.failures[0])
    return [summary for folder in folders if (summary := read_summary(folder)) is not None]


def _check_one_cell(folders: Sequence[RunFolder], infos: Sequence[RunInfo]) -> None:
    """Raise :class:`InputError` unless all runs have one configuration, but for the seed, and as many threads."""
    wanted = _cell(infos[0])
    for folder, info in zip(folders, infos, strict=True):
        other = [name for name, value in _cell(info).items() if value != wanted[name]]
        if other:
            message = (
                f"expected the configuration of {folders[0].path} but for the seed, got another in {', '.join(other)}; "
                "train the runs one by one"
            )
            raise InputError(Problem(message, file=str(folder.run_json)))
    if len({info.run_id for info in infos}) < len(infos):
        raise InputError("expected every run once, got one of them twice; leave it out")


def _cell(info: RunInfo) -> dict[str, Any]:
    config = info.config.to_json()
    return {name: config[name] for name in config if name != "seed"} | {"cpus_per_gpu": info.resources.cpus_per_gpu}


class Company:
    """Runs that this process trains: together as long as they are at the same step.

    Those furthest behind take the next step, all of them at once. ``opened`` closes what is still held at the end.
    """

    def __init__(self, stop: StopRequest, opened: contextlib.ExitStack) -> None:
        self.failures: list[Exception] = []
        """What ended a run without a summary, an :class:`Interrupted` too, in the order in which it came."""
        self._stop = stop
        # read once a step: all see a wish to stop at the same one, and so can go on together
        self._seen_stop = StopRequest()
        self._opened = opened
        self._live: dict[str, Training] = {}
        self._held: dict[str, contextlib.ExitStack] = {}
        self._steps: dict[str, Iterator[Rows]] = {}
        self._at_work: list[str] = []
        self._stack: tuple[list[str], Stack] | None = None
        self._tried = False
        self._reason: str | None = None

    def open(self, folder: RunFolder, info: RunInfo, world: World, together: Sequence[str] = ()) -> None:
        """Prepare a run for :meth:`train`; ``together`` are the ids of all that may go with it.

        Leaves one alone that is sealed by now.
        """
        with contextlib.ExitStack() as held:
            writer = None
            try:
                held.enter_context(folder.held_for_training())
                if read_summary(folder) is not None:
                    return
                writer = RecordWriter(folder)
                held.callback(writer.close)
                prepare_torch(info.config, info.resources)
                beside = next(iter(self._live.values()), None)
                training = prepare(folder, info, world, self._seen_stop, writer, beside=beside, trained_with=together)
            except Exception as error:
                if writer is not None:
                    record_failure(folder, world, writer, error)
                self._keep(f"seed {info.config.seed}: ", error)
                return
            training.prefix = f"seed {info.config.seed}: "
            self._live[info.run_id] = training
            self._held[info.run_id] = self._opened.enter_context(held.pop_all())

    def train(self) -> None:
        """All that is left of every run."""
        while self._live:
            now = self._furthest_behind()
            to_learn = now[0].state.position.epoch < now[0].config.epochs
            if to_learn and len(now) > 1 and not self._tried:
                self._try(now)
                continue
            self._go_to_work(now)
            if to_learn:
                self._step(now)
            else:
                self._each(now, self._finish)

    def _go_to_work(self, now: Sequence[Training]) -> None:
        """From here on the time of this process is that of ``now``, in equal shares."""
        if [training.run_id for training in now] == self._at_work:
            return
        for training in self._live.values():
            if training.run_id in self._at_work:
                training.tick()
            else:
                training.last_tick = time.monotonic()  # until now it has waited for others
        self._at_work = [training.run_id for training in now]
        for training in now:
            training.together = len(now)

    def _furthest_behind(self) -> list[Training]:
        """Those to go on with; one alone where they cannot be trained together."""
        live = list(self._live.values())
        if self._reason is not None:
            return live[:1]
        least = min(map(_place, live))
        return [training for training in live if _place(training) == least]

    def _try(self, now: Sequence[Training]) -> None:
        """Find out whether runs can be trained together, and tell them where they cannot."""
        self._tried = True
        self._reason = refusal(now)
        if self._reason is None:
            return
        give_back(now[0].world.device)
        self._tell("not trained together", self._reason)

    def _tell(self, how: str, reason: str) -> None:
        """Say on the screen and in each record how the runs are trained; a full disk stops none of them."""
        print(f"{how}: {reason}", flush=True)
        for training in self._live.values():
            epoch, step = _place(training)
            with contextlib.suppress(OSError):
                training.tell("warning", message=f"{how} with the other seeds: {reason}", epoch=epoch, step=step)

    def _step(self, now: Sequence[Training]) -> None:
        """One step of runs at the same place, or the end of their epoch."""
        self._seen_stop.reason = self._stop.reason
        rows = self._next_batches(now)
        ready = [self._live[run_id] for run_id in rows]
        if len(ready) == 1:
            self._each(ready, lambda training: step_alone(training, rows[training.run_id]))
        elif ready:
            self._step_together(ready, list(rows.values()))

    def _next_batches(self, now: Sequence[Training]) -> dict[str, Rows]:
        """What the next step of each learns from, by run id; the epoch of those that have none left is ended."""
        batches = self._each(now, self._next_rows)
        self._each([self._live[run_id] for run_id, rows in batches.items() if rows is None], end_epoch)
        return {run_id: rows for run_id, rows in batches.items() if rows is not None}

    def _step_together(self, ready: Sequence[Training], rows: Sequence[Rows]) -> None:
        """One step of all ``ready``, or of none where memory is not enough for the pass."""
        lacking = None
        try:
            gradients_together(self._stack_of(ready), ready, rows)
        except Exception as error:
            lacking = lack_of_memory(error)
            if lacking is None:
                for training in ready:
                    self._fail(training, error)
                return
        if lacking is not None:
            # not before the error is gone, whose frames hold the pass
            self._go_on_alone(lacking)
            return
        for training in ready:
            clock = training.state.clock
            clock.trained_together = max(clock.trained_together, len(ready))
        lacks = {run_id: lack for run_id, lack in self._each(ready, _update).items() if lack is not None}
        if lacks:
            self._go_on_alone(next(iter(lacks.values())), half_done=[self._live[run_id] for run_id in lacks])

    def _go_on_alone(self, reason: str, half_done: Sequence[Training] = ()) -> None:
        """From here on one run after another, each from where it is.

        But those whose update is ``half_done``: nobody knows how much of it, so they go on from their checkpoints.
        """
        self._reason = reason
        self._stack = None
        device = next(iter(self._live.values())).world.device
        for training in self._live.values():
            training.state.optimizer.zero_grad(set_to_none=True)  # parts of the gradients of all
        # an update half done may be the last of an epoch, which the others have come to the end of
        self._next_batches([t for t in self._live.values() if t.state.position.step == t.steps_per_epoch])
        for training in self._live.values():
            if training.run_id in self._steps:
                count_epoch_seconds(training)  # it waits now, which is no training time
        self._steps.clear()
        self._tell("no longer trained together", reason)
        for training in half_done:
            self._let_go(training)
        give_back(device)
        for training in half_done:
            self.open(training.folder, training.folder.read_run(), training.world)

    def _next_rows(self, training: Training) -> Rows | None:
        """What the next step learns from; None at the end of an epoch."""
        if training.run_id not in self._steps:
            self._steps[training.run_id] = epoch_steps(training)
        rows = next(self._steps[training.run_id], None)
        if rows is None:
            del self._steps[training.run_id]
        return rows

    def _stack_of(self, trainings: Sequence[Training]) -> Stack:
        """Their networks stacked: anew where one has left or come."""
        run_ids = [training.run_id for training in trainings]
        if self._stack is None or self._stack[0] != run_ids:
            self._stack = run_ids, Stack([training.state.model for training in trainings])
        return self._stack[1]

    def _finish(self, training: Training) -> None:
        finish(training)
        self._let_go(training)

    def _each(self, trainings: Sequence[Training], act: Callable[[Training], Result]) -> dict[str, Result]:
        """``act`` on one after the other; the results, by run id, of those whose runs go on or are done."""
        results = {}
        for training in trainings:
            try:
                try:
                    results[training.run_id] = act(training)
                except Diverged as diverged:
                    seal_diverged(training, diverged)
                    self._let_go(training)
            except Interrupted as interrupted:
                self.failures.append(interrupted)
                self._let_go(training)
            except Exception as error:
                self._fail(training, error)
        return results

    def _fail(self, training: Training, error: Exception) -> None:
        record_failure(training.folder, training.world, training.writer, error)
        self._keep(training.prefix, error)
        self._let_go(training)

    def _keep(self, prefix: str, error: Exception) -> None:
        print(f"{prefix}failed: {error}", flush=True)
        forget_frames(error)  # they would hold the memory of its pass while the others train
        self.failures.append(error)

    def _let_go(self, training: Training) -> None:
        """The run is over, or goes on another time."""
        del self._live[training.run_id]
        self._steps.pop(training.run_id, None)
        self._held.pop(training.run_id).close()
        self._go_to_work([self._live[run_id] for run_id in self._at_work if run_id in self._live])


def _place(training: Training) -> tuple[int, int]:
    position = training.state.position
    return position.epoch, position.step


def gradients_together(stack: Stack, trainings: Sequence[Training], rows: Sequence[Rows]) -> None:
    """What a step of each training does before its update, on its own global batch; ``stack`` is of their networks.

    As :func:`~normhpc.train.step.train_step`, but for the order in which sums are taken. Where it fails the trainings
    are as before it. For that the buffers are copied at every step, which a GPU does in one launch or two: checkpoints
    may be epochs old, or none.
    """
    states = [training.state for training in trainings]
    measured = [len(state.pending) for state in states]
    stack.keep_buffers()
    try:
        _pass_together(stack, trainings, rows)
    except Exception:
        stack.drop_gradients()
        stack.restore_buffers()
        for state, count in zip(states, measured, strict=True):
            del state.pending[count:]
        raise


def _pass_together(stack: Stack, trainings: Sequence[Training], rows: Sequence[Rows]) -> None:
    config, world = trainings[0].config, trainings[0].world
    states = [training.state for training in trainings]
    steps = [begin_update(t.state, t.config, updates_per_epoch=t.steps_per_epoch) for t in trainings]
    stack.drop_gradients()
    pieces = config.optim.accumulate
    for piece in range(pieces):
        batches = _batches(trainings, rows, rank_share(len(rows[0]), piece, pieces))
        with autocast(config.precision, world.device):
            found = _losses(stack, batches, config.loss)
        # each by its own scaler; the gradients of one network do not depend on the loss of another
        torch.autograd.backward(
            [state.scaler.scale(loss * (1 / len(rows[0]))) for state, (loss, _) in zip(states, found, strict=True)]
        )
        for state, step, (loss, logits), batch in zip(states, steps, found, batches, strict=True):
            state.pending.append(Measured(step, loss.detach(), logits.detach(), batch.labels))
    stack.give_gradients()


def _update(training: Training) -> str | None:
    """Learn from the gradients; why memory was not enough for it, which leaves the update half done."""
    try:
        end_update(training.state)
    except Exception as error:
        if (lacking := lack_of_memory(error)) is None:
            raise
        return lacking
    return None


def _batches(trainings: Sequence[Training], rows: Sequence[Rows], part: slice) -> list[TrainBatch]:
    """``part`` of the global batch of each."""
    return [
        training.train.train(batch, *_place(training), part) for training, batch in zip(trainings, rows, strict=True)
    ]


def _losses(stack: Stack, batches: Sequence[TrainBatch], loss: LossConfig) -> list[tuple[Tensor, Tensor]]:
    """The summed loss, (), and the logits, (N, classes), of each."""
    logits = stack(stacked_as_is([batch.images for batch in batches])).unbind()
    # outside of the stack: in it torch takes a cross entropy apart, for which it imports sympy, seconds of every run
    return [(summed_loss(own, batch.targets, loss), own) for own, batch in zip(logits, batches, strict=True)]


def refusal(trainings: Sequence[Training]) -> str | None:
    """Why these trainings cannot take their steps together, found by trying the first; None when they can.

    Leaves the trainings as they are.
    """
    config, state = trainings[0].config, trainings[0].state
    if config.model.compile:
        return "model.compile: true compiles each network for itself"
    if state.probes is not None:
        return "probes measure the layers of one network"
    if any(isinstance(module, _DropoutNd) and module.p > 0 for module in state.model.modules()):
        return "dropout would draw other numbers than alone"
    try:
        if trainings[0].world.device.type == "cpu" and (widest := _widest_map(trainings[0])) > _WIDEST_MAP:
            return f"on a processor networks with maps of {widest} values are faster one after another (over {_WIDEST_MAP})"
        stack = Stack([training.state.model for training in trainings])
        kept = stack.keep_buffers()
        try:
            return _difference(stack, trainings, kept)
        finally:
            stack.restore_buffers()
    except Exception as error:
        # a network may not be made for it in any way
        return lack_of_memory(error) or f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _difference(stack: Stack, trainings: Sequence[Training], kept: dict[str, Tensor]) -> str | None:
    """What tells a pass together over the first micro-batches from one of each network alone with buffers ``kept``."""
    config, world = trainings[0].config, trainings[0].world
    rows = [_rows_now(training) for training in trainings]
    batches = _batches(trainings, rows, rank_share(len(rows[0]), 0, config.optim.accumulate))
    learning = [name for name, value in stack.parameters.items() if value.requires_grad]
    with warnings.catch_warnings(record=True) as told, autocast(config.precision, world.device):
        warnings.simplefilter("always")
        losses = [loss for loss, _ in _losses(stack, batches, config.loss)]
        found = torch.autograd.grad(losses, [stack.parameters[name] for name in learning], allow_unused=True)
    for warning in told:
        message = str(warning.message)
        if message.startswith(_SLOW_PATH):
            return f"torch takes {message.removeprefix(_SLOW_PATH).split('. ')[0]} of one network after the other"
    most = _MOST_APART[config.precision]
    for index, (training, batch) in enumerate(zip(trainings, batches, strict=True)):
        model = training.state.model
        with autocast(config.precision, world.device):
            own = {name: value[index].clone() for name, value in kept.items()}
            # as a call of the model, but that what becomes of its buffers is found in ``own``, moved or replaced
            loss = summed_loss(functional_call(model, own, (batch.images,)), batch.targets, config.loss)
            expected = torch.autograd.grad(loss, [model.get_parameter(name) for name in learning], allow_unused=True)
        apart = _apart([None if part is None else part[index] for part in found], expected)
        if apart > most:
            return f"gradients are {apart:.1e} apart from those of the network alone"
        apart = _apart([value[index] for value in stack.buffers.values()], list(own.values()))
        if apart > most:
            return f"running statistics are {apart:.1e} apart from those of the network alone"
    return None


def _widest_map(training: Training) -> int:
    """Values that the module with most of them gives for a micro-batch; what functions give is not seen."""
    rows = _rows_now(training)
    part = rank_share(len(rows), 0, training.config.optim.accumulate)
    images = training.train.train(rows, *_place(training), part).images
    model = copy.deepcopy(training.state.model)  # some networks change even where they only evaluate
    return max(math.prod(row.output_size) for row in summarize(model, images))


def _rows_now(training: Training) -> Rows:
    epoch, step = _place(training)
    size = training.config.batch_size
    return training.rows(epoch)[step * size : (step + 1) * size]


def _apart(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> float:
    """The 2-norm of the difference relative to that of ``expected``. NaN is above no limit."""
    if [value is None for value in found] != [value is None for value in expected]:
        return math.inf
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
    error = sum(float((a - b).square().sum()) for a, b in pairs)
    size = sum(float(b.square().sum()) for _, b in pairs)
    return math.sqrt(error / size) if size > 0 else (math.inf if error > 0 else 0.0)
