"""Every norm in training against its float64 formula: values, and gradients of the input and of every parameter."""

import numpy as np
import pytest
import torch
from support.norm_cases import SPECS, example, values_of
from support.norm_formulas import ACTIVATIONS, buffers, gradient, held, margin, slot, starts

from normhpc.config import norm as configs
from normhpc.norms import build

SHAPES = [(2, 6, 3, 4), (1, 6, 5, 3), (3, 6, 1, 2)]
FAR_ENOUGH = 1e-3
"""From a jump of the derivative; a difference moves an input by 1e-6."""

every_norm = pytest.mark.parametrize("spec", SPECS, ids=repr)
every_act = pytest.mark.parametrize("act", ACTIVATIONS)


def slot_and_input(spec, shape, act):
    for seed in range(100):
        generator = torch.Generator().manual_seed(100 * sum(shape) + seed)
        layer = example(spec, shape[1], act, seed)
        x = 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.7
        if margin(spec, act, x.numpy(), values_of(layer)) > FAR_ENOUGH:
            return layer, x.requires_grad_(), torch.randn(shape, generator=generator, dtype=torch.float64)
    raise AssertionError("every input is near a jump of the derivative")


def assert_matches_formula(layer, spec, act, x, cotangent, training):
    values = values_of(layer)
    y = layer.train(training)(x)
    y.backward(cotangent)

    at = x.detach().numpy()
    constants = held(spec, at, values, training)
    np.testing.assert_allclose(y.detach().numpy(), slot(spec, act, at, values, training), rtol=1e-12, atol=1e-12)

    def of_input(moved):
        return slot(spec, act, moved, values | constants, training)

    expected = gradient(of_input, at, cotangent.numpy())
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6, atol=1e-7)
    for name, parameter in layer.named_parameters():

        def of_parameter(moved, name=name):
            return slot(spec, act, at, values | constants | {name: moved}, training)

        expected = gradient(of_parameter, values[name], cotangent.numpy())
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_act
@every_norm
def test_values_and_gradients(spec, act, shape):
    layer, x, cotangent = slot_and_input(spec, shape, act)
    assert_matches_formula(layer, spec, act, x, cotangent, training=True)


@pytest.mark.parametrize("act", ["relu", "none"])
@every_norm
def test_values_and_gradients_in_evaluation(spec, act):
    layer, x, cotangent = slot_and_input(spec, SHAPES[0], act)
    assert_matches_formula(layer, spec, act, x, cotangent, training=False)


@every_act
@every_norm
def test_a_new_slot_has_the_published_parameters_and_statistics(spec, act):
    layer = build(spec, 8, act)
    state = values_of(layer)
    state.pop("num_batches_tracked", None)
    expected = starts(spec, act, 8) | buffers(spec, act, 8)
    assert set(state) == set(expected)
    for name, value in expected.items():
        assert state[name].shape == value.shape, name
        np.testing.assert_allclose(state[name], value, rtol=1e-7, err_msg=name)
    learned = set(starts(spec, act, 8))
    if isinstance(spec, configs.BatchInstanceNorm) and not spec.train_gate:
        learned.remove("gate")
    assert {name for name, _ in layer.named_parameters()} == learned


@pytest.mark.parametrize(
    "spec",
    [
        spec
        for spec in SPECS
        if isinstance(
            spec,
            configs.BatchNorm
            | configs.GhostBatchNorm
            | configs.BatchInstanceNorm
            | configs.LayerNorm
            | configs.LayerPixelNorm
            | configs.InstanceNorm
            | configs.GroupNorm
            | configs.SwitchableNorm,
        )
    ],
    ids=repr,
)
def test_output_does_not_change_under_an_affine_map_of_the_input(spec):
    spec = spec.model_copy(update={"eps": 1e-12})
    layer, x, _ = slot_and_input(spec, (3, 6, 5, 4), "relu")
    torch.testing.assert_close(layer(x), layer(7 * x - 3), rtol=1e-8, atol=1e-8)


def test_the_numerical_gradient_finds_a_wrong_one():
    at = np.array([0.3, -1.2])
    np.testing.assert_allclose(gradient(lambda x: x**3, at, np.ones(2)), 3 * at**2, rtol=1e-8)
