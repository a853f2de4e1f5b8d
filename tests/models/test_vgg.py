"""BeyondBatchNorm's plain networks: parameter counts, layouts, groups per layer."""

import pytest
import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.problems import validate_run
from normhpc.errors import InputError
from normhpc.models import build
from normhpc.models.block import ConvSlot


def config_of(model, norm="batch", classes=100):
    data = {"name": "synthetic", "images": 8, "test_images": 4, "num_classes": classes}
    return RunConfig.model_validate({"model": model, "norm": norm, "data": data, "batch_size": 4})


def network(*arguments, **options):
    torch.manual_seed(0)
    return build(config_of(*arguments, **options))


def parameters(*arguments, **options):
    return sum(parameter.numel() for parameter in network(*arguments, **options).parameters())


@pytest.mark.parametrize(
    ("cfg", "classes", "count"),
    [
        ("cfg_10", 10, 9_413_066),
        ("cfg_10", 100, 9_459_236),
        ("cfg_20", 10, 13_324_490),
        ("cfg_20", 100, 13_370_660),
        ("cfg_40", 10, 42_387_146),
        ("cfg_40", 100, 42_433_316),
    ],
)
def test_parameters_of_beyondbatchnorm(cfg, classes, count):
    assert parameters({"name": "vgg", "cfg": cfg}, "batch", classes=classes) == count


@pytest.mark.parametrize(
    ("norm", "conv_bias", "count"),
    [
        ("none", False, 9_453_348),
        ("layer", "auto", 9_459_236),
        ("instance", "auto", 9_459_236),
        ("group", "auto", 9_459_236),
        ("evonorm_s0", "auto", 9_462_180),
        ({"name": "frn_tlu", "learn_eps": True}, "auto", 9_462_190),
        ("scaled_weight_standardized", "auto", 9_459_236),
        ({"name": "weight", "scaled_relu": True}, "auto", 9_459_236),
    ],
    ids=str,
)
def test_parameters_of_beyondbatchnorms_norms(norm, conv_bias, count):
    assert parameters({"name": "vgg", "conv_bias": conv_bias}, norm) == count


def layout(model):
    convolutions = [layer.conv for layer in network(model).layers]
    assert all(conv.kernel_size == (3, 3) and conv.padding == (1, 1) for conv in convolutions)
    return [(conv.out_channels, conv.stride[0]) for conv in convolutions]


def test_cfg_10_is_laid_out_as_published():
    assert layout("vgg") == [
        (64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2), (512, 1), (512, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cfg", "widths", "strided"),
    [
        ("cfg_20", [64] * 4 + [128] * 4 + [256] * 8 + [512] * 4, [4, 8, 12, 16]),
        ("cfg_40", [64] * 8 + [128] * 8 + [256] * 8 + [512] * 16, [8, 16, 24, 32]),
        ("uniform_7", [64] * 7, []),
    ],
)
def test_the_other_layouts(cfg, widths, strided):
    expected = [(width, 2 if number in strided else 1) for number, width in enumerate(widths, start=1)]
    assert list(config_of({"name": "vgg", "cfg": cfg}).model.layers()) == expected
    listed = config_of({"name": "vgg", "widths": widths, "strided": strided}).model
    assert listed.cfg is None
    assert list(listed.layers()) == expected


def test_it_is_slots_in_a_row_then_the_mean_and_the_head():
    net = network({"name": "vgg", "widths": [4, 6], "strided": [2]}).eval()
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    first, second = net.layers
    y = second.slot(second.conv(first.slot(first.conv(x))))
    assert y.shape == (2, 6, 5, 4)
    torch.testing.assert_close(net(x), net.head(y.mean((2, 3))))
    assert first.slot.act == "relu"
    assert not any(isinstance(module, nn.MaxPool2d | nn.Dropout) for module in net.modules())


def test_weights_start_by_he_over_fan_in():
    for layer in network("vgg").layers[3:]:
        fan_in = layer.conv.in_channels * 9
        assert layer.conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


def test_group_list_gives_each_layer_its_groups():
    model = {"name": "vgg", "widths": [8, 12, 16], "group_list": [4, 3, 16]}
    for norm in ("group", {"name": "group", "group_size": 5}, "evonorm_s0"):
        net = network(model, norm)
        assert [layer.slot.groups for layer in net.layers if isinstance(layer, ConvSlot)] == [4, 3, 16]
    assert config_of(model, "group").model.norm_widths() == ()
    assert config_of({"name": "vgg", "widths": [8, 12]}).model.norm_widths() == (8, 12)


def test_group_list_needs_groups():
    with pytest.raises(InputError, match=r"^model.group_list: batch has no groups of channels"):
        network({"name": "vgg", "widths": [8], "group_list": [4]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cfg": "cfg_11"}, "model.cfg: expected one of cfg_10, cfg_20, cfg_40, uniform_{n}, got 'cfg_11'"),
        ({"cfg": "uniform_0"}, "model.cfg: expected one of cfg_10, cfg_20, cfg_40, uniform_{n}, got 'uniform_0'"),
        ({"cfg": None}, "model: expected one of cfg and widths, got cfg=None, widths=None"),
        ({"cfg": "cfg_10", "widths": [4]}, "model: expected one of cfg and widths, got cfg=cfg_10, widths=(4,)"),
        ({"widths": []}, "model.widths: expected at least 1 value, got []"),
        ({"strided": [1]}, "model.strided: goes with widths; the strides of cfg_10 are its own"),
        ({"widths": [4, 4], "strided": [2, 1]}, "model.strided: expected ascending layers, got [2, 1]"),
        ({"widths": [4, 4], "strided": [3]}, "model.strided: expected layers from 1 to 2, got [3]"),
        (
            {"group_list": [4, 4]},
            "model.group_list: expected a number of groups for each of the 10 layers, got 2 values",
        ),
        (
            {"widths": [4, 6], "group_list": [4, 4]},
            "model.group_list[1]: 4 groups do not divide the 6 channels of the layer; what does: 1, 2, 3, 6",
        ),
        ({"conv_bias": "yes"}, "model.conv_bias: expected auto, true or false, got 'yes'"),
        (
            {"conv": "wieght"},
            "model.conv.name: no conv is called 'wieght', did you mean 'weight'? There are: plain, weight, "
            "weight_standardized, scaled_weight_standardized, weight_centering",
        ),
    ],
    ids=str,
)
def test_mistakes_name_the_field(fields, message):
    with pytest.raises(InputError) as caught:
        validate_run({"model": {"name": "vgg", **fields}})
    assert [str(problem) for problem in caught.value.problems] == [message]
