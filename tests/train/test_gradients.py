"""Penalties and limits on gradients, against float64 formulas, autograd and timm."""

import importlib.util

import numpy as np
import pytest
import torch
from support.steps import ALONE, ready
from torch import nn

from normhpc.train.average import WeightAverage
from normhpc.train.gradients import add_l1, clip_norm, clip_units, gradient_rules
from normhpc.train.losses import summed_loss
from normhpc.train.step import train_step

SHAPES = [(), (5,), (4, 6), (3, 2, 5, 5), (6, 1, 3, 3), (2, 3, 4)]
PLAIN = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
STEADY = {"norm": "none", "schedule": "constant"}


def parameters_with_gradients(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape in SHAPES:
        made.append(nn.Parameter(torch.randn(shape, generator=generator)))
        made[-1].grad = scale * torch.randn(shape, generator=generator)
    with torch.no_grad():
        made[2][1] = 0.0  # a unit without weights
        made[3].grad[2] = 0.0  # and one without a gradient
    return made


def doubles(tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


def unit_norms(array):
    rows = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    return np.sqrt((rows**2).sum(axis=1)).reshape(-1, *[1] * max(0, array.ndim - 1))


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1e4])
def test_adaptive_clipping_by_the_formula(scale):
    made = parameters_with_gradients(scale)
    weights, before = doubles(made), doubles(p.grad for p in made)
    clip_units(made, 0.05)
    touched = 0
    for parameter, weight, gradient in zip(made, weights, before, strict=True):
        limit, norm = 0.05 * np.maximum(unit_norms(weight), 1e-3), unit_norms(gradient)
        factor = np.where(norm > limit, limit / np.where(norm > 0, norm, 1), 1)
        touched += int((factor < 1).sum())
        np.testing.assert_allclose(
            parameter.grad.numpy(), (gradient * factor).reshape(gradient.shape), rtol=2e-6, atol=0
        )
    assert touched == {1e-3: 1, 0.3: 16, 1e4: 16}[scale]


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("scale", [1e-3, 0.3, 1e4])
def test_adaptive_clipping_is_that_of_timm(scale):
    from timm.utils.agc import adaptive_clip_grad

    # timm has no unit of a scalar
    own, theirs = parameters_with_gradients(scale)[1:], parameters_with_gradients(scale)[1:]
    clip_units(own, 0.05)
    adaptive_clip_grad(theirs, clip_factor=0.05, eps=1e-3)
    for mine, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("most", [0.5, 20.0, 1e3])
def test_the_common_norm_is_limited(most):
    made = parameters_with_gradients()
    before = doubles(p.grad for p in made)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in before))
    assert 10 < norm < 20
    clip_norm(made, most)
    for parameter, gradient in zip(made, before, strict=True):
        expected = gradient * min(1, most / (norm + 1e-6))
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-6, atol=0)


def test_l1_is_added_to_every_gradient_there_is():
    made = parameters_with_gradients()
    made[0].grad = None
    before = doubles(p.grad for p in made[1:])
    add_l1(made, 0.25)
    assert made[0].grad is None
    for parameter, gradient in zip(made[1:], before, strict=True):
        expected = gradient + 0.25 * np.sign(parameter.detach().double().numpy())
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert made[2][1].detach().abs().sum() == 0  # weights at 0 are pushed nowhere
    np.testing.assert_array_equal(made[2].grad[1].numpy(), before[1][1].astype(np.float32))


def test_nobody_waits_for_the_device():
    """Tensors without values refuse to give one."""
    config, state, _ = ready(optim={"l1": 0.1, "clip_norm": 1.0, "clip_adaptive": 0.1})
    model = state.model.to("meta")
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        model.head.weight.grad.sum().item()
    for rule in gradient_rules(model, config.optim):
        rule()
    WeightAverage(model, 0.9).update()


def test_nothing_is_done_unless_asked():
    config, state, _ = ready()
    assert gradient_rules(state.model, config.optim) == state.gradient_rules == ()


def step_taken(**changes):
    """The gradients of the data loss, and what one step took off every weight: its gradient as the optimizer saw it."""
    config, state, batches = ready(**{**STEADY, **changes})
    rows = np.arange(9)
    before = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
    images, labels, _ = batches.train(rows, 0)
    penalty = config.optim.l1 * sum(parameter.abs().sum() for parameter in state.model.parameters())
    loss = summed_loss(state.model(images), labels, config.loss) / 9 + penalty
    gradients = torch.autograd.grad(loss, list(state.model.parameters()))
    train_step(state, batches, rows, config, ALONE, updates_per_epoch=4)
    taken = {name: before[name] - parameter.detach() for name, parameter in state.model.named_parameters()}
    return before, dict(zip(before, gradients, strict=True)), taken, state


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 0.1)])
def test_a_step_with_a_penalty_is_that_of_the_loss_with_it(accumulate, precision, tolerance):
    optim = {**PLAIN, "l1": 0.3, "accumulate": accumulate}
    _, gradients, taken, state = step_taken(optim=optim, precision=precision)
    for name, gradient in gradients.items():
        torch.testing.assert_close(taken[name], gradient, rtol=tolerance, atol=tolerance * 0.3)
    # what is logged is the loss of the images
    state.settle()
    plain = step_taken(optim=PLAIN, precision=precision)[-1]
    plain.settle()
    assert state.sums.loss == pytest.approx(plain.sums.loss, rel=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 0.1)])
def test_the_norm_is_that_of_the_unscaled_gradients_with_the_penalty(precision, tolerance):
    _, gradients, taken, _ = step_taken(optim={**PLAIN, "l1": 0.01, "clip_norm": 0.1}, precision=precision)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in doubles(gradients.values())))
    assert norm > 0.2
    for name, gradient in gradients.items():
        torch.testing.assert_close(taken[name], gradient * float(0.1 / norm), rtol=tolerance, atol=tolerance * 0.01)
    total = np.sqrt(sum((value**2).sum() for value in doubles(taken.values())))
    assert total == pytest.approx(0.1, rel=1e-4)


def test_adaptive_clipping_spares_the_classifier():
    before, gradients, taken, _ = step_taken(optim={**PLAIN, "clip_adaptive": 1e-3})
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(taken[name], gradients[name], rtol=1e-5, atol=1e-7)
    for name in ("layers.0.conv.weight", "layers.1.conv.weight"):
        limits = 1e-3 * np.maximum(unit_norms(doubles([before[name]])[0]), 1e-3)
        # rounding of weights near 1 in the difference before - after
        np.testing.assert_allclose(unit_norms(doubles([taken[name]])[0]), limits, rtol=1e-3)
