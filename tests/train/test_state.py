"""The small dataclasses a training consists of."""

import math

import pytest
import torch
from support.steps import ready

from normhpc.train.state import Clock, EpochSums, Measured


def measured(step, loss, right):
    logits = torch.tensor([[0.0, 1.0] if hit else [1.0, 0.0] for hit in right])
    return Measured(step, torch.tensor(loss), logits, torch.ones(len(right), dtype=torch.int64))


def test_throughput_is_that_of_the_steady_state_or_the_nearest_there_is():
    assert Clock().images_per_second == 0.0
    assert Clock(warm_images=50, warm_seconds=0.5).images_per_second == 100.0
    clock = Clock(warm_images=50, warm_seconds=0.5, steady_images=600, steady_seconds=2.0)
    assert clock.images_per_second == 300.0


def test_measurements_add_up():
    _, state, _ = ready()
    state.pending = [measured(3, 1.5, [True, False]), measured(4, 2.25, [True]), measured(4, 0.25, [False, True])]
    state.settle()
    assert state.sums == EpochSums(loss=4.0, top1=3, images=5)
    assert state.pending == []
    state.settle()
    assert state.sums == EpochSums(loss=4.0, top1=3, images=5)
    assert state.first_bad_step is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_stays(bad):
    _, state, _ = ready()
    state.pending = [measured(7, 1.0, [True]), measured(8, bad, [True]), measured(9, bad, [True])]
    state.settle()
    assert state.first_bad_step == 8
    state.pending = [measured(10, bad, [True])]
    state.settle()
    assert state.first_bad_step == 8


def test_sums_do_not_depend_on_when_they_are_read():
    losses = torch.rand(20, generator=torch.Generator().manual_seed(0)) * 100
    found = set()
    for every in (1, 3, 20):
        _, state, _ = ready()
        for step, loss in enumerate(losses):
            state.pending.append(measured(step, float(loss), [True]))
            if step % every == 0:
                state.settle()
        state.settle()
        found.add(state.sums.loss)
    assert len(found) == 1


def test_shared_state_is_made_of_what_a_careful_reader_accepts():
    _, state, _ = ready(precision="fp16", optim={"name": "adam"})
    accepted = (torch.Tensor, int, float, str, bool, type(None))

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, list | tuple):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    found = leaves(state.shared())
    assert len(found) > 30
    assert all(isinstance(leaf, accepted) for leaf in found)
