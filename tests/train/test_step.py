"""One optimizer step: what it computes, in every precision, in pieces or whole."""

import numpy as np
import pytest
import torch
from support.steps import ALONE, ready

from normhpc.train.metrics import summed_loss
from normhpc.train.schedule import lr_factor
from normhpc.train.state import EpochSums
from normhpc.train.step import train_step


def parameters(state):
    return {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}


def take(config, state, batches, steps, images=None):
    for step in range(steps):
        count = images or config.batch_size
        rows = (np.arange(count, dtype=np.int64) + step * count) % len(batches)
        train_step(state, batches, rows, config, ALONE, updates_per_epoch=4)


def test_one_step_of_plain_descent_by_hand():
    config, state, batches = ready(
        norm="none",
        optim={"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0},
        schedule="constant",
        loss={"label_smoothing": 0.2},
    )
    rows = np.array([3, 30, 5, 7, 11, 0, 2, 19, 23])
    images, labels = batches.train(rows, 0)
    logits = state.model(images)
    expected = summed_loss(logits, labels, config.loss)
    before = parameters(state)
    gradients = torch.autograd.grad(expected / 9, list(state.model.parameters()))
    train_step(state, batches, rows, config, ALONE, updates_per_epoch=4)
    for (name, old), gradient in zip(before.items(), gradients, strict=True):
        torch.testing.assert_close(state.model.get_parameter(name), old - 0.5 * gradient, rtol=1e-6, atol=1e-7)
    state.settle()
    assert state.sums.images == 9
    assert state.sums.loss == pytest.approx(expected.item(), rel=1e-6)
    assert state.sums.top1 == int((logits.argmax(dim=1) == labels).sum())
    assert (state.position.step, state.position.updates, state.first_bad_step) == (1, 1, None)


@pytest.mark.parametrize("pieces", [2, 4, 9])
@pytest.mark.parametrize("norm", ["none", "layer", {"name": "group", "groups": 2}])
def test_accumulated_gradients_are_those_of_the_whole_batch(pieces, norm):
    """9 images in 2, 4 or 9 micro-batches: of unequal sizes, and of one image each."""
    whole = ready(norm=norm)
    parts = ready(norm=norm, optim={"lr": 0.1, "accumulate": pieces})
    for case in (whole, parts):
        take(*case, steps=5)
    for name, value in parameters(whole[1]).items():
        torch.testing.assert_close(parts[1].model.get_parameter(name), value, rtol=2e-5, atol=2e-6)
    for _, state, _ in (whole, parts):
        state.settle()
    assert parts[1].sums.loss == pytest.approx(whole[1].sums.loss, rel=1e-5)
    assert (parts[1].sums.top1, parts[1].sums.images) == (whole[1].sums.top1, whole[1].sums.images)
    assert parts[1].position.updates == whole[1].position.updates == 5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_reduced_precision_learns_like_fp32_with_weights_in_fp32(precision, norm):
    config, state, batches = ready(precision=precision, norm=norm, schedule="constant", optim={"lr": 0.05})
    reference = ready(norm=norm, schedule="constant", optim={"lr": 0.05})
    losses, expected = [], []
    for case, found in (((config, state, batches), losses), (reference, expected)):
        for _ in range(30):
            case[1].sums = EpochSums()
            take(*case, steps=4)
            case[1].settle()
            found.append(case[1].sums.loss / case[1].sums.images)
    assert losses[-1] < 0.5 * losses[0]
    assert losses[0] == pytest.approx(expected[0], rel=0.05)
    assert losses[0] != expected[0]
    assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())
    assert state.scaler.is_enabled() == (precision == "fp16")
    assert state.position.step == 120
    # the scaler tries large scales first
    assert 115 <= state.position.updates <= 120 if precision == "fp16" else state.position.updates == 120


def test_fp16_leaves_out_a_step_that_overflows():
    config, state, batches = ready(precision="fp16", schedule={"name": "cosine", "warmup_epochs": 1})
    take(config, state, batches, 1)
    before = parameters(state)
    state.scaler._scale.fill_(2.0**100)
    take(config, state, batches, 1)
    assert all(torch.equal(value, before[name]) for name, value in parameters(state).items())
    assert (state.position.step, state.position.updates) == (2, 1)
    state.settle()
    assert state.first_bad_step is None  # the loss itself is a number
    assert state.scaler.get_scale() == 2.0**99
    state.scaler._scale.fill_(2.0**10)
    take(config, state, batches, 1)
    assert (state.position.step, state.position.updates) == (3, 2)
    assert all(value.isfinite().all() for value in parameters(state).values())  # nothing is left of the overflow
    # the schedule counts updates: second of four of the warmup, not third
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 2 / 4)


def test_learning_rate_the_optimizer_sees_at_each_step(monkeypatch):
    schedule = {"name": "cosine", "warmup_epochs": 0.6, "final_factor": 0.1}
    config, state, batches = ready(schedule=schedule, epochs=3)
    seen = []
    step = state.optimizer.step
    monkeypatch.setattr(
        state.optimizer, "step", lambda: seen.append({group["lr"] for group in state.optimizer.param_groups}) or step()
    )
    take(config, state, batches, 12)
    assert seen == [{0.1 * lr_factor(config.schedule, update, 4, 3)} for update in range(12)]


def test_first_step_without_a_finite_loss_is_remembered():
    config, state, batches = ready(norm="none")
    take(config, state, batches, 2)
    with torch.no_grad():
        next(state.model.parameters()).fill_(torch.nan)
    state.position.epoch = 5
    take(config, state, batches, 2)
    state.settle()
    assert state.first_bad_step == 5 * 4 + 2


def test_images_the_step_takes_are_those_of_the_epoch():
    config, state, batches = ready(augment={"name": "standard", "crop_padding": 2})
    seen = []
    train = batches.train
    batches.train = lambda rows, epoch: seen.append((rows.tolist(), epoch)) or train(rows, epoch)
    state.position.epoch = 3
    train_step(state, batches, np.arange(20, 29), config, ALONE, updates_per_epoch=4)
    assert seen == [(list(range(20, 29)), 3)]
