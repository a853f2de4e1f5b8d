"""What norms have to do with each other and with simple maps, each a function that compares two float64 results.

Each names the configurations that it says something about.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from normhpc.config import norm as configs
from normhpc.norms import Norm, build

C = 6
Identity = Callable[[], tuple[Tensor, Tensor]]
IDENTITIES: list[tuple[Identity, tuple[type, ...]]] = []


def identity(*about: type) -> Callable[[Identity], Identity]:
    def add(function: Identity) -> Identity:
        IDENTITIES.append((function, about))
        return function

    return add


def images(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape or (4, C, 5, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * x + torch.linspace(-1, 2, x.shape[1], dtype=torch.float64).view(1, -1, 1, 1)


def new(config: configs.NormPart, act: str = "none", channels: int = C, **parameters: Tensor | float) -> Norm:
    """With weight and bias that are not 1 and 0, the same for every norm, and the given parameters."""
    layer = build(config, channels, act).double()
    chosen = {"weight": torch.linspace(0.5, 2, channels), "bias": torch.linspace(-1, 1, channels)} | parameters
    with torch.no_grad():
        for name, value in chosen.items():
            if name in parameters or name in layer.state_dict():
                layer.state_dict()[name].copy_(torch.as_tensor(value))
    return layer


def through_training(layer: Norm) -> Tensor:
    """Outputs and gradients of three training passes, and outputs in evaluation."""
    found = []
    for seed in range(3):
        x = images(seed=seed).requires_grad_()
        y = layer(x)
        y.backward(images(seed=7))
        found += [y.detach(), x.grad]
    return torch.stack([*found, layer.eval()(images(seed=3)).detach()])


def at_once(layer: Norm, x: Tensor) -> Tensor:
    """The output and the gradient of the input."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    y.backward(images(*x.shape, seed=7))
    return torch.stack([y.detach(), x.grad])


def same(one: Norm, other: Norm) -> tuple[Tensor, Tensor]:
    return through_training(one), through_training(other)


# Groups


@identity(configs.GroupNorm, configs.LayerNorm)
def one_group_is_layer_norm():
    return same(new(configs.GroupNorm(groups=1)), new(configs.LayerNorm()))


@identity(configs.GroupNorm, configs.InstanceNorm)
def a_group_per_channel_is_instance_norm():
    return same(new(configs.GroupNorm(group_size=1)), new(configs.InstanceNorm()))


@identity(configs.GroupNorm)
def rules_of_the_same_groups_agree():
    return same(new(configs.GroupNorm(group_size=2)), new(configs.GroupNorm(p_grouping=0.5)))


@identity(configs.GroupNorm)
def unbiased_groups_are_smaller_by_a_constant():
    size = C // 2 * 15
    one, other = (
        new(configs.GroupNorm(groups=2, eps=1e-14, unbiased=unbiased), bias=torch.zeros(C))
        for unbiased in (True, False)
    )
    return through_training(one), through_training(other) * ((size - 1) / size) ** 0.5


@identity(configs.LayerPixelNorm, configs.LayerNorm)
def over_channels_is_over_the_image_of_one_pixel():
    x = images(4, C, 1, 1)
    return at_once(new(configs.LayerPixelNorm(eps=1e-5)), x), at_once(new(configs.LayerNorm()), x)


@identity(configs.LayerPixelNorm, configs.RmsNorm)
def over_channels_is_rms_of_what_is_centred_over_channels():
    x = images()
    over, rms = new(configs.LayerPixelNorm(), bias=torch.zeros(C)), new(configs.RmsNorm())
    return over(x), rms(x - x.mean(1, keepdim=True))


@identity(configs.FilterResponseNorm, configs.RmsNorm)
def filter_response_is_rms_over_planes():
    x, ones, zeros = images(), torch.ones(C), torch.zeros(C)
    planes = new(configs.RmsNorm(), channels=15, weight=torch.ones(15))(x.reshape(4 * C, 15, 1, 1))
    return new(configs.FilterResponseNorm(), weight=ones, bias=zeros)(x), planes.view_as(x)


