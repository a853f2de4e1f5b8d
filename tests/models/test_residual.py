"""How the blocks of a ResNet add their branch: ReZero, Fixup, normalizer-free; and what the weights may combine."""

import contextlib

import pytest
import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.checks import FITS, findings
from normhpc.config.training import Sgd
from normhpc.errors import InputError
from normhpc.models import build
from normhpc.models.block import SkipInit
from normhpc.models.fixup import FixupBlock, ScalarBias
from normhpc.models.nf_resnet import NfBlock
from normhpc.models.resnet import BasicBlock
from normhpc.norms import ParamSpec
from normhpc.norms.weight import CentredConv, ScaledStandardizedConv, StandardizedConv, WeightNormConv
from normhpc.train.optimizer import parameter_groups

NF = "scaled_weight_standardized"


def config_of(model, norm="none", **fields):
    data = {"name": "synthetic", "images": 8, "test_images": 4}
    return RunConfig.model_validate({"model": model, "norm": norm, "data": data, "batch_size": 4, **fields})


def network(residual, norm="none", name="resnet14", **fields):
    torch.manual_seed(0)
    return build(config_of({"name": name, "residual": residual, **fields}, norm))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def of_type(net, kind):
    return [module for module in net.modules() if isinstance(module, kind)]


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_rezero_is_skipinit(norm):
    x = images(2, 3, 8, 8)
    nets = [network(residual, norm) for residual in ("rezero", "skipinit")]
    for net in nets:
        assert len(of_type(net, SkipInit)) == 6
        for scalar in of_type(net, SkipInit):
            scalar.factor.data.fill_(0.7)
    assert torch.equal(nets[0](x), nets[1](x))


def test_fixup_parameters():
    # By hand: convolutions without bias, 5 scalars a block, one behind the stem and one before the head.
    convolutions = 9 * (3 * 16 + 4 * 16**2 + 16 * 32 + 3 * 32**2 + 32 * 64 + 3 * 64**2)
    assert parameters(network("fixup")) == convolutions + 5 * 6 + 2 + 64 * 10 + 10


def test_fixup_starts_with_zero_logits_and_silent_branches():
    net = network("fixup")
    x = images(2, 3, 9, 8)
    assert not net(x).any()
    block = of_type(net, FixupBlock)[0]
    x = images(2, 16, 9, 8)
    assert torch.equal(block(x), torch.relu(x))


@pytest.mark.parametrize(("name", "count"), [("resnet14", 6), ("resnet56", 27)])
def test_fixup_scales_the_first_weights_of_each_branch(name, count):
    net = network("fixup", name=name, width=32)
    for block in of_type(net, FixupBlock):
        fan_out = 9 * block.conv1.out_channels
        assert block.conv1.weight.std().item() == pytest.approx((2 / fan_out / count) ** 0.5, rel=0.03)
        assert not block.conv2.weight.any()
    assert net.stem.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.1)
    assert not net.head.weight.any()


def test_a_fixup_block_is_the_formula():
    block = of_type(network("fixup"), FixupBlock)[2]
    with torch.no_grad():
        for number, parameter in enumerate(block.parameters()):
            if parameter.ndim == 0:
                parameter.fill_(0.1 * (number + 1))
        nn.init.normal_(block.conv2.weight, std=0.1)
    x = images(2, 16, 9, 8)
    kept = x.clone()
    b1, b2, b3, b4 = (bias.bias for bias in (block.bias1, block.bias2, block.bias3, block.bias4))
    inner = torch.relu(nn.functional.conv2d(x + b1, block.conv1.weight, stride=2, padding=1) + b2) + b3
    branch = block.factor * nn.functional.conv2d(inner, block.conv2.weight, padding=1) + b4
    half = nn.functional.avg_pool2d(x + b1, 1, stride=2)
    shortcut = torch.cat([half, torch.zeros_like(half)], dim=1)
    torch.testing.assert_close(block(x), torch.relu(branch + shortcut))
    assert torch.equal(x, kept)


def test_fixups_scalars_learn_at_a_tenth_of_the_rate_without_decay():
    net = network("fixup")
    groups = parameter_groups(net, Sgd(weight_decay=0.1))
    slow = [group for group in groups if group["lr_factor"] == 0.1]
    assert [group["weight_decay"] for group in slow] == [0.0]
    scalars = {id(parameter) for parameter in net.parameters() if parameter.ndim == 0}
    assert {id(parameter) for parameter in slow[0]["params"]} == scalars
    assert len(scalars) == 5 * 6 + 2
    assert ScalarBias().param_specs() == {"bias": ParamSpec(lr_factor=0.1)}


