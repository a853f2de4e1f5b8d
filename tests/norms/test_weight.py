"""Convolutions with a method on their weights, against float64 formulas, torch and timm."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, special
from torch import nn
from torch.nn.utils import parametrizations

from normhpc.config import norm as configs
from normhpc.errors import InputError
from normhpc.norms import ParamSpec, build
from normhpc.norms.activation import ACTIVATIONS
from normhpc.norms.weight import ESTIMATED_GAMMA, EXACT_GAMMA, transformed

SPECS = [
    configs.WeightNorm(),
    configs.WeightNorm(init="one", eps=1e-5),
    configs.WeightNorm(eps=0.1),
    configs.WeightStandardized(),
    configs.WeightStandardized(unbiased=False, eps_at="inside", eps=1e-6),
    configs.WeightStandardized(unbiased=False, eps=0.1),
    configs.ScaledWeightStandardized(),
    configs.ScaledWeightStandardized(eps=3.0),
    configs.ScaledWeightStandardized(gamma="exact", eps_at="outside", eps=1e-5),
    configs.ScaledWeightStandardized(gamma="one", eps_at="inside", eps=1e-2),
    configs.WeightCentering(),
]
KINDS = [
    configs.WeightNorm(),
    configs.WeightStandardized(),
    configs.ScaledWeightStandardized(),
    configs.WeightCentering(),
]
GAINED = (configs.WeightNorm, configs.ScaledWeightStandardized)
every_spec = pytest.mark.parametrize("spec", SPECS, ids=repr)
every_kind = pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.name)


@pytest.fixture
def timm_layers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm.layers")


def convolution(*, bias=True, seed=0, **options):
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=bias, **options)
    nn.init.normal_(conv.weight, mean=0.1, std=0.3)
    return conv


def moved(conv, seed=1):
    """``conv`` with a gain that is not where it starts."""
    if hasattr(conv, "gain"):
        generator = torch.Generator().manual_seed(seed)
        conv.gain.data = 0.5 + torch.rand(conv.gain.shape, generator=generator).to(conv.gain.dtype)
    return conv


def images(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filter_of(spec, w, gain, act):
    """One filter, from the papers and the official code."""
    n = w.size
    centred = w - w.sum() / n
    squares = (centred**2).sum()
    match spec:
        case configs.WeightNorm():
            return gain * w / (np.sqrt((w**2).sum()) + spec.eps)
        case configs.WeightStandardized():
            variance = squares / (n - 1 if spec.unbiased else n)
            inside = spec.eps_at == "inside"
            return centred / (np.sqrt(variance + spec.eps) if inside else np.sqrt(variance) + spec.eps)
        case configs.ScaledWeightStandardized():
            gamma = {"estimated": ESTIMATED_GAMMA[act], "exact": EXACT_GAMMA[act], "one": 1.0}[spec.gamma]
            spread = {
                "floor": np.sqrt(max(n * squares / n, spec.eps)),
                "inside": np.sqrt(n) * np.sqrt(squares / n + spec.eps),
                "outside": np.sqrt(n) * (np.sqrt(squares / n) + spec.eps),
            }[spec.eps_at]
            return gain * gamma * centred / spread
    return centred


@pytest.mark.parametrize("act", ["relu", "silu"])
@every_spec
def test_filters_are_the_formula(spec, act):
    conv = moved(transformed(convolution(dtype=torch.float64), spec, act))
    weight = conv.weight.detach().numpy()
    gains = conv.gain.detach().numpy() if hasattr(conv, "gain") else np.ones(6)
    expected = np.stack([filter_of(spec, w, gain, act) for w, gain in zip(weight, gains, strict=True)])
    found = conv.filters(conv.weight).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    x = images(2, 4, 5, 7).double()
    np.testing.assert_allclose(
        conv(x).detach().numpy(),
        nn.functional.conv2d(x, torch.from_numpy(expected), conv.bias, padding=1).detach().numpy(),
        rtol=1e-12,
        atol=1e-13,
    )


@every_spec
def test_gradients(spec):
    conv = moved(transformed(convolution(dtype=torch.float64), spec, "relu"))
    names = [name for name, _ in conv.named_parameters()]

    def of(x, *parameters):
        return torch.func.functional_call(conv, dict(zip(names, parameters, strict=True)), (x,))

    x = images(2, 4, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(of, (x, *(value.detach().requires_grad_() for value in conv.parameters())))


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.1])
def test_weight_norm_starts_as_the_plain_convolution(eps):
    plain = convolution()
    conv = transformed(copy.deepcopy(plain), configs.WeightNorm(eps=eps), "relu")
    x = images(2, 4, 6, 6)
    torch.testing.assert_close(conv(x), plain(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(conv.gain.detach(), plain.weight.detach().flatten(1).norm(dim=1) + eps)


def test_beyondbatchnorms_weight_norm_starts_with_filters_of_length_1():
    conv = transformed(convolution(), configs.WeightNorm(init="one", eps=1e-5), "relu")
    assert torch.equal(conv.gain, torch.ones(6))
    lengths = conv.filters(conv.weight).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(6), rtol=1e-4, atol=0)


def test_weight_norm_is_torchs():
    plain = convolution(dtype=torch.float64)
    conv = moved(transformed(copy.deepcopy(plain), configs.WeightNorm(), "relu"))
    theirs = parametrizations.weight_norm(plain, dim=0)
    theirs.parametrizations.weight.original0.data = conv.gain.detach().view(-1, 1, 1, 1).clone()
    x = images(2, 4, 6, 6).double()
    ours_out, theirs_out = conv(x), theirs(x)
    torch.testing.assert_close(ours_out, theirs_out)
    ours_out.square().sum().backward()
    theirs_out.square().sum().backward()
    torch.testing.assert_close(conv.gain.grad, theirs.parametrizations.weight.original0.grad.flatten())
    torch.testing.assert_close(conv.weight.grad, theirs.parametrizations.weight.original1.grad)


def test_weight_standardization_is_timms(timm_layers):
    spec = configs.WeightStandardized(unbiased=False, eps_at="inside", eps=1e-6)
    conv = transformed(convolution(), spec, "relu")
    theirs = timm_layers.StdConv2d(4, 6, 3, padding=1, bias=True)
    theirs.load_state_dict(conv.state_dict())
    x = images(2, 4, 6, 6)
    torch.testing.assert_close(conv(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_authors_weight_standardization_is_smaller_than_timms_by_the_unbiased_variance():
    plain = convolution(dtype=torch.float64)
    authors = transformed(copy.deepcopy(plain), configs.WeightStandardized(eps=1e-12), "relu")
    timms = transformed(plain, configs.WeightStandardized(unbiased=False, eps_at="inside", eps=1e-12), "relu")
    ratio = timms.filters(plain.weight) / authors.filters(plain.weight)
    torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt(36 / 35)), rtol=1e-9, atol=0)


def test_scaled_weight_standardization_is_timms(timm_layers):
    conv = moved(transformed(convolution(), configs.ScaledWeightStandardized(eps_at="inside", eps=1e-6), "relu"))
    theirs = timm_layers.ScaledStdConv2d(4, 6, 3, padding=1, gamma=1.7139588594436646, eps=1e-6)
    state = conv.state_dict()
    theirs.load_state_dict({**state, "gain": state["gain"].view(-1, 1, 1, 1)})
    x = images(2, 4, 6, 6)
    torch.testing.assert_close(conv(x), theirs(x), rtol=1e-5, atol=1e-5)


@every_spec
def test_filters_of_equal_weights_are_finite_and_so_are_their_gradients(spec):
    conv = convolution()
    nn.init.constant_(conv.weight, 0.25)
    conv = transformed(conv, spec, "relu")
    y = conv(images(1, 4, 5, 5))
    if not isinstance(spec, configs.WeightNorm):
        assert torch.equal(y, conv.bias.detach().view(1, -1, 1, 1).expand_as(y))
    y.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in conv.parameters())


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_exact_gammas_are_one_over_the_deviation_under_normal_x(act):
    def value(z):
        return {
            "relu": max(z, 0.0),
            "leaky_relu": max(z, 0.01 * z),
            "silu": z * special.expit(z),
            "gelu": z * special.ndtr(z),
            "tanh": np.tanh(z),
            "none": z,
        }[act]

    def mean(function):
        def weighted(z):
            return function(z) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

        return sum(integrate.quad(weighted, *ends, epsabs=1e-13)[0] for ends in ((-12, 0), (0, 12)))

    centre = mean(value)
    deviation = np.sqrt(mean(lambda z: (value(z) - centre) ** 2))
    assert pytest.approx(1 / deviation, rel=1e-11) == EXACT_GAMMA[act]
    assert pytest.approx(EXACT_GAMMA[act], rel=2e-3) == ESTIMATED_GAMMA[act]


def test_gamma_keeps_the_variance_through_the_activation():
    torch.manual_seed(0)
    conv = nn.Conv2d(512, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    conv = transformed(conv, configs.ScaledWeightStandardized(gamma="exact"), "relu")
    y = conv(torch.relu(torch.randn(2, 512, 12, 12)))[:, :, 1:-1, 1:-1]
    assert y.var().item() == pytest.approx(1, rel=0.05)


def test_the_constant_of_beyondbatchnorm():
    assert EXACT_GAMMA["relu"] == pytest.approx(1.7128585504496627, rel=1e-15)


@every_spec
def test_state_keeps_its_names_and_comes_back(spec):
    conv = moved(transformed(convolution(), spec, "relu"))
    assert list(conv.state_dict()) == ["weight", "bias"] + (["gain"] if isinstance(spec, GAINED) else [])
    other = transformed(convolution(seed=5), spec, "relu")
    other.load_state_dict(conv.state_dict())
    x = images(2, 4, 6, 6)
    assert torch.equal(other(x), conv(x))


@every_kind
def test_a_plain_convolutions_weights_load(spec):
    plain = convolution()
    conv = transformed(convolution(seed=5), spec, "relu")
    missing = conv.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == (["gain"] if isinstance(spec, GAINED) else [])
    assert not missing.unexpected_keys


@every_kind
def test_transforming_draws_nothing_and_keeps_the_parameters(spec):
    plain = convolution()
    state = torch.get_rng_state()
    conv = transformed(plain, spec, "relu")
    assert torch.equal(torch.get_rng_state(), state)
    assert conv.weight is plain.weight
    assert conv.bias is plain.bias
    assert transformed(convolution(bias=False), spec, "relu").bias is None


@every_kind
def test_strides_groups_and_dilation_are_kept(spec):
    plain = nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 2), dilation=2, groups=2, padding_mode="circular")
    conv = transformed(copy.deepcopy(plain), spec, "relu")
    x = images(2, 4, 9, 8)
    expected = copy.deepcopy(plain)
    expected.weight.data = conv.filters(conv.weight).detach()
    torch.testing.assert_close(conv(x), expected(x))


@every_kind
def test_weight_decay_is_on_the_raw_weight_alone(spec):
    specs = transformed(convolution(), spec, "relu").param_specs()
    gain = {"gain": ParamSpec()} if isinstance(spec, GAINED) else {}
    assert specs == {"weight": ParamSpec(decay=True), "bias": ParamSpec(), **gain}


@every_kind
def test_under_autocast_filters_are_fp32_and_the_output_bf16(spec):
    conv = transformed(convolution(), spec, "relu")
    exact = copy.deepcopy(conv).double()
    seen = []
    conv.filters = lambda weight, compute=conv.filters: seen.append(compute(weight)) or seen[-1]
    x = images(2, 4, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0].double(), exact.filters(exact.weight), rtol=1e-5, atol=1e-6)
    y.float().square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in conv.parameters())


@every_kind
def test_half_weights_have_filters_from_fp32_arithmetic(spec):
    conv = transformed(convolution(), spec, "relu").bfloat16()
    exact = copy.deepcopy(conv).double()
    y = conv(images(2, 4, 6, 6).bfloat16())
    assert y.dtype == torch.bfloat16
    assert conv.filters(conv.weight.float()).dtype == torch.float32
    torch.testing.assert_close(conv.filters(conv.weight.float()).double(), exact.filters(exact.weight))


@every_kind
def test_compiled_in_one_graph(spec):
    torch.compiler.reset()
    conv = transformed(convolution(), spec, "relu")
    x = images(2, 4, 6, 6)
    torch.testing.assert_close(torch.compile(conv, backend="aot_eager", fullgraph=True)(x), conv(x))
    torch.compiler.reset()


@every_kind
def test_memory_format_is_kept(spec):
    conv = transformed(convolution(), spec, "relu").to(memory_format=torch.channels_last)
    x = images(2, 4, 6, 6)
    y = conv(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert conv.filters(conv.weight).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, transformed(convolution(), spec, "relu")(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", ACTIVATIONS)
@every_kind
def test_the_slot_keeps_the_activation_alone(spec, act):
    slot, x = build(spec, 5, act), images(2, 5, 4, 4)
    assert torch.equal(slot(x), build("none", 5, act)(x))
    assert not list(slot.parameters())
    assert (slot.scope, slot.shifts, slot.owns_act) == ("weight", False, False)


def test_scaled_relu_has_mean_0_and_variance_1_under_normal_x():
    slot = build(configs.WeightNorm(scaled_relu=True), 5, "relu")
    assert slot.owns_act
    x = images(64, 5, 64, 64)
    before = x.clone()
    y = slot(x)
    expected = math.sqrt(2 * math.pi / (math.pi - 1)) * (np.maximum(x.double().numpy(), 0) - 1 / math.sqrt(2 * math.pi))
    np.testing.assert_allclose(y.double().numpy(), expected, rtol=1e-6, atol=1e-6)
    assert y.mean().item() == pytest.approx(0, abs=5e-3)
    assert y.var().item() == pytest.approx(1, abs=1e-2)
    assert torch.equal(x, before)
    assert slot(x.bfloat16()).dtype == torch.bfloat16


def test_scaled_relu_is_nowhere_without_an_activation():
    slot, x = build(configs.WeightNorm(scaled_relu=True), 5, "none"), images(2, 5, 4, 4)
    assert not slot.owns_act
    assert torch.equal(slot(x), x)


@pytest.mark.parametrize("name", ["weight_standardized", "scaled_weight_standardized", "weight_centering"])
def test_filters_of_one_weight_are_refused(name):
    part = next(spec for spec in SPECS if spec.name == name)
    with pytest.raises(
        InputError, match=f"^norm: {name} centres each filter, .* have a single weight; use norm: weight"
    ):
        transformed(nn.Conv2d(4, 4, 1, groups=4), part, "relu")