@identity(configs.FilterResponseNorm)
def a_learned_epsilon_starts_as_the_fixed_one():
    return same(new(configs.FilterResponseNorm(eps=0.25, learn_eps=True)), new(configs.FilterResponseNorm(eps=0.25)))


@identity(configs.FilterResponseTlu, configs.FilterResponseNorm)
def a_threshold_of_zero_is_relu():
    return same(new(configs.FilterResponseTlu(), "relu", threshold=0.0), new(configs.FilterResponseNorm(), "relu"))


@identity(configs.FilterResponseTlu, configs.FilterResponseNorm)
def a_threshold_far_below_is_none():
    return same(new(configs.FilterResponseTlu(), "relu", threshold=-1e9), new(configs.FilterResponseNorm()))


@identity(configs.GlobalResponseNorm, configs.NoNorm)
def global_response_starts_as_nothing():
    return same(build(configs.GlobalResponseNorm(), C, "none").double(), build(configs.NoNorm(), C, "none").double())


@identity(configs.GlobalResponseNorm)
def global_response_of_planes_of_one_norm_is_linear():
    ones = images().sign()
    layer = new(configs.GlobalResponseNorm(eps=1e-14))
    return layer(ones), ones * (1 + layer.weight.view(-1, 1, 1)) + layer.bias.view(-1, 1, 1)


@identity(configs.LocalResponseNorm, configs.RmsNorm)
def local_response_of_all_neighbours_is_rms():
    x = images(4, 1, 5, 3)
    local = new(configs.LocalResponseNorm(size=1, alpha=1.0, beta=0.5, k=1e-6), channels=1)
    return at_once(local, x), at_once(new(configs.RmsNorm(), channels=1, weight=torch.ones(1)), x)


# Over the batch


@identity(configs.BatchInstanceNorm, configs.BatchNorm)
def a_gate_of_one_is_batch_norm():
    return same(new(configs.BatchInstanceNorm()), new(configs.BatchNorm()))


@identity(configs.BatchInstanceNorm, configs.InstanceNorm)
def a_gate_of_zero_is_instance_norm():
    return same(new(configs.BatchInstanceNorm(gate_init=0)), new(configs.InstanceNorm()))


def chosen(place: int) -> Norm:
    logits = torch.full((3,), -400.0)
    logits[place] = 400.0
    return new(configs.SwitchableNorm(), mean_weight=logits, var_weight=logits)


@identity(configs.SwitchableNorm, configs.InstanceNorm)
def switched_to_the_instance():
    return same(chosen(0), new(configs.InstanceNorm()))


@identity(configs.SwitchableNorm, configs.LayerNorm)
def switched_to_the_layer():
    return same(chosen(1), new(configs.LayerNorm()))


@identity(configs.SwitchableNorm, configs.BatchNorm)
def switched_to_the_batch():
    return same(chosen(2), new(configs.BatchNorm()))


@identity(configs.BatchRenorm, configs.BatchNorm)
def no_correction_is_batch_norm():
    return same(new(configs.BatchRenorm(r_max=1, d_max=0, warmup_steps=0)), new(configs.BatchNorm()))


@identity(configs.BatchRenorm, configs.BatchNorm)
def unbounded_correction_is_batch_norm_in_evaluation():
    renorm, batch = (
        new(config, running_mean=torch.linspace(-2, 2, C), running_var=torch.linspace(0.5, 3, C))
        for config in (configs.BatchRenorm(r_max=1e9, d_max=1e9, warmup_steps=0), configs.BatchNorm())
    )
    return renorm(images()), batch.eval()(images())


@identity(configs.GhostBatchNorm, configs.BatchNorm)
def a_stretch_of_the_whole_batch_is_batch_norm():
    return same(new(configs.GhostBatchNorm(ghost_size=4)), new(configs.BatchNorm()))


