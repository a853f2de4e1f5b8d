import re

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.checks import FITS, findings
from normhpc.models import build
from normhpc.models.vit import Attention, Mlp, TokenNorm
from normhpc.norms import Norm, ParamSpec
from normhpc.train.optimizer import parameter_groups

SEED = {"name": "vit", "head_classes": 1000}
TINY = {"name": "vit", "image_size": 16, "patch": 4, "depth": 2, "heads": 3, "width": 12, "mlp_width": 20}


def config_of(model, norm="batch", data="cifar10", **fields):
    return RunConfig.model_validate({"model": model, "norm": norm, "data": data, **fields})


def network(*arguments, seed=0, **fields):
    torch.manual_seed(seed)
    return build(config_of(*arguments, **fields))


def with_a_head(net):
    """The head starts at 0, and nothing is learned below it in the first step."""
    nn.init.normal_(net.head.weight, generator=torch.Generator().manual_seed(1))
    return net


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "norm", "data", "expected"),
    [
        (SEED, "none", "cifar10", 11_393_896),
        (SEED, "batch", "cifar10", 11_403_880),
        (SEED, "layer", "cifar100", 11_403_880),
        (SEED, "instance", "cifar10", 11_403_880),
        (SEED, "group", "cifar10", 11_403_880),
        (SEED | {"norm_act": True}, {"name": "frn_tlu", "learn_eps": True}, "cifar10", 11_408_885),
        (SEED | {"norm_act": True}, "evonorm_s0", "cifar10", 11_408_872),
        ("vit", "batch", "cifar10", 11_022_730),
        ("vit", "batch", "cifar100", 11_057_380),
    ],
    ids=str,
)
def test_parameters_of_the_seed_study(model, norm, data, expected):
    assert parameters(network(model, norm, data)) == expected


def test_initial_weights():
    net = network("vit")
    patches = net.tokens.patches.weight
    bound = (3 * 16 * 16) ** -0.5
    assert patches.std().item() == pytest.approx(bound, rel=0.02)
    assert net.tokens.positions.shape == (1, 197, 384)
    assert net.tokens.positions.std().item() == pytest.approx(0.02, rel=0.02)
    for part in net.modules():
        if isinstance(part, Attention):
            assert part.inward.weight.abs().max().item() == pytest.approx((6 / (384 + 3 * 384)) ** 0.5, rel=0.001)
            assert part.outward.weight.abs().max().item() == pytest.approx(384**-0.5, rel=0.001)
            assert not part.inward.bias.any()
            assert not part.outward.bias.any()
        if isinstance(part, Mlp):
            for linear in (part.inward, part.outward):
                assert linear.weight.abs().max().item() == pytest.approx((6 / (384 + 1536)) ** 0.5, rel=0.001)
                assert linear.bias.std().item() == pytest.approx(1e-6, rel=0.15)
    for zeros in (net.tokens.patches.bias, net.tokens.class_token, net.head.weight, net.head.bias):
        assert not zeros.any()


def by_torch(net, x):
    """The same network of torch's own encoder layers, with layer norm per token."""
    x = net.tokens(x)
    for block in net.blocks:
        width, heads = x.shape[2], block.attention.heads
        layer = nn.TransformerEncoderLayer(
            width, heads, block.mlp.inward.out_features, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.attention.inward.weight,
                "self_attn.in_proj_bias": block.attention.inward.bias,
                "self_attn.out_proj.weight": block.attention.outward.weight,
                "self_attn.out_proj.bias": block.attention.outward.bias,
                "linear1.weight": block.mlp.inward.weight,
                "linear1.bias": block.mlp.inward.bias,
                "linear2.weight": block.mlp.outward.weight,
                "linear2.bias": block.mlp.outward.bias,
                "norm1.weight": block.norm1.slot.weight,
                "norm1.bias": block.norm1.slot.bias,
                "norm2.weight": block.norm2.slot.weight,
                "norm2.bias": block.norm2.slot.bias,
            }
        )
        x = layer(x)
    last = net.norm.slot
    return net.head(nn.functional.layer_norm(x, x.shape[2:], last.weight, last.bias, 1e-6)[:, 0])


