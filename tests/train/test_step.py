"""One optimizer step: what it computes, in every precision, in pieces or whole."""

import numpy as np
import pytest
import torch
from support.steps import ALONE, ready
from support.trainings import TINY

from normhpc.train.checkpoint import digest
from normhpc.train.losses import summed_loss
from normhpc.train.schedule import lr_factor
from normhpc.train.state import EpochSums
from normhpc.train.step import train_step
from normhpc.train.world import World


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
    images, labels, _ = batches.train(rows, 0)
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
    # of larger rates layer norm makes rounding visible within these steps
    config, state, batches = ready(precision=precision, norm=norm, schedule="constant", optim={"lr": 0.02})
    reference = ready(norm=norm, schedule="constant", optim={"lr": 0.02})
    losses, expected = [], []
    for case, found in (((config, state, batches), losses), (reference, expected)):
        for _ in range(30):
            case[1].sums = EpochSums()
            take(*case, steps=4)
            case[1].settle()
            found.append(case[1].sums.loss / case[1].sums.images)
    assert losses[-1] < 0.5 * losses[0]
    assert losses[:15] == pytest.approx(expected[:15], rel=0.02)
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


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("clipped", [{}, {"clip_norm": 0.1, "clip_adaptive": 0.01, "l1": 1e-4}], ids=["", "clipped"])
def test_nothing_moves_in_a_step_that_overflows(name, clipped):
    """Not the weights, the optimizer, their average, the schedule; and what follows is as if it had not been."""
    schedule = {"name": "two_level", "drop_at": 0.5}
    optim = {"name": name, "ema_decay": 0.9, **clipped}
    plain, other = (ready(norm="layer", precision="fp16", schedule=schedule, optim=optim, epochs=1) for _ in range(2))
    for config, state, batches in (plain, other):
        state.scaler._scale = torch.tensor(2.0**10)
        state.scaler._growth_tracker = torch.tensor(0, dtype=torch.int32)
        take(config, state, batches, 1)
    config, state, batches = other
    before = digest({**state.shared(), "scaler": None, "position": None})
    for scale in (100, 80):
        state.scaler._scale.fill_(2.0**scale)
        take(config, state, batches, 1)
        assert digest({**state.shared(), "scaler": None, "position": None}) == before
    assert (state.position.step, state.position.updates) == (3, 1)
    state.scaler._scale.fill_(2.0**10)
    rates = []
    for config, state, batches in (plain, other):
        for _ in range(3):
            take(config, state, batches, 1)
            rates.append(state.lr)
    assert rates[:3] == rates[3:] == [config.optim.lr, config.optim.lr * 0.1, config.optim.lr * 0.1]
    assert digest(plain[1].shared()["model"]) == digest(state.shared()["model"])
    assert digest(plain[1].average.state_dict()) == digest(state.average.state_dict())
    assert digest(state.average.state_dict()) != digest(dict(state.model.named_parameters()))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_a_first_step_that_overflows_leaves_nothing_behind(name):
    plain, other = (ready(norm="layer", precision="fp16", optim={"name": name}, schedule="constant") for _ in range(2))
    for (config, state, batches), scales in ((plain, [10] * 3), (other, [100, 10, 10, 10])):
        state.scaler._growth_tracker = torch.tensor(0, dtype=torch.int32)
        for scale in scales:
            state.scaler._scale = torch.tensor(2.0**scale)
            take(config, state, batches, 1)
        assert state.position.updates == 3
    assert digest(plain[1].shared()["model"]) == digest(other[1].shared()["model"])


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
    batches.train = lambda *batch: seen.append((batch[0].tolist(), *batch[1:])) or train(*batch)
    state.position.epoch, state.position.step = 3, 2
    train_step(state, batches, np.arange(20, 29), config, ALONE, updates_per_epoch=4)
    assert seen == [(list(range(20, 29)), 3, 2, slice(0, 9))]


def test_ranks_and_micro_batches_take_consecutive_parts():
    config, state, batches = ready(optim={"lr": 0.1, "accumulate": 2})
    seen = []
    train = batches.train
    batches.train = lambda *batch: seen.append(batch[3]) or train(*batch)
    for rank in range(2):
        world = World(rank, 2, ALONE.device)
        train_step(state, batches, np.arange(9), config, world, updates_per_epoch=4)
    assert seen == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 9)]


MIXED = {"name": "standard", "crop_padding": 2, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}


def test_a_mixed_step_by_hand():
    """The loss sees mixed labels, top1 the images' own."""
    config, state, batches = ready(
        norm="none", augment=MIXED, optim={"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}, schedule="constant"
    )
    rows = np.array([3, 30, 5, 7, 11, 0, 2, 19, 23])
    images, labels, targets = batches.train(rows, 0, 0)
    assert 0 < targets.max(dim=1).values.min() < 1
    logits = state.model(images)
    expected = -(targets * logits.log_softmax(dim=1)).sum()
    before = parameters(state)
    gradients = torch.autograd.grad(expected / 9, list(state.model.parameters()))
    train_step(state, batches, rows, config, ALONE, updates_per_epoch=4)
    for (name, old), gradient in zip(before.items(), gradients, strict=True):
        torch.testing.assert_close(state.model.get_parameter(name), old - 0.5 * gradient, rtol=1e-6, atol=1e-7)
    state.settle()
    assert state.sums.loss == pytest.approx(expected.item(), rel=1e-6)
    assert state.sums.top1 == int((logits.argmax(dim=1) == labels).sum())


@pytest.mark.parametrize("pieces", [2, 9])
def test_mixed_batches_in_pieces_are_those_in_one(pieces):
    whole, parts = (ready(norm="layer", augment=MIXED, optim={"lr": 0.1, "accumulate": count}) for count in (1, pieces))
    for case in (whole, parts):
        take(*case, steps=5)
    for name, value in parameters(whole[1]).items():
        torch.testing.assert_close(parts[1].model.get_parameter(name), value, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("loss", ["bce", "asymmetric"])
@pytest.mark.parametrize("augment", ["none", MIXED], ids=["plain", "mixed"])
def test_images_of_several_labels_are_learned(loss, augment):
    data = {**TINY["data"], "multi_label": True}
    config, state, batches = ready(data=data, loss=loss, augment=augment, optim={"lr": 1.0}, schedule="constant")
    losses = []
    for _ in range(60):
        state.sums = EpochSums()
        take(config, state, batches, 4)
        state.settle()
        losses.append(state.sums.loss / state.sums.images)
    assert (state.sums.images, state.sums.top1) == (36, 0)
    assert losses[-1] < (0.9 if augment != "none" else 0.5) * losses[0]
