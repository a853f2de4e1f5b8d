"""Norms where formulas go wrong in floating point: single pixels and images, dead planes, far means, half precision."""

import re

import numpy as np
import pytest
import torch
from support.norm_cases import ALWAYS_BIAS_OVER_ONE_VALUE, OF_BATCHES, SPECS, example, values_of
from support.norm_formulas import buffers, slot, starts

from normhpc.config import norm as configs
from normhpc.errors import InputError
from normhpc.norms import build

C = 8
every_norm = pytest.mark.parametrize("spec", SPECS, ids=repr)
every_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
both_acts = pytest.mark.parametrize("act", ["relu", "none"])

INDEPENDENT_IN_EVALUATION = [spec for spec in SPECS if getattr(spec, "running", "") != "biased_corrected"]
CENTRED = (
    configs.BatchNorm
    | configs.GhostBatchNorm
    | configs.BatchRenorm
    | configs.MeanCentring
    | configs.BatchInstanceNorm
    | configs.SwitchableNorm
    | configs.LayerNorm
    | configs.LayerPixelNorm
    | configs.InstanceNorm
    | configs.GroupNorm
)


def images(*shape, seed=0, layout=torch.contiguous_format):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=layout)


def output_and_gradients(layer, x):
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    y.backward(images(*x.shape, seed=1).to(x.dtype))
    return [y, x.grad, *(parameter.grad for parameter in layer.parameters() if parameter.grad is not None)]


def assert_finite(layer, x):
    assert all(value.isfinite().all() for value in output_and_gradients(layer, x))
    assert all(value.isfinite().all() for value in layer.state_dict().values())


def assert_is_formula(layer, spec, act, x, **tolerance):
    expected = slot(spec, act, x.double().numpy(), values_of(layer), layer.training)
    np.testing.assert_allclose(layer(x).detach().double().numpy(), expected, **tolerance)


@every_layout
@both_acts
@every_norm
def test_a_batch_of_one(spec, act, layout):
    x = images(1, C, 5, 3, layout=layout)
    assert_is_formula(build(spec, C, act), spec, act, x, rtol=2e-5, atol=2e-5)
    assert_finite(build(spec, C, act), x)


