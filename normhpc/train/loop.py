"""A run from its folder to its sealed record."""

import contextlib
import dataclasses
import math
import os
import platform
import resource
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from normhpc.norms import plan_of
from normhpc.record import RecordWriter, RunFolder, append_event, read_summary
from normhpc.train.checkpoint import save_weights
from normhpc.train.evaluate import assess, evaluate
from normhpc.train.metrics import CHOSEN_BY
from normhpc.train.schedule import follow_val_loss
from normhpc.train.setup import images_per_statistic, micro_batches, seed_step
from normhpc.train.startup import prepare_torch
from normhpc.train.state import EpochSums
from normhpc.train.step import train_step
from normhpc.train.stop import Decision, StopRequest
from normhpc.train.training import Training, as_evaluated, prepare, save, save_due, unwritten_told, write_probes
from normhpc.train.world import World, is_peer_failure, joined_world

_LOOK_EVERY = 32
"""Measurements between two looks at the device for a loss that is no number."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run is saved and goes on later
    """The run was asked to stop and has saved itself."""


class Diverged(Exception):  # noqa: N818 - a result, not an error
    """The loss stopped being a number at ``step``, counted from the start of the run."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step = step


def run(record_dir: Path | str, stop: StopRequest | None = None) -> dict[str, Any]:
    """Train the run described by ``record_dir``/run.json to its end and return its summary.

    Goes on from the newest checkpoint; a sealed run is returned as it is. With ``RANK`` and ``WORLD_SIZE`` in the
    environment this process is one rank of several. ``stop`` may be set at any time, by a signal handler for
    instance: the run then saves itself at the next step.

    Raises :class:`Interrupted` when stopped, :class:`~normhpc.errors.NormhpcError` for what the user can mend; what
    fails is recorded in ``events.jsonl`` before it is raised.
    """
    folder = RunFolder(Path(record_dir))
    info = folder.read_run()
    if (summary := read_summary(folder)) is not None:
        return summary
    prepare_torch(info.config, info.resources)
    with contextlib.ExitStack() as stack:
        try:
            world = stack.enter_context(joined_world())
        except Exception as error:
            _record_missed_meeting(folder, error)
            raise
        if world.leads:
            stack.enter_context(folder.held_for_training())
        # asked again under the lock: whoever held it a moment ago may have sealed the run
        if (summary := world.broadcast(read_summary(folder) if world.leads else None)) is not None:
            return dict(summary)
        writer = None
        if world.leads:
            writer = RecordWriter(folder)
            stack.callback(writer.close)
        try:
            training = prepare(folder, info, world, stop or StopRequest(), writer)
            result: dict[str, Any] = world.broadcast(_train(training))
            return result
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            record_failure(folder, world, writer, error)
            raise


def _train(training: Training) -> dict[str, Any]:
    """All epochs that are left, the test, the seal."""
    try:
        while training.state.position.epoch < training.config.epochs:
            train_epoch(training)
            end_epoch(training)
        return finish(training)
    except Diverged as diverged:
        return seal_diverged(training, diverged)


def finish(training: Training) -> dict[str, Any]:
    """The test and the seal, after the last epoch; returns the summary. May raise :class:`Diverged`."""
    details = _test(training)
    final = training.state.position.final
    return _seal(training, {"state": "finished", "final": final | _generalization(final), **details})


def seal_diverged(training: Training, diverged: Diverged) -> dict[str, Any]:
    """Seal a run whose loss is no number; returns the summary."""
    write_probes(training, before_step=diverged.step + 1)
    return _seal(training, {"state": "diverged", "diverged_at_step": diverged.step, "final": {}})


def _test(training: Training) -> dict[str, Any]:
    """Measure and record what is reported; results by class are for the summary alone.

    Raises :class:`Diverged` when the last updates left a network without a loss.
    """
    with as_evaluated(training):
        found = assess(training.state.model, training.test, training.config, training.world)
    _log_metrics(training, "test", found.metrics)
    if not math.isfinite(found.metrics["loss"]):
        raise Diverged(training.config.epochs * training.steps_per_epoch)
    return found.details


def _generalization(final: dict[str, float]) -> dict[str, float]:
    """``test_top1`` as a multiple of ``train_top1``, where the latter is measured and not zero."""
    trained = final.get("train_top1", 0.0)
    return {"generalization_ratio": final["test_top1"] / trained} if trained else {}


def train_epoch(training: Training) -> None:
    """The steps that are left of the current epoch."""
    for rows in epoch_steps(training):
        step_alone(training, rows)


def step_alone(training: Training, rows: NDArray[np.int64]) -> None:
    """Learn from the global batch ``rows``."""
    config, position, steps = training.config, training.state.position, training.steps_per_epoch
    seed_step(config.seed, position.epoch * steps + position.step, training.world)
    train_step(training.state, training.train, rows, config, training.world, updates_per_epoch=steps)