def test_with_layer_norm_per_token_it_is_torchs_encoder():
    net = with_a_head(network(TINY, "layer_pixel"))
    for name, parameter in net.named_parameters():
        if "slot" in name:
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    x = images(2, 3, 16, 16)
    torch.testing.assert_close(net(x), by_torch(net, x), rtol=1e-4, atol=1e-5)


def token_norm_of(norm):
    return next(module for module in network(TINY, norm).modules() if isinstance(module, TokenNorm))


def test_layer_pixel_is_torchs_layer_norm_per_token():
    x = images(2, 7, 12) * 3 + 1
    expected = nn.functional.layer_norm(x, (12,), eps=1e-6)
    torch.testing.assert_close(token_norm_of("layer_pixel")(x), expected)


def test_layer_norm_sees_all_tokens_of_an_image():
    x = images(2, 7, 12) * 3 + 1
    expected = nn.functional.layer_norm(x, (7, 12), eps=1e-5)
    torch.testing.assert_close(token_norm_of("layer")(x), expected)


def test_instance_norm_sees_each_channel_over_the_tokens():
    x = images(2, 7, 12) * 3 + 1
    expected = nn.functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(token_norm_of("instance")(x), expected)


def test_batch_norm_sees_each_channel_over_images_and_tokens():
    x = images(2, 7, 12) * 3 + 1
    expected = nn.functional.batch_norm(x.reshape(14, 12), None, None, training=True).reshape(2, 7, 12)
    torch.testing.assert_close(token_norm_of("batch")(x), expected)


@pytest.mark.parametrize("norm", ["rms", "dyt", "derf"])
def test_norms_of_single_positions_keep_tokens_apart(norm):
    layer = token_norm_of(norm)
    x = images(2, 7, 12)
    alone = torch.cat([layer(x[:, place : place + 1]) for place in range(7)], dim=1)
    torch.testing.assert_close(layer(x), alone)


def test_a_slot_sees_tokens_without_a_copy():
    seen = []
    layer = token_norm_of("batch")
    layer.slot.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = images(2, 7, 12)
    y = layer(x)
    assert seen[0].shape == (2, 12, 7, 1)
    assert seen[0].data_ptr() == x.data_ptr()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert y.is_contiguous()