@identity(configs.GhostBatchNorm, configs.InstanceNorm)
def a_stretch_of_one_image_is_instance_norm():
    one, other = new(configs.GhostBatchNorm(ghost_size=1)), new(configs.InstanceNorm())
    return at_once(one, images()), at_once(other, images())


@identity(configs.VarianceNorm, configs.MeanCentring, configs.BatchNorm)
def centring_then_division_is_batch_norm():
    ones, zeros = torch.ones(C), torch.zeros(C)
    centring, division = new(configs.MeanCentring(), weight=ones, bias=zeros), new(configs.VarianceNorm())
    batch, found, expected = new(configs.BatchNorm()), [], []
    for seed in range(4):
        for layer in (centring, division, batch) if seed == 3 else ():
            layer.eval()
        found.append(division(centring(images(seed=seed))))
        expected.append(batch(images(seed=seed)))
    return torch.stack(found), torch.stack(expected)


@identity(configs.VarianceNorm, configs.BatchNorm)
def division_is_batch_norm_without_its_shift():
    x, division, batch = images(), new(configs.VarianceNorm()), new(configs.BatchNorm())
    shift = x.mean((0, 2, 3)) / (x.var((0, 2, 3), correction=0) + 1e-5).sqrt() * batch.weight
    return division(x), batch(x) + shift.view(-1, 1, 1)


@identity(configs.MeanCentring)
def centring_ignores_a_shift_and_keeps_the_scale():
    layer = new(configs.MeanCentring(), bias=torch.zeros(C))
    return layer(3 * images() + 5), 3 * layer(images())


# EvoNorm


@identity(configs.EvoNormB0)
def b0_does_not_change_with_scale():
    layer = new(configs.EvoNormB0(eps=1e-14), "relu", v=torch.linspace(-2, 2, C))
    return layer(images()), layer(100 * images())


@identity(configs.EvoNormB2)
def b2_does_not_change_with_scale():
    layer = new(configs.EvoNormB2(eps=1e-14), "relu")
    return layer(images()), layer(100 * images())


@identity(configs.EvoNormB0, configs.EvoNormB1, configs.EvoNormB2, configs.VarianceNorm)
def alone_the_batch_family_is_division_by_the_deviation():
    alone = [
        new(config(alone="normalize", running="unbiased"))
        for config in (configs.EvoNormB0, configs.EvoNormB1, configs.EvoNormB2)
    ]
    division = through_training(new(configs.VarianceNorm()))
    return torch.stack([through_training(layer) for layer in alone]), torch.stack([division] * 3)


@identity(
    configs.EvoNormB0, configs.EvoNormB1, configs.EvoNormB2, configs.EvoNormS0, configs.EvoNormS1, configs.EvoNormS2
)
def alone_and_affine_is_affine():
    batch, sample = (
        (configs.EvoNormB0, configs.EvoNormB1, configs.EvoNormB2),
        (configs.EvoNormS0, configs.EvoNormS1, configs.EvoNormS2),
    )
    layers = [new(config()) for config in batch] + [new(config(groups=2)) for config in sample]
    weight, bias = torch.linspace(0.5, 2, C).double().view(-1, 1, 1), torch.linspace(-1, 1, C).double().view(-1, 1, 1)
    return torch.stack([layer(images()) for layer in layers]), torch.stack([images() * weight + bias] * 6)


@identity(configs.EvoNormB0)
def b0_of_a_strongly_negative_slope_is_division_for_positive_values():
    x = images().abs() + 0.1
    return (
        at_once(new(configs.EvoNormB0(), "relu", v=-1e9), x),
        at_once(new(configs.VarianceNorm()), x),
    )