@every_layout
@both_acts
@every_norm
def test_single_pixels(spec, act, layout):
    x = images(5, C, 1, 1, layout=layout)
    if isinstance(spec, configs.GhostBatchNorm) and spec.ghost_size == 2:
        x = x[:4]  # or the last stretch had one value
    if isinstance(spec, configs.InstanceNorm):
        with pytest.raises(InputError, match=r"^norm: instance norm over a single pixel is always 0"):
            build(spec, C, act)(x)
        return
    assert_is_formula(build(spec, C, act), spec, act, x, rtol=2e-5, atol=2e-5)
    assert_finite(build(spec, C, act), x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("unbiased", [True, False])
def test_groups_of_one_value_are_refused_or_finite(unbiased, training):
    layer = build(configs.GroupNorm(group_size=1, unbiased=unbiased), 4, "none").train(training)
    try:
        y = layer(images(2, 4, 1, 1))
    except InputError:
        return
    assert y.isfinite().all()


@pytest.mark.parametrize("spec", OF_BATCHES, ids=repr)
def test_one_value_per_channel(spec):
    layer, x = build(spec, C), images(1, C, 1, 1)
    before = values_of(layer)
    if isinstance(spec, ALWAYS_BIAS_OVER_ONE_VALUE):
        with pytest.raises(InputError, match=r"^norm: .*one value per channel.*\(1, 8, 1, 1\)"):
            layer(x)
        after = values_of(layer)
        assert all(np.array_equal(after[name], before[name]) for name in buffers(spec, "relu", C))
    else:
        try:
            y = layer(x)
        except InputError:
            return
        assert y.isfinite().all()
        assert all(value.isfinite().all() for value in layer.state_dict().values())


@pytest.mark.parametrize("spec", [spec for spec in OF_BATCHES if spec in INDEPENDENT_IN_EVALUATION], ids=repr)
def test_one_value_per_channel_in_evaluation(spec):
    assert_is_formula(build(spec, C).eval(), spec, "relu", images(1, C, 1, 1), rtol=1e-5, atol=1e-5)


def test_a_stretch_of_one_value_is_refused():
    layer = build(configs.GhostBatchNorm(ghost_size=2), 4)
    with pytest.raises(InputError, match=r"^norm: "):
        layer(images(5, 4, 1, 1))
    assert layer.running_var.tolist() == [1, 1, 1, 1]


@every_layout
@both_acts
@pytest.mark.parametrize("dead", ["everything", "a channel", "an image", "a plane", "a pixel"])
@every_norm
def test_dead_values(spec, dead, act, layout):
    x = images(4, C, 3, 3, layout=layout)
    where = {
        "everything": (),
        "a channel": (slice(None), 2),
        "an image": (1,),
        "a plane": (1, 2),
        "a pixel": (1, slice(None), 0, 1),
    }
    x[where[dead]] = 0
    assert_is_formula(build(spec, C, act), spec, act, x, rtol=2e-5, atol=2e-5)
    assert_finite(build(spec, C, act), x)
    assert_finite(build(spec, C, act).eval(), x)


@every_layout
@pytest.mark.parametrize("mean", [1e3, -1e3, 1e4])
@both_acts
@every_norm
def test_fp32_statistics_survive_a_mean_far_from_zero(spec, act, mean, layout):
    x = (images(4, C, 16, 16) + mean).contiguous(memory_format=layout)
    # A last digit of the input is 6e-5 or 1e-3; a variance from sums of squares would be off by several per cent or
    # by more than itself. Where the mean stays in the result, that is as large, and its last digits count.
    digit = float(np.spacing(np.float32(abs(mean))))
    tolerance = (
        {"rtol": 0.0, "atol": max(2e-3, 8 * digit)} if isinstance(spec, CENTRED) else {"rtol": 1e-4, "atol": 1e-4}
    )
    if isinstance(spec, configs.EvoNormB2):
        tolerance["rtol"] = 4 * digit  # rms - x
    assert_is_formula(build(spec, C, act), spec, act, x, **tolerance)


@every_layout
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@both_acts
@every_norm
def test_half_precision_is_the_rounded_exact_result(spec, act, dtype, layout):
    x = (3 * images(4, C, 5, 7) + 1).to(dtype).contiguous(memory_format=layout)
    layer = example(spec, C, act).float()
    digit = torch.finfo(dtype).eps
    assert layer(x).dtype == dtype
    fresh = example(spec, C, act).float()
    assert_is_formula(fresh, spec, act, x, rtol=digit, atol=digit)
    assert_finite(fresh, x)


@every_layout
@pytest.mark.parametrize("scale", [400.0, 3000.0])
@both_acts
@every_norm
def test_fp16_of_values_whose_squares_overflow(spec, act, scale, layout):
    x = (scale * (1 + 0.3 * images(4, C, 5, 7))).half().contiguous(memory_format=layout)
    layer = build(spec, C, act)
    assert_is_formula(layer, spec, act, x, rtol=2e-3, atol=2e-3)
    assert_finite(build(spec, C, act), x)


@every_layout
@pytest.mark.parametrize("spec", [configs.FilterResponseTlu(), configs.EvoNormB1(), configs.RmsNorm()], ids=repr)
def test_fp16_does_not_die_silently(spec, layout):
    y = build(spec, C, "relu")(torch.full((2, C, 4, 4), 400.0).half().contiguous(memory_format=layout))
    assert y.isfinite().all()
    assert (y != 0).all()


@every_norm
def test_tiny_values_stay_what_they_are(spec):
    x = 1e-6 * images(4, C, 5, 7)
    assert_is_formula(build(spec, C), spec, "relu", x, rtol=1e-4, atol=1e-7)
    assert_finite(build(spec, C), x)


@pytest.mark.parametrize(
    ("spec", "channels", "beginning", "ending"),
    [
        ({"name": name, **rule}, channels, f"norm.{field}: ", ending)
        for name in ("group", "evonorm_s0", "evonorm_s1", "evonorm_s2")
        for rule, channels, field, ending in (
            ({"groups": 3}, 8, "groups", "8 channels; what does: 1, 2, 4, 8"),
            ({"group_size": 3}, 8, "group_size", "8 channels; what does: 1, 2, 4, 8"),
            ({"p_grouping": 64}, 32, "p_grouping", "32 channels"),
            ({"p_grouping": 0.3}, 7, "p_grouping", "7 channels"),
        )
    ],
    ids=str,
)
def test_groups_that_do_not_divide_the_channels(spec, channels, beginning, ending):
    with pytest.raises(InputError, match=f"^{re.escape(beginning)}.*{re.escape(ending)}"):
        build(spec, channels)


@pytest.mark.parametrize(
    ("groups", "channels", "realised"), [(32, 48, 24), (32, 7, 7), (3, 8, 2), (5, 6, 3), (32, 33, 11)]
)
def test_groups_shrink_to_the_next_number_that_divides(groups, channels, realised):
    spec = configs.GroupNorm(groups=groups, indivisible="shrink")
    assert spec.groups_of(channels) == realised
    x = images(2, channels, 3, 3).double()
    torch.testing.assert_close(
        build(spec, channels, "none").double()(x), torch.nn.functional.group_norm(x, realised), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("spec", INDEPENDENT_IN_EVALUATION, ids=repr)
def test_no_images_at_all_in_evaluation(spec):
    assert build(spec, C).eval()(torch.empty(0, C, 3, 3)).shape == (0, C, 3, 3)


def test_starting_values_are_those_of_the_formulas():
    assert all(set(starts(spec, "relu", C)) <= set(build(spec, C).state_dict()) for spec in SPECS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 1, 3, 3), (2, C, 3), (2, C), (2, C, 3, 3, 3)], ids=str)
@pytest.mark.parametrize(
    "spec", [*SPECS, configs.FormulaNorm(expr="x"), configs.WeightNorm(scaled_relu=True)], ids=repr
)
def test_other_channels_and_other_dimensions_are_refused(spec, shape, training):
    layer = build(spec, C).train(training)
    before = values_of(layer)
    with pytest.raises(InputError) as raised:
        layer(images(*shape))
    assert str(raised.value) == (
        f"norm: {type(layer).__name__} expected an input (N, 8, H, W), got {shape}; "
        "build the layer for the channels that it is given, and give it tokens as (N, C, 1, tokens)"
    )
    assert all(np.array_equal(value, before[name]) for name, value in values_of(layer).items())