@pytest.mark.parametrize(
    ("norm", "norm_act", "owns"),
    [
        ("batch", False, False),
        ("batch", True, False),
        ("frn_tlu", False, False),
        ("frn_tlu", True, True),
        ({"name": "evonorm_s0", "groups": 4}, False, False),
        ({"name": "evonorm_s0", "groups": 4}, True, True),
    ],
    ids=str,
)
def test_norms_stand_alone_but_may_keep_a_nonlinearity_of_their_own(norm, norm_act, owns):
    net = network(TINY | {"norm_act": norm_act}, norm)
    slots = [module for module in net.modules() if isinstance(module, Norm)]
    assert len(slots) == 5
    assert all(slot.owns_act == owns for slot in slots)
    x = images(2, 12, 5, 1)
    if not owns:
        assert all(slot.act == "none" for slot in slots)
        assert (slots[0](x) < 0).any()
    assert with_a_head(net)(images(2, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize(("mlp_act", "expected"), [("gelu", "gelu"), ("silu", "silu"), (None, "tanh")])
def test_activation_of_the_mlp(mlp_act, expected):
    net = network(TINY | {"mlp_act": mlp_act}, act="tanh")
    assert [part.act.act for part in net.modules() if isinstance(part, Mlp)] == [expected] * 2


def test_dropout():
    net = network(TINY | {"dropout": 0.5}, "none")
    assert [part.p for part in net.modules() if isinstance(part, nn.Dropout)] == [0.5] * 5
    ones = torch.ones(1, 200, 12)
    torch.manual_seed(0)
    part = net.blocks[0].mlp
    assert (part(ones) == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not (part.eval()(ones) == 0).any()


def test_images_are_resized_bilinearly():
    net = with_a_head(network(TINY | {"image_size": 24})).eval()
    x = images(2, 3, 16, 20)
    larger = nn.functional.interpolate(x, (24, 24), mode="bilinear")
    assert torch.equal(net(x), net(larger))


def test_image_size_null_takes_that_of_the_data():
    data = {"name": "synthetic", "channels": 2, "height": 8, "width": 20, "num_classes": 7, "images": 256}
    net = network(TINY | {"image_size": None}, data=data)
    assert net.tokens.positions.shape == (1, 1 + 2 * 5, 12)
    assert net(images(2, 2, 8, 20)).shape == (2, 7)


def test_class_token_and_patches_in_order():
    net = network(TINY, "none")
    x = images(2, 3, 16, 16)
    tokens = net.tokens(x) - net.tokens.positions
    assert not tokens[:, 0].any()
    patch = x[:, :, 4:8, 8:12].flatten(1)
    weight = net.tokens.patches.weight.flatten(1)
    torch.testing.assert_close(tokens[:, 1 + 4 * 1 + 2], patch @ weight.T, rtol=1e-4, atol=1e-5)


def test_no_weight_decay_on_token_and_embedding():
    config = config_of(TINY, optim={"name": "sgd", "lr": 0.1, "weight_decay": 0.1})
    net = build(config)
    assert net.tokens.param_specs() == {"class_token": ParamSpec(), "positions": ParamSpec()}
    spared = [group["params"] for group in parameter_groups(net, config.optim) if group["weight_decay"] == 0]
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {"tokens.class_token", "tokens.positions"} <= {names[id(parameter)] for parameter in spared[0]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"width": 10, "heads": 4}, "heads: 4 do not divide the 10 channels of width; what does: 1, 2, 5, 10"),
        ({"image_size": 32, "patch": 12}, "patch: 12 does not divide image_size 32; nearest sizes that it divides: 24"),
        ({"image_size": 8, "patch": 12}, "patch: 12 does not divide image_size 8; nearest sizes that it divides: 12"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(fields, expected):
    with pytest.raises(ValidationError, match=re.escape(expected)):
        config_of({"name": "vit", **fields})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "vit"}, []),
        ({"name": "vit", "image_size": None}, []),
        (
            {"name": "vit", "image_size": None, "patch": 12},
            [
                (
                    "model.patch",
                    "12 does not divide cifar100 images of 32x32; what does: 1, 2, 4, 8, 16, 32; "
                    "or give image_size, to which images are resized",
                )
            ],
        ),
        (
            {"name": "vit", "head_classes": 10},
            [
                (
                    "model.head_classes",
                    "expected at least the 100 classes of cifar100, or null for as many, got 10",
                )
            ],
        ),
    ],
    ids=str,
)
def test_what_is_found_when_planning(model, expected):
    config = config_of(model, "instance", "cifar100")
    assert findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields}) == expected


@pytest.mark.parametrize(
    ("model", "norm", "expected"),
    [
        (
            "vit",
            "weight",
            ("norm", "weight is a method on convolutions, and no slot of vit follows one; use another norm"),
        ),
        (
            {"name": "vit", "conv": "weight_centering"},
            "batch",
            (
                "model.conv",
                "weight_centering is a method on convolutions, and no slot of vit follows one; expected plain",
            ),
        ),
    ],
    ids=str,
)
def test_methods_on_weights_are_refused_when_planning(model, norm, expected):
    config = config_of(model, norm, "cifar10")
    assert findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields}) == [expected]


@pytest.mark.parametrize(("conv_bias", "fewer"), [("auto", 0), (True, 0), (False, 12)])
def test_bias_of_the_patches(conv_bias, fewer):
    assert parameters(network(TINY | {"conv_bias": conv_bias})) == parameters(network(TINY)) - fewer


def test_an_activation_that_is_not_used_is_refused_when_planning():
    config = RunConfig.model_validate({"model": "vit", "act": "tanh", "data": "cifar10"})
    assert findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields}) == [
        (
            "act",
            "vit uses gelu, its mlp_act, inside its blocks and no other; leave act at its default or set "
            "model.mlp_act: null, got tanh",
        )
    ]
