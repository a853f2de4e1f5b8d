"""From a configuration to a training that is ready to start."""

import numpy as np
import pytest
import torch
from support.steps import ALONE, ready
from support.trainings import TINY
from torch import nn

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.norms import plan_of
from normhpc.train.setup import images_per_statistic, machine_facts, refuse_nondeterministic_pools, seed_step


def statistics(norm, shares, accumulate=1):
    config, state, _ = ready(norm=norm)
    config = RunConfig.model_validate(
        {**config.to_json(), "batch_size": sum(shares), "optim": {"accumulate": accumulate}}
    )
    return images_per_statistic(state.model, config, shares)


@pytest.mark.parametrize(
    ("norm", "shares", "accumulate", "expected"),
    [
        ("batch", [128], 1, [128]),
        ("batch", [32, 33], 1, [33, 32]),
        ("batch", [32, 33], 2, [17, 16]),
        ("batch", [65], 2, [33, 32]),
        ("batch", [10], 4, [3, 2]),
        ({"name": "batch", "sync": True}, [32, 33], 1, [65]),
        # each rank's first part is the smaller one: 16 + 16 and 16 + 17
        ({"name": "batch", "sync": True}, [32, 33], 2, [33, 32]),
        ({"name": "batch", "sync": True}, [3, 3], 2, [4, 2]),
        ({"name": "ghost_batch", "ghost_size": 16}, [40, 32], 1, [16, 8]),
        ("layer", [32, 33], 1, None),
        ("none", [64], 1, None),
    ],
)
def test_images_behind_each_batch_statistic(norm, shares, accumulate, expected):
    assert statistics(norm, shares, accumulate) == expected


def test_random_numbers_in_the_network_depend_on_seed_step_and_rank_alone():
    def drawn(seed, step, rank):
        seed_step(seed, step, ALONE.__class__(rank, 4, ALONE.device))
        return tuple(torch.rand(3).tolist())

    cases = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 1000) for rank in (0, 1)]
    assert len({drawn(*case) for case in cases}) == len(cases)
    assert drawn(1, 2, 3) == drawn(1, 2, 3)


def test_weights_depend_on_the_seed_alone():
    def start(**changes):
        return [parameter.detach().clone() for parameter in ready(**changes)[1].model.parameters()]

    assert all(map(torch.equal, start(seed=4), start(seed=4)))
    assert not all(map(torch.equal, start(seed=4), start(seed=5)))
    assert all(map(torch.equal, start(seed=4), start(seed=4, model={"widths": [4, 8], "channels_last": False})))


@pytest.mark.parametrize(
    ("asked", "norm", "expected"),
    [
        ("auto", "batch", True),
        ("auto", "none", True),
        ("auto", "instance", False),
        (True, "instance", True),
        (False, "batch", False),
    ],
)
def test_how_images_and_weights_lie_in_memory(asked, norm, expected):
    config, state, batches = ready(model={"widths": [4, 8], "channels_last": asked}, norm=norm)
    assert config.channels_last is expected
    nhwc = torch.channels_last
    weight = state.model.get_parameter("layers.1.conv.weight")
    for tensor in (weight, batches.train(np.arange(5), 0).images):
        assert tensor.is_contiguous(memory_format=nhwc) is expected
        assert tensor.is_contiguous() is not expected


@pytest.mark.parametrize(
    ("normalize", "centre", "scale"),
    [("channel", None, None), ("half", (0.5, 0.5), (0.5, 0.5)), ("mean", None, (1.0, 1.0))],
)
def test_what_pixels_become(normalize, centre, scale):
    config, _, batches = ready(data={**TINY["data"], "normalize": normalize})
    data = image_data.load(config.data)
    pixels = data.train.images.double().numpy() / 255
    centre = pixels.mean((0, 1, 2)) if centre is None else centre
    scale = pixels.std((0, 1, 2)) if scale is None else scale
    expected = ((pixels - centre) / scale).transpose(0, 3, 1, 2)
    images, *_ = batches.train(np.arange(36), 0)
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batches.evaluate(0, 36)[0], expected, rtol=1e-5, atol=1e-6)


def test_norm_plans_are_told_apart():
    plans = ["batch", {"name": "batch", "eps": 1e-3}, "layer", {"name": "group", "groups": 2}, "none"]
    hashes = [plan_of(ready(norm=plan)[1].model).digest for plan in plans]
    hashes.append(plan_of(ready(act="gelu")[1].model).digest)
    hashes.append(plan_of(ready(model={"widths": [4, 16]})[1].model).digest)
    assert len(set(hashes)) == len(hashes)
    assert plan_of(ready(norm="batch", seed=7)[1].model).digest == hashes[0]
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in hashes)


def test_machine_facts_are_json():
    facts = machine_facts(ALONE)
    assert facts["ranks"] == 1
    assert facts["device"].startswith("cpu (")
    assert facts["cuda"] is None
    assert set(facts) == {"host", "ranks", "device", "threads", "python", "torch", "cuda"}


def test_pools_without_a_deterministic_gradient_on_gpus_are_named():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d((7, 7)), nn.Sequential(nn.AdaptiveAvgPool2d(2)))
    with pytest.raises(InputError) as caught:
        refuse_nondeterministic_pools(network)
    assert str(caught.value) == (
        "model.deterministic: true, but torch has no deterministic gradient on GPUs for the adaptive pooling of 1, 2.0; "
        "set model.deterministic: false"
    )
    refuse_nondeterministic_pools(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AvgPool2d(2)))