def epoch_steps(training: Training) -> Iterator[NDArray[np.int64]]:
    """The global batch of each step that is left of the current epoch, to be learned before the next is asked for.

    In between the run saves itself, or stops. Raises :class:`Diverged` and :class:`Interrupted`.
    """
    position, steps, size = training.state.position, training.steps_per_epoch, training.config.batch_size
    rows = training.rows(position.epoch)
    training.train.expect(position.epoch, _steps_left(training, rows))
    first, training.decision = position.step, Decision()
    began = began_warm = training.counted_until = time.perf_counter()
    while position.step < steps:
        step = position.epoch * steps + position.step
        yield _batch(rows, position.step, size)
        if position.step == first + 1:
            began_warm = time.perf_counter()
        decision = training.decision = _decide(training, step)
        if decision.diverged_step is not None:
            raise Diverged(decision.diverged_step)
        if position.step < steps:
            _act(training, decision)
    _count_time(training, steps - first, began, began_warm)


def _batch(rows: NDArray[np.int64], step: int, batch_size: int) -> NDArray[np.int64]:
    return rows[step * batch_size : (step + 1) * batch_size]


def _steps_left(training: Training, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], list[slice]]]:
    """Number, global batch and this rank's parts of it, of each step that is left of the epoch."""
    config = training.config
    parts = micro_batches(config.batch_size, training.world, config.optim.accumulate)
    for step in range(training.state.position.step, training.steps_per_epoch):
        yield step, _batch(rows, step, config.batch_size), parts


def _decide(training: Training, step: int) -> Decision:
    """What all ranks do now, after global step number ``step``."""
    position, state = training.state.position, training.state
    at_end = position.step == training.steps_per_epoch
    if at_end or len(state.pending) >= _LOOK_EVERY:
        state.settle()
    decision = training.agreement.decide(
        stop=training.stop.reason is not None,
        save=save_due(training),
        diverged_step=state.first_bad_step,
    )
    return decision | training.agreement.last() if at_end else decision


def _act(training: Training, decision: Decision) -> None:
    """Save or stop in the middle of an epoch."""
    saved = False
    if decision.stop or decision.save or _steps_due(training):
        count_epoch_seconds(training)
        saved = save(training)
    if decision.stop:
        _interrupt(training, saved=saved)


def _steps_due(training: Training) -> bool:
    """Whether the number of steps so far asks for a checkpoint."""
    every, position = training.config.checkpoint.every_steps, training.state.position
    return every is not None and (position.epoch * training.steps_per_epoch + position.step) % every == 0


def _interrupt(training: Training, *, saved: bool) -> None:
    position = training.state.position
    reason = training.stop.reason or "another rank was asked to stop"
    with contextlib.suppress(OSError):
        training.tell("preempted", reason=reason, epoch=position.epoch, step=position.step)
    outcome = "the run is saved" if saved else "what came after the last checkpoint is lost"
    raise Interrupted(f"stopped at epoch {position.epoch}, step {position.step} ({reason}); {outcome}")


def count_epoch_seconds(training: Training) -> None:
    """Add the training time since the last call, so that a checkpoint inside an epoch holds all of it."""
    now = time.perf_counter()
    training.state.clock.epoch_seconds += now - training.counted_until
    training.counted_until = now


def _count_time(training: Training, steps: int, began: float, began_warm: float) -> None:
    count_epoch_seconds(training)
    clock, batch_size, now = training.state.clock, training.config.batch_size, training.counted_until
    training.epoch_seconds = now - began
    if training.state.position.epoch > training.epochs_before:
        clock.steady_images += steps * batch_size
        clock.steady_seconds += now - began
    elif steps > 1:
        clock.warm_images, clock.warm_seconds = (steps - 1) * batch_size, now - began_warm
    elif not clock.warm_images:
        clock.warm_images, clock.warm_seconds = batch_size, now - began


def end_epoch(training: Training) -> None:
    """Measure, record, save; stop here when that was decided with the last step."""
    state, config, world = training.state, training.config, training.world
    position, decision = state.position, training.decision
    sums = torch.tensor(dataclasses.astuple(state.sums), dtype=torch.float64, device=world.device)
    loss, top1, images = world.sum(sums).tolist()
    position.epoch += 1
    position.step = 0
    measured = {"loss": loss / images}
    if config.data.labels() == "single":
        measured["top1"] = top1 / images
    speed = {
        "lr": state.lr,
        "seconds": training.epoch_seconds,
        "images_per_second": state.clock.images_per_second,
    }
    _log_metrics(training, "train", measured, speed)
    if len(training.val):
        with as_evaluated(training):
            with training.probes.end_of_epoch(state.model, position.epoch):
                measured = evaluate(state.model, training.val, config, world)
            _log_metrics(training, "val", measured)
            _keep_best(training, measured)
        follow_val_loss(config.schedule, position, measured["loss"])
    state.sums = EpochSums()
    write_probes(training)
    every = config.checkpoint.every_epochs
    last = position.epoch == config.epochs
    saved = False
    if (
        last
        or decision.stop
        or decision.save
        or (every is not None and position.epoch % every == 0)
        or _steps_due(training)
    ):
        saved = save(training)
    if decision.stop and not last:
        _interrupt(training, saved=saved)


