"""The moving average of the weights, against its sum written out."""

import contextlib

import numpy as np
import pytest
import torch
from support.steps import ALONE, ready
from support.trainings import TINY, metrics, new_run, weights

from normhpc import data as image_data
from normhpc import models
from normhpc.train import run
from normhpc.train.average import WeightAverage
from normhpc.train.evaluate import evaluate
from normhpc.train.setup import build_batches
from normhpc.train.step import train_step


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_it_is_the_weighted_sum_of_all_weights_so_far(decay):
    config, state, batches = ready(optim={"lr": 0.1, "ema_decay": decay})
    start = {name: parameter.detach().double() for name, parameter in state.model.named_parameters()}
    history = [start]
    for step in range(6):
        train_step(state, batches, np.arange(9) + step, config, ALONE, updates_per_epoch=4)
        history.append({name: parameter.detach().double() for name, parameter in state.model.named_parameters()})
    assert list(state.average.state_dict()) == list(start)
    for name, average in state.average.state_dict().items():
        expected = decay**6 * start[name] + (1 - decay) * sum(
            decay ** (6 - number) * history[number][name] for number in range(1, 7)
        )
        torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_network_gets_its_own_weights_back():
    _, state, _ = ready()
    average = WeightAverage(state.model, 0.5)
    at_start = average.state_dict()["head.weight"].clone()
    with torch.no_grad():
        state.model.head.weight.mul_(3)
    own = {name: value.clone() for name, value in state.model.state_dict().items()}
    identity = state.model.head.weight.data_ptr()
    with contextlib.suppress(ZeroDivisionError), average.in_place_of_weights():
        assert torch.equal(state.model.head.weight, at_start)
        assert state.model.head.weight.data_ptr() == identity  # what the optimizer and DDP hold
        raise ZeroDivisionError
    assert all(torch.equal(value, own[name]) for name, value in state.model.state_dict().items())
    assert not torch.equal(state.model.head.weight, at_start)


def test_a_run_evaluates_and_keeps_the_average(tmp_path):
    """With norms over the batch: the running statistics are those of the training as they stand."""
    changes = {"optim": {"lr": 0.3, "ema_decay": 0.8}, "schedule": "constant", "epochs": 4}
    folder = new_run(tmp_path / "run", TINY, changes, {"checkpoint": {"keep_best": True}})
    summary = run(folder.path)
    config, learned = folder.read_run().config, weights(folder)
    content = torch.load(folder.checkpoint, weights_only=True)["content"]
    average = content["shared"]["average"]
    assert set(average) == {name for name, _ in models.build(config).named_parameters()}
    assert not any(torch.equal(average[name], learned[name]) for name in average)
    model = models.build(config)
    model.load_state_dict(learned | average)
    data = image_data.load(config.data)
    for split in ("val", "test"):
        batches = build_batches(config, data, getattr(data, split), ALONE, train=False)
        measured = evaluate(model, batches, config, ALONE)
        assert {name: summary["final"][f"{split}_{name}"] for name in measured} == measured
    # best.pt is what the best epoch was measured with
    best = torch.load(folder.best, weights_only=True)
    assert best.keys() == learned.keys()
    model.load_state_dict(best)
    batches = build_batches(config, data, data.val, ALONE, train=False)
    measured = evaluate(model, batches, config, ALONE)
    place = summary["best"]["epoch"]
    assert measured == {name: metrics(folder)[place, 4 * place, "val"][name] for name in measured}


def test_training_itself_does_not_see_it(tmp_path):
    plain = new_run(tmp_path / "plain", TINY)
    averaged = new_run(tmp_path / "averaged", TINY, {"optim": {"lr": 0.1, "ema_decay": 0.9}})
    run(plain.path)
    run(averaged.path)
    assert all(torch.equal(value, weights(averaged)[name]) for name, value in weights(plain).items())
    assert metrics(plain)[2, 8, "train"] == metrics(averaged)[2, 8, "train"]
    assert metrics(plain)[2, 8, "val"] != metrics(averaged)[2, 8, "val"]
