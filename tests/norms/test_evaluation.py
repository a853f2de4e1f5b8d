"""Norms over the batch through several training passes and in evaluation, against float64 recurrences."""

import copy

import numpy as np
import pytest
import torch
from support.norm_cases import OF_BATCHES, SPECS, example, values_of
from support.norm_formulas import after_training, buffers, slot, starts

from normhpc.config import norm as configs
from normhpc.norms import build

every_norm = pytest.mark.parametrize("spec", SPECS, ids=repr)
every_batch_norm = pytest.mark.parametrize("spec", OF_BATCHES, ids=repr)
both_acts = pytest.mark.parametrize("act", ["relu", "none"])


def batches(seed=0):
    """Of several sizes, drifting."""
    generator = torch.Generator().manual_seed(seed)
    for step, images in enumerate((5, 1, 4, 2, 3, 7)):
        x = torch.randn(images, 6, 3, 4, generator=generator, dtype=torch.float64)
        yield (1 + step / 3) * x + torch.linspace(-2, 3, 6).view(1, 6, 1, 1) * step


def statistics_of(layer, spec, act):
    """The running statistics without torch's count of batches."""
    found = values_of(layer)
    return {name: found[name] for name in buffers(spec, act, 6)}


@both_acts
@every_batch_norm
def test_several_training_passes_and_evaluation(spec, act):
    layer = build(spec, 6, act).double()
    parameters, running = values_of(layer), buffers(spec, act, 6)
    for x in batches():
        y = layer(x).detach().numpy()
        np.testing.assert_allclose(y, slot(spec, act, x.numpy(), parameters | running), rtol=1e-11, atol=1e-11)
        running = after_training(spec, x.numpy(), running)
        for name, value in statistics_of(layer, spec, act).items():
            np.testing.assert_allclose(value, running[name], rtol=1e-12, atol=1e-12, err_msg=name)
    layer.eval()
    for x in batches(seed=1):
        expected = slot(spec, act, x.numpy(), parameters | running, training=False)
        np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-11, atol=1e-11)
    for name, value in statistics_of(layer, spec, act).items():
        np.testing.assert_allclose(value, running[name], rtol=1e-12, atol=1e-12, err_msg=name)


@every_batch_norm
def test_fp32_follows_the_recurrence_too(spec):
    layer, running = build(spec, 6), buffers(spec, "relu", 6)
    for x in batches():
        layer(x.float())
        running = after_training(spec, x.float().double().numpy(), running)
    for name, value in statistics_of(layer, spec, "relu").items():
        np.testing.assert_allclose(value, running[name], rtol=1e-5, atol=1e-5, err_msg=name)


@every_batch_norm
def test_a_new_layer_evaluates_with_the_statistics_it_starts_with(spec):
    layer, x = build(spec, 6).double().eval(), next(batches())
    expected = slot(spec, "relu", x.numpy(), starts(spec, "relu", 6) | buffers(spec, "relu", 6), training=False)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-6, atol=1e-6)


@every_norm
def test_evaluation_changes_nothing(spec):
    layer, x = example(spec, 6, "relu").eval(), next(batches())
    before = copy.deepcopy(layer.state_dict())
    first = layer(x)
    assert torch.equal(layer(x), first)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if getattr(spec, "running", "") != "biased_corrected"], ids=repr
)
def test_evaluation_of_an_image_does_not_depend_on_the_others(spec):
    layer, x = example(spec, 6, "relu").eval(), next(batches())
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]), rtol=1e-12, atol=1e-12)


def test_the_corrected_variance_depends_on_the_evaluated_batch():
    layer = build({"name": "batch", "running": "biased_corrected", "eps": 1e-12}, 1, "none").double().eval()
    x = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64).view(3, 1, 1, 1)
    torch.testing.assert_close(layer(x), x * (2 / 3) ** 0.5)
    torch.testing.assert_close(layer(x[:2]), x[:2] * 0.5**0.5)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not isinstance(spec, configs.BatchStatistics)], ids=repr)
@both_acts
def test_training_and_evaluation_are_the_same_without_batch_statistics(spec, act):
    layer, x = example(spec, 6, act), next(batches())
    assert torch.equal(layer(x), layer.eval()(x))
    assert not list(layer.buffers())


@every_batch_norm
def test_running_statistics_hold_no_graph(spec):
    layer = build(spec, 6).double()
    for x in batches():
        layer(x.requires_grad_())
    assert not any(buffer.requires_grad or buffer.grad_fn is not None for buffer in layer.buffers())


@every_batch_norm
def test_running_statistics_stay_in_fp32_under_autocast(spec):
    layer, exact = build(spec, 6), build(spec, 6).double()
    for x in batches():
        with torch.autocast("cpu", torch.bfloat16):
            layer(x.bfloat16())
        exact(x.bfloat16().double())
    for (name, value), (_, value64) in zip(layer.named_buffers(), exact.named_buffers(), strict=True):
        assert value.dtype in (torch.float32, torch.int64), name
        torch.testing.assert_close(value.double(), value64.double(), rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("warmup", [0, 2])
def test_renorm_bounds_rise_linearly_from_those_of_batch_norm(warmup):
    spec = configs.BatchRenorm(r_max=3, d_max=4, warmup_steps=warmup, momentum=1e-9, eps=1e-9)
    layer = build(spec, 1, "none").double()
    x = torch.tensor([90.0, 110.0], dtype=torch.float64).view(2, 1, 1, 1)  # -1, 1 around 100, with deviation 10
    for r, d in [(3, 4), (3, 4)] if warmup == 0 else [(1, 0), (2, 2), (3, 4), (3, 4)]:
        expected = torch.tensor([-r + d, r + d], dtype=torch.float64)
        torch.testing.assert_close(layer(x).detach().flatten(), expected, rtol=1e-5, atol=1e-5)