def _keep_best(training: Training, measured: dict[str, float]) -> None:
    """Remember the best epoch; called while the running statistics are those that ``measured`` was measured with."""
    position, metric = training.state.position, CHOSEN_BY[training.config.data.labels()]
    best = position.best.get(f"val_{metric}", math.nan)
    if position.best and not math.isnan(best) and not measured[metric] > best:
        return
    position.best = {"epoch": position.epoch, f"val_{metric}": measured[metric], "val_loss": measured["loss"]}
    if training.config.checkpoint.keep_best and training.world.leads:
        with unwritten_told(training, "best.pt"):
            save_weights(training.folder, training.state)


def _log_metrics(
    training: Training, split: str, measured: dict[str, float], speed: dict[str, float] | None = None
) -> None:
    """One line of metrics, in the record and on the screen; ``final`` keeps the newest under its table name."""
    position = training.state.position
    position.final.update({f"{split}_{name}": value for name, value in measured.items()})
    if training.writer is None:
        return
    step = position.epoch * training.steps_per_epoch
    training.writer.metrics(epoch=position.epoch, step=step, split=split, values={**measured, **(speed or {})})
    shown = " ".join(f"{name} {value:.4f}" for name, value in measured.items())
    print(f"{training.prefix}epoch {position.epoch}/{training.config.epochs} {split} {shown}", flush=True)


def _seal(training: Training, outcome: dict[str, Any]) -> dict[str, Any]:
    """Write the summary; nothing of the run changes afterwards."""
    training.tick()
    state, world = training.state, training.world
    memory = world.gather(_peak_memory_mb(world))
    if training.writer is None or memory is None:
        return {}
    clock, position = state.clock, state.position
    plan = plan_of(state.model)
    if outcome["state"] == "diverged":
        training.tell("warning", message="the loss is not finite", step=outcome["diverged_at_step"])
    summary = {
        "run_id": training.run_id,
        **outcome,
        "best": position.best,
        "epochs": position.epoch,
        "steps": position.epoch * training.steps_per_epoch + position.step,
        "seconds": clock.seconds,
        "share_seconds": clock.share_seconds,
        "trained_together": clock.trained_together,
        "seconds_per_epoch": clock.epoch_seconds / max(1, position.epoch),
        "images_per_second": clock.images_per_second,
        "peak_memory_mb": max(memory),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "norm_plan": plan.digest,
        "norm_sites": plan.counts,
        "norm_policies": plan.policies,
        "norms_kept": list(plan.kept),
        "ranks": world.size,
        "images_per_rank": training.shares,
        "images_per_statistic": images_per_statistic(state.model, training.config, training.shares),
        "device": world.device.type,
        "data_digest": training.data_digest,
        "weights_sha256": training.weights_sha256,
        # what predicting takes of the images, so that it needs none of them
        "pixel_mean": list(training.pixel_mean),
        "pixel_std": list(training.pixel_std),
        "classes": list(training.classes),
    }
    training.writer.seal(summary)
    return summary


def _peak_memory_mb(world: World) -> float:
    """Most memory this rank used: on the GPU, or of the process on a CPU. MiB."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if platform.system() == "Darwin" else 2**10)


def _record_missed_meeting(folder: RunFolder, error: Exception) -> None:
    """Say in the record which rank did not find the others: the machine's fault, so the run is lost, not failed."""
    rank, host = int(os.environ.get("RANK", "0")), platform.node()
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    with contextlib.suppress(OSError):
        message = f"rank {rank} on {host} did not meet its peers: {reason}"
        append_event(folder, "lost", rank=rank, host=host, message=message)


def record_failure(folder: RunFolder, world: World, writer: RecordWriter | None, error: Exception) -> None:
    """Say in the record which rank failed, where and how. A rank that only lost its peer leaves that to the peer."""
    place = {"rank": world.rank, "host": platform.node()}
    with contextlib.suppress(OSError):
        if is_peer_failure(error):
            append_event(folder, "warning", message=f"rank {world.rank} lost contact with another rank", **place)
            return
        details = {
            "class": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            **place,
        }
        if writer is not None:
            writer.event("failed", **details)
        else:
            append_event(folder, "failed", **details)
