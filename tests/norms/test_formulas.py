"""Every norm against its float64 formula: values, and gradients of the input and of every parameter."""

import numpy as np
import pytest
import torch
from support.norm_formulas import ACTIVATIONS, BOUNDED, FORMULAS, formula_of, gradient

from normhpc.config import norm as configs
from normhpc.norms import NORMS, build

SPECS = [
    configs.NoNorm(),
    configs.BatchNorm(),
    configs.BatchNorm(eps=0.1, sync=True),
    configs.LayerNorm(),
    configs.InstanceNorm(eps=1e-3),
    configs.GroupNorm(groups=3),
    configs.GroupNorm(groups=None, group_size=3),
    configs.RmsNorm(),
    configs.FilterResponseNorm(),
    configs.FilterResponseNorm(eps=0.1, tlu=False),
    configs.EvoNormS0(groups=3),
    configs.EvoNormS1(groups=2, eps=1e-3),
    configs.EvoNormS2(groups=None, group_size=2),
    configs.DynamicTanh(),
    *(configs.DynamicErf(shape=shape, alpha=0.8) for shape in BOUNDED),
]
SHAPES = [(2, 6, 3, 4), (1, 6, 5, 3), (3, 6, 1, 2)]


def slot_and_input(spec, shape, act):
    generator = torch.Generator().manual_seed(sum(shape))
    slot = build(spec, shape[1], act).double()
    for parameter in slot.parameters():
        torch.nn.init.normal_(parameter, mean=0.5, generator=generator)
    x = 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.7
    return slot, x.requires_grad_(), torch.randn(shape, generator=generator, dtype=torch.float64)


def test_every_norm_has_a_formula_and_is_tested():
    assert set(NORMS) == set(FORMULAS) == {type(spec) for spec in SPECS}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_values_and_gradients(spec, act, shape):
    slot, x, cotangent = slot_and_input(spec, shape, act)
    y = slot(x)
    y.backward(cotangent)

    formula = formula_of(spec, act)
    values = {name: parameter.detach().numpy() for name, parameter in slot.named_parameters()}
    at = x.detach().numpy()
    np.testing.assert_allclose(y.detach().numpy(), formula(spec, at, values), rtol=1e-12, atol=1e-12)

    def of_input(moved):
        return formula(spec, moved, values)

    np.testing.assert_allclose(x.grad.numpy(), gradient(of_input, at, cotangent.numpy()), rtol=1e-6, atol=1e-7)
    for name, parameter in slot.named_parameters():

        def of_parameter(moved, name=name):
            return formula(spec, at, values | {name: moved})

        expected = gradient(of_parameter, values[name], cotangent.numpy())
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    "spec", [configs.BatchNorm(), configs.LayerNorm(), configs.InstanceNorm(), configs.GroupNorm(groups=3)], ids=repr
)
def test_output_does_not_change_under_an_affine_map_of_the_input(spec):
    slot, x, _ = slot_and_input(spec.model_copy(update={"eps": 1e-12}), (3, 6, 5, 4), "relu")
    torch.testing.assert_close(slot(x), slot(7 * x - 3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "spec", [configs.BatchNorm(), configs.LayerNorm(), configs.InstanceNorm(), configs.GroupNorm(groups=3)], ids=repr
)
def test_fp32_statistics_survive_a_mean_far_from_zero(spec, layout):
    slot = build(spec, 6, "none")
    x = (torch.randn(4, 6, 16, 16, generator=torch.Generator().manual_seed(0)) + 1000).contiguous(memory_format=layout)
    values = {name: parameter.detach().double().numpy() for name, parameter in slot.named_parameters()}
    exact = FORMULAS[type(spec)](spec, x.double().numpy(), values)
    # A last digit of the input is 6e-5; a variance from sums of squares would be off by several per cent.
    np.testing.assert_allclose(slot(x).detach().numpy(), exact, rtol=0, atol=2e-3)


def test_the_numerical_gradient_finds_a_wrong_one():
    at = np.array([0.3, -1.2])
    np.testing.assert_allclose(gradient(lambda x: x**3, at, np.ones(2)), 3 * at**2, rtol=1e-8)
