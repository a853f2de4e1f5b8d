"""Evaluation: every image once, sums in float64, the same bits on any number of ranks."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from support.evaluations import (
    BLOCKS,
    CONFIG,
    SEVERAL,
    SHARES,
    digits,
    digits_of_several_labels,
    evaluated,
    network,
    own_statistics,
)
from support.ranks import run_on_ranks
from support.steps import ALONE

from normhpc.train import evaluate as module
from normhpc.train.evaluate import BLOCK, assess, evaluate


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    torch.set_num_threads(1)  # as the ranks
    found = {world: run_on_ranks(world, evaluated, tmp_path_factory.mktemp(f"{world}_ranks")) for world in (2, 3)}
    return {1: [evaluated(0, 1)], **found}


def test_against_a_plain_loop_in_float64():
    batches, model = digits(), network()
    assert math.ceil(len(batches) / BLOCK) == BLOCKS
    assert len(batches) % BLOCK
    images, labels = batches.evaluate(0, len(batches))
    with torch.no_grad():
        logits = model.double().eval()(images.double()).numpy()
    loss = top1 = top5 = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        loss += math.log(np.exp(row - row.max()).sum()) + row.max() - row[label]
        rank = int((row > row[label]).sum())
        top1 += rank < 1
        top5 += rank < 5
    measured = evaluate(model.float(), batches, CONFIG, ALONE)
    assert measured["loss"] == pytest.approx(loss / len(batches), rel=1e-6)
    assert measured["top1"] == top1 / len(batches)
    assert measured["top5"] == top5 / len(batches)
    assert 0.05 < measured["top1"] < measured["top5"] < 0.9


def test_several_labels_against_scikit_learn():
    batches, model = digits_of_several_labels(), network()
    images, labels = batches.evaluate(0, len(batches))
    with torch.no_grad():
        logits = model.eval()(images)
    found = assess(model, batches, SEVERAL, ALONE)
    aps = average_precision_score(labels[:, :9], logits[:, :9], average=None)
    assert found.metrics["map_macro"] == pytest.approx(aps.mean(), rel=1e-6)
    assert found.metrics["map_micro"] == pytest.approx(average_precision_score(labels, logits, average="micro"))
    assert found.details["class_ap"] == [*(pytest.approx(ap, rel=1e-6) for ap in aps), None]
    assert found.details["absent_classes"] == 1
    assert evaluate(model, batches, SEVERAL, ALONE) == found.metrics


def test_blocks_do_not_matter_but_for_rounding(monkeypatch):
    whole = evaluate(network(), digits(), CONFIG, ALONE)
    monkeypatch.setattr(module, "BLOCK", 7)
    small = evaluate(network(), digits(), CONFIG, ALONE)
    assert small["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert (small["top1"], small["top5"]) == (whole["top1"], whole["top5"])


def test_leaves_the_network_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, digits(), CONFIG, ALONE)
    assert model.training
    assert all(layer.training for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("what", ["metrics", "details", "several", "several_details"])
def test_the_same_bits_on_several_ranks(on_ranks, world, what):
    """Three blocks of images, the last one short: ranks have unequal shares."""
    expected = on_ranks[1][0][what]
    assert [rank[what] for rank in on_ranks[world]] == [expected] * world


def test_running_statistics_of_ranks_are_pooled_exactly(on_ranks):
    """The pooled moments of two sets of numbers with the ranks' means and variances, in float64."""
    owns = [own_statistics(rank) for rank in range(2)]
    weights = np.array(SHARES[:2]) / sum(SHARES[:2])
    for rank in on_ranks[2]:
        for name, merged in rank["merged"].items():
            slot = name.rpartition(".")[0]
            means = np.stack([own[f"{slot}.running_mean"].double() for own in owns])
            variances = np.stack([own[f"{slot}.running_var"].double() for own in owns])
            mean = weights @ means
            if name.endswith("running_mean"):
                np.testing.assert_allclose(merged, mean, rtol=1e-6)
            else:
                second_moment = weights @ (variances + means**2)
                np.testing.assert_allclose(merged, second_moment - mean**2, rtol=1e-6)


def test_running_statistics_are_put_back(on_ranks):
    for world in (1, 2):
        for number, rank in enumerate(on_ranks[world]):
            own = own_statistics(number)
            assert set(rank["after"]) == set(own) != set()
            assert all(torch.equal(rank["after"][name], value) for name, value in own.items())


def test_ranks_evaluate_with_the_pooled_statistics(on_ranks):
    first, second = (rank["metrics_merged"] for rank in on_ranks[2])
    assert first == second
    assert first != on_ranks[1][0]["metrics_merged"]
