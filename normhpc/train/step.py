"""One optimizer step: the whole of the hot path."""

import contextlib

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from normhpc.config import RunConfig
from normhpc.data import Batches
from normhpc.train.losses import summed_loss
from normhpc.train.optimizer import peak_lr, set_lr
from normhpc.train.precision import autocast
from normhpc.train.probes import Reading
from normhpc.train.schedule import lr_factor
from normhpc.train.setup import micro_batches
from normhpc.train.state import Measured, TrainState
from normhpc.train.world import World


def train_step(
    state: TrainState, batches: Batches, rows: np.ndarray, config: RunConfig, world: World, *, updates_per_epoch: int
) -> None:
    """Learn from the global batch ``rows``, of which this rank takes its share in micro-batches.

    Each micro-batch's loss is the sum over its images divided by the global batch and multiplied by the number of
    ranks: DDP averages gradients over ranks, so the update is that of the mean loss over the global batch however
    unequal the shares are. Nothing here waits for the device, except that fp16 reads the scaler's verdict.
    """
    position = state.position
    step = begin_update(state, config, updates_per_epoch=updates_per_epoch)
    pieces = config.optim.accumulate
    for piece, part in enumerate(micro_batches(len(rows), world, pieces)):
        images, labels, targets = batches.train(rows, position.epoch, position.step, part)
        with _synchronized(state, last=piece == pieces - 1), _measuring(state, step, piece, len(images)) as reading:
            with autocast(config.precision, world.device):
                logits = state.forward(images)
                loss = summed_loss(logits, targets, config.loss)
            if reading is not None:
                reading.watch(loss)
            # a product, not a gradient to start from, for which torch would import sympy: a second of every run
            torch.autograd.backward(state.scaler.scale(loss * (world.size / len(rows))))
        state.pending.append(Measured(step, loss.detach(), logits.detach(), labels))
    end_update(state)


def begin_update(state: TrainState, config: RunConfig, *, updates_per_epoch: int) -> int:
    """Set the rate of the schedule and drop the old gradients; the number of the step since the start of the run."""
    position = state.position
    state.lr = peak_lr(config.optim, config.batch_size) * lr_factor(
        config.schedule, position.updates, updates_per_epoch, config.epochs, position.lr_drops
    )
    set_lr(state.optimizer, state.lr)
    state.optimizer.zero_grad(set_to_none=True)
    return position.epoch * updates_per_epoch + position.step


def end_update(state: TrainState) -> None:
    """Learn from the gradients of the whole batch; the step is then done."""
    if _apply_gradients(state):
        state.position.updates += 1
    state.position.step += 1


def _synchronized(state: TrainState, *, last: bool) -> contextlib.AbstractContextManager[object]:
    """Gradients are exchanged once per step, with the last micro-batch."""
    if last or not isinstance(state.forward, DistributedDataParallel):
        return contextlib.nullcontext()
    return state.forward.no_sync()


def _measuring(
    state: TrainState, step: int, piece: int, images: int
) -> contextlib.AbstractContextManager[Reading | None]:
    """Probes look at the first micro-batch."""
    if state.probes is None or piece > 0:
        return contextlib.nullcontext()
    return state.probes.measuring(step, images)


def _apply_gradients(state: TrainState) -> bool:
    """Step the optimizer and what follows it; False when fp16 gradients overflowed and the step was left out."""
    if state.gradient_rules:
        state.scaler.unscale_(state.optimizer)  # penalties and limits are about the gradients themselves
        for rule in state.gradient_rules:
            rule()
    if state.scaler.is_enabled():
        before = state.scaler.get_scale()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        applied = state.scaler.get_scale() >= before
    else:
        state.optimizer.step()
        applied = True
    if applied:
        for post_step in state.post_steps:
            post_step()
    return applied