@pytest.mark.parametrize("size", [(9, 8), (17, 23), (32, 32)], ids=str)
def test_fixup_learns(size):
    net = network("fixup")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    labels, x = torch.tensor([0, 1, 2]), images(3, 3, *size)
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] == pytest.approx(2.302585, abs=1e-5)
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_fixup_needs_no_norm_and_plain_weights():
    def found(model, norm):
        config = config_of({"name": "resnet8", "residual": "fixup", **model}, norm)
        return findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields})

    assert found({}, "none") == []
    assert found({}, "batch") == [
        ("norm", "model.residual fixup replaces norms by its initial weights: expected none, got batch")
    ]
    assert found({"conv": "weight"}, "none") == [
        ("model.conv", "model.residual fixup starts a convolution of each branch at 0: expected plain, got weight")
    ]


@pytest.mark.parametrize(
    ("norm", "conv", "expected"),
    [
        (NF, "plain", []),
        ("none", NF, []),
        ("none", "plain", []),
        ("batch", "plain", [("norm", "{}, or none for an ablation, got batch")]),
        ("dyt", NF, [("norm", "{}, or none for an ablation, got dyt")]),
        ("weight_standardized", "plain", [("norm", "{}, or none for an ablation, got weight_standardized")]),
        ("none", "weight", [("model.conv", "{} or plain, got weight")]),
    ],
)
def test_nf_expects_its_weights_and_no_norm(norm, conv, expected):
    config = config_of({"name": "resnet8", "residual": "nf", "conv": conv}, norm)
    needs = "model.residual nf divides by the deviations that signals have without norms: expected " + NF
    assert findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields}) == [
        (path, message.format(needs)) for path, message in expected
    ]


def test_nf_blocks_divide_by_the_deviation_that_grows_by_alpha_and_starts_anew_each_stage():
    betas = [block.beta for block in of_type(network("nf", NF, name="resnet20"), NfBlock)]
    variances = [1, 1.04, 1.08, 1.12, 1.04, 1.08, 1.12, 1.04, 1.08]
    assert betas == pytest.approx([variance**-0.5 for variance in variances])


@pytest.mark.parametrize("number", [1, 2])
def test_an_nf_block_is_the_formula(number):
    block = of_type(network("nf", NF), NfBlock)[number]
    block.gain.factor.data.fill_(0.6)
    x = images(2, block.conv1.in_channels, 9, 8)
    kept = x.clone()
    inner = torch.relu(block.beta * x)
    shortcut = x if number == 1 else block.shortcut(inner)
    expected = shortcut + 0.2 * 0.6 * block.conv2(torch.relu(block.conv1(inner)))
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, kept)
    assert (block.shortcut is None) == (number == 1)


def test_nf_starts_as_its_shortcuts():
    net = network("nf", NF)
    x = images(2, 16, 9, 8)
    assert torch.equal(of_type(net, NfBlock)[0](x), x)
    assert all(block.gain.factor == 0 for block in of_type(net, NfBlock))
    assert len(of_type(net, ScaledStandardizedConv)) == 15
    assert all(conv.bias is not None for conv in of_type(net, ScaledStandardizedConv))


def test_nf_keeps_the_variance_that_it_expects():
    net = network("nf", {"name": NF, "gamma": "exact"}, name="resnet20", width=64)
    for scalar in of_type(net, SkipInit):
        scalar.factor.data.fill_(1.0)
    generator = torch.Generator().manual_seed(0)
    # The stem is no part of it: its three inputs are no sum of many, and its gamma expects an activation.
    x = torch.randn(4, 64, 32, 32, generator=generator)
    with torch.no_grad():
        for block in net.blocks:
            assert (block.beta * x).var(dim=(0, 2, 3)).mean().item() == pytest.approx(1, rel=0.2)
            x = block(x)


def test_nf_parameters():
    # By hand: 15 convolutions with weight, bias and gain, a scalar for each of 6 blocks, the head.
    weights = 9 * (3 * 16 + 4 * 16**2 + 16 * 32 + 3 * 32**2 + 32 * 64 + 3 * 64**2) + 16 * 32 + 32 * 64
    outputs = 16 + 4 * 16 + 5 * 32 + 5 * 64
    assert parameters(network("nf", NF)) == weights + 2 * outputs + 6 + 64 * 10 + 10


@pytest.mark.parametrize(
    ("residual", "norm"), [("nf", NF), ("nf", "none"), ("fixup", "none"), ("rezero", "none")], ids=str
)
def test_compiled_in_one_graph(residual, norm):
    torch.compiler.reset()
    net = network(residual, norm, name="resnet8")
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(torch.compile(net, backend="aot_eager", fullgraph=True)(x), net(x))
    torch.compiler.reset()