@identity(configs.EvoNormB1)
def b1_of_values_below_minus_one_is_division():
    x = -images().abs() - 1.1
    return at_once(new(configs.EvoNormB1(), "relu"), x), at_once(new(configs.VarianceNorm()), x)


@identity(configs.EvoNormS0)
def s0_of_a_steep_sigmoid_is_relu_over_the_deviation():
    x, weight, bias = images(), torch.ones(C), torch.zeros(C)
    layer = new(configs.EvoNormS0(groups=2), "relu", v=1e6, weight=weight, bias=bias)
    deviation = (x.view(4, 2, -1).var(2, correction=0) + 1e-5).sqrt()
    return layer(x), x.relu() / deviation.repeat_interleave(C // 2, 1).view(4, C, 1, 1)


@identity(configs.EvoNormS0, configs.EvoNormS1)
def s1_is_s0_with_slope_one():
    return same(new(configs.EvoNormS0(groups=2), "relu", v=1.0), new(configs.EvoNormS1(groups=2), "relu"))


@identity(configs.EvoNormS2, configs.EvoNormS1)
def s1_and_s2_agree_where_groups_are_centred():
    x = images()
    x = (x.view(4, 2, -1) - x.view(4, 2, -1).mean(2, keepdim=True)).view_as(x)
    return new(configs.EvoNormS1(groups=2), "relu")(x), new(configs.EvoNormS2(groups=2), "relu")(x)


@identity(configs.EvoNormS2, configs.FilterResponseNorm)
def alone_s2_of_a_channel_a_group_is_filter_response():
    return same(new(configs.EvoNormS2(group_size=1, alone="normalize")), new(configs.FilterResponseNorm(eps=1e-5)))


# Of single values


@identity(configs.DynamicTanh, configs.PointwiseShape)
def the_shape_tanh_is_dynamic_tanh():
    return same(new(configs.DynamicTanh(alpha=0.7)), new(configs.PointwiseShape(shape="tanh", alpha=0.7)))


@identity(configs.DynamicErf, configs.PointwiseShape)
def the_shape_erf_is_derf():
    one, other = configs.DynamicErf(alpha=0.7), configs.PointwiseShape(shape="erf", alpha=0.7)
    return same(new(one, shift=0.3), new(other, shift=0.3))


@identity(configs.DynamicIsru, configs.PointwiseShape)
def dynamic_isru_is_the_shape_isru():
    # sqrt(C) x / sqrt(x^2 + c) is sqrt(C) times z / sqrt(1 + z^2) at z = x / sqrt(c)
    shape = new(configs.PointwiseShape(shape="isru"), alpha=0.5, weight=torch.linspace(0.5, 2, C).double() * C**0.5)
    return same(new(configs.DynamicIsru(), c=4.0), shape)


@identity(configs.DynamicIsru)
def dynamic_isru_starts_with_slope_one():
    layer = build(configs.DynamicIsru(), C, "none").double()
    return layer(1e-7 * images()), 1e-7 * images()


@identity(configs.PointwiseShape)
def linear_clip_is_linear_within_its_bounds():
    layer, x = new(configs.PointwiseShape(shape="linear_clip"), alpha=1.0, shift=0.0), images()
    weight, bias = layer.weight.view(-1, 1, 1), layer.bias.view(-1, 1, 1)
    return layer(x / x.abs().max()), x / x.abs().max() * weight + bias


@identity(configs.Selu, configs.NoNorm)
def selu_alone_is_nothing():
    return same(build(configs.Selu(), C, "none").double(), build(configs.NoNorm(), C, "none").double())


@identity(configs.Selu)
def selu_keeps_mean_and_variance_of_the_standard_normal():
    points = torch.from_numpy(ndtri((np.arange(600_000) + 0.5) / 600_000)).view(1, 1, 600, 1000)
    y = build(configs.Selu(), 1, "relu").double()(points)
    return torch.stack([y.mean(), y.var(correction=0)]).round(decimals=3), torch.tensor([0.0, 1.0]).double()