# Parameters of Normalizations-in-Deep-Learning, whose convolutions all have a bias.
@pytest.mark.parametrize("norm", ["batch", "layer", "instance", {"name": "group", "group_size": 4}], ids=str)
@pytest.mark.parametrize(("n", "count"), [(1, 78_378), (2, 175_818), (3, 273_258), (9, 857_898)])
def test_parameters_with_biases_everywhere(n, count, norm):
    assert parameters(network("plain", norm, name=f"resnet{6 * n + 2}", conv_bias=True)) == count


@pytest.mark.parametrize(("n", "count"), [(1, 77_706), (2, 174_698), (3, 271_690), (9, 853_642)])
def test_parameters_without_norm(n, count):
    assert parameters(network("plain", "none", name=f"resnet{6 * n + 2}", conv_bias=True)) == count


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_bias_decides_over_the_norm(norm, bias):
    convolutions = of_type(network("plain", norm, conv_bias=bias), nn.Conv2d)
    assert len(convolutions) == 15
    assert all((conv.bias is not None) == bias for conv in convolutions)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("weight", WeightNormConv),
        ("weight_standardized", StandardizedConv),
        (NF, ScaledStandardizedConv),
        ("weight_centering", CentredConv),
    ],
)
def test_a_method_on_weights_is_a_norm_of_its_own_or_goes_with_any_other(method, kind):
    alone = network("plain", method)
    beside = network("plain", "batch", conv=method)
    for net, bias in ((alone, True), (beside, False)):
        convolutions = of_type(net, nn.Conv2d)
        assert len(convolutions) == 15
        assert all(type(conv) is kind for conv in convolutions)
        assert all((conv.bias is not None) == bias for conv in convolutions)
    assert {type(block.conv1.slot).__name__ for block in of_type(alone, BasicBlock)} == {"WeightSlot"}
    assert {type(block.conv1.slot).__name__ for block in of_type(beside, BasicBlock)} == {"Batch"}


def test_weight_norm_does_not_change_what_a_network_starts_as():
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(network("plain", "weight")(x), network("plain", "none")(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_the_activations_gamma_reaches_the_filters(act):
    torch.manual_seed(0)
    net = build(config_of("convnet", {"name": NF, "gamma": "exact"}, act=act))
    assert {conv.gamma for conv in of_type(net, ScaledStandardizedConv)} == {
        {"relu": 1.7128585504496627, "silu": 1.787187222100442}[act]
    }


@pytest.mark.parametrize(
    ("norm", "conv", "found"),
    [
        ("batch", "plain", []),
        ("weight", "plain", []),
        ("weight", "weight", []),
        ("batch", "weight_centering", []),
        (
            "weight",
            "weight_centering",
            [
                (
                    "model.conv",
                    "weight_centering and the norm weight are different methods on the same weights; "
                    "leave conv plain, or give conv the method and norm another norm",
                )
            ],
        ),
        (
            "batch",
            {"name": "weight", "scaled_relu": True},
            [
                (
                    "model.conv.scaled_relu",
                    "the activation belongs to the norm's slot, which is batch; "
                    "use norm: {name: weight, scaled_relu: true}",
                )
            ],
        ),
    ],
    ids=str,
)
def test_two_methods_on_the_same_weights_are_refused(norm, conv, found):
    config = config_of({"name": "convnet", "conv": conv}, norm)
    assert findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields}) == found


PIXELS = [
    ("convnet", (2, 2), True),
    ("convnet", (2, 3), True),
    ("convnet", (3, 3), True),
    ("convnet", (4, 5), False),
    ("resnet8", (4, 4), True),
    ("resnet8", (5, 5), False),
    ("resnet8", (4, 64), False),
    ("resnet8", (1, 5), False),
    ({"name": "bbn_resnet8", "width": 4}, (4, 4), True),
    ({"name": "bbn_resnet8", "width": 4, "preact": True}, (3, 5), False),
    ({"name": "vgg", "widths": [8, 12, 16], "strided": [1, 2]}, (4, 3), True),
    ({"name": "vgg", "widths": [8, 12, 16], "strided": [1, 2]}, (4, 5), False),
    ({"name": "vgg", "cfg": "uniform_5"}, (2, 1), False),
]


@pytest.mark.parametrize(("model", "size", "single"), PIXELS, ids=str)
def test_instance_norm_needs_more_than_single_pixels(model, size, single):
    height, width = size
    data = {"name": "synthetic", "images": 8, "test_images": 4, "height": height, "width": width}
    config = RunConfig.model_validate({"model": model, "norm": "instance", "data": data, "batch_size": 4})
    found = findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields})
    message = (
        f"a norm of {config.model.name} sees synthetic images of {height}x{width} as single pixels, "
        "over which an instance norm is always 0; use another norm or larger images"
    )
    assert ("norm", message) in found if single else "norm" not in dict(found)
    # and what the network itself does
    with pytest.raises(InputError, match="instance norm over a single pixel") if single else contextlib.nullcontext():
        build(config)(images(2, 3, height, width))
