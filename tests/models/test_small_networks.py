import pytest
import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.checks import FITS, findings
from normhpc.errors import InputError
from normhpc.models import build
from normhpc.models.head import BackboneWithHead
from normhpc.models.small import EraLayer, MnistLayer
from normhpc.norms import Norm
from normhpc.norms.weight import StandardizedConv

MNIST = ["mnist_model2", "mnist_model3", "mnist_model4", "mnist_model5"]
NETWORKS = ["era_convnet", {"name": "era_convnet", "skip": False, "dropout": 0.0}, *MNIST, "eva_convnet"]
LEAST = {"era_convnet": 8, "eva_convnet": 22, **dict.fromkeys(MNIST, 4)}


def config_of(model, norm="batch", data=None, **fields):
    if isinstance(norm, str) and norm.startswith("evonorm"):
        norm = {"name": norm, "groups": 1}
    return RunConfig.model_validate({"model": model, "norm": norm, "data": data or "cifar10", **fields})


def network(*arguments, seed=0, **fields):
    torch.manual_seed(seed)
    return build(config_of(*arguments, **fields))


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def name_of(model):
    return model if isinstance(model, str) else model["name"]


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("none", 47_418), ("batch", 47_818), ("layer", 47_818), ({"name": "group", "groups": 4}, 47_818)],
    ids=str,
)
@pytest.mark.parametrize("skip", [True, False])
def test_parameters_of_era_convnet(skip, norm, expected):
    assert parameters(network({"name": "era_convnet", "skip": skip}, norm)) == expected
    assert parameters(network({"name": "era_convnet", "skip": skip}, "instance")) == 47_818


@pytest.mark.parametrize(
    ("model", "norm", "expected"),
    [
        ("mnist_model2", "none", 173_866),
        ("mnist_model3", "none", 7_781),
        ("mnist_model4", "batch", 7_979),
        ("mnist_model5", "batch", 7_979),
        ("eva_convnet", "batch", 7_946),
        ("eva_convnet", "layer", 7_946),
        ("eva_convnet", {"name": "group", "group_size": 2}, 7_946),
        ("eva_convnet", "none", 7_946 - 160),
    ],
    ids=str,
)
def test_parameters_of_the_mnist_networks(model, norm, expected):
    assert parameters(network(model, norm, "mnist")) == expected


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_weights_start_by_torchs_default(model):
    """Uniform within 1 / sqrt(fan in), reached to within 10 % by the largest of hundreds."""
    for name, module in network(model).named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 300:
            bound = module.weight[0].numel() ** -0.5
            assert 0.9 * bound < module.weight.abs().max().item() <= bound, name


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_a_backbone_and_a_linear_head(model):
    net = network(model).eval()
    x = images(2, 3, 24, 24)
    assert isinstance(net, BackboneWithHead)
    features = net.features(x)
    assert features.shape == (2, net.head.in_features)
    assert torch.equal(net.head(features), net(x))


def test_a_backbone_needs_features():
    with pytest.raises(TypeError, match="abstract"):
        BackboneWithHead()


def test_maps_of_era_convnet():
    net = network("era_convnet").eval()
    shapes, x = [], images(1, 3, 32, 32)
    for layer in net.layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    block = [(24, 14, 14)] * 4, [(32, 7, 7)] * 4
    assert shapes == [(16, 30, 30), (16, 28, 28), (24, 28, 28), *block[0], (32, 14, 14), *block[1]]


def test_an_era_layer_adds_its_input_before_the_activation():
    layer = next(part for part in network("era_convnet").eval().modules() if isinstance(part, EraLayer) and part.skip)
    assert layer.slot.act == "none"
    x = images(2, 24, 6, 6)
    kept = x.clone()
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    expected = torch.relu(layer.slot(nn.functional.conv2d(padded, layer.conv.weight)) + x)
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(x, kept)


def test_skips_of_era_convnet():
    for skip, expected in ((True, [False, False] + 6 * [True]), (False, 8 * [False])):
        net = network({"name": "era_convnet", "skip": skip}, act="gelu")
        layers = [part for part in net.modules() if isinstance(part, EraLayer)]
        assert [layer.skip for layer in layers] == expected
        assert [layer.slot.act for layer in layers] == ["none" if one else "gelu" for one in expected]


@pytest.mark.parametrize(("model", "rate"), [("era_convnet", 0.01), ("mnist_model5", 0.01), ("mnist_model4", None)])
def test_dropout(model, rate):
    net = network(model)
    rates = [module.p for module in net.modules() if isinstance(module, nn.Dropout)]
    assert rates == ([] if rate is None else [rate] * (8 if model == "era_convnet" else 6))


@pytest.mark.parametrize(("model", "last"), [("mnist_model3", False), ("mnist_model4", True), ("mnist_model5", True)])
def test_norms_after_the_activation_in_mnist_models_4_and_5(model, last):
    net = network(model, act="tanh").eval()
    layers = [part for part in net.modules() if isinstance(part, MnistLayer)]
    assert [layer.slot.num_features for layer in layers] == [9, 10, 16, 16, 16, 32]
    x = images(2, 9, 6, 6)
    layer = layers[1]
    conv, pool = nn.functional.conv2d(x, layer.conv.weight, padding=1), nn.functional.max_pool2d
    expected = layer.slot(pool(torch.tanh(conv), 2)) if last else pool(layer.slot(conv), 2)
    torch.testing.assert_close(layer(x), expected)
    assert layer.slot.act == ("none" if last else "tanh")


def test_slots_of_eva_convnet():
    net = network("eva_convnet", act="silu")
    slots = [module for module in net.modules() if isinstance(module, Norm)]
    assert [(slot.num_features, slot.act) for slot in slots] == [(n, "silu") for n in (8, 8, 12, 12, 12, 12, 16)]


def findings_of(model, norm, side):
    data = {"name": "synthetic", "height": side, "width": side + 1, "images": 256, "test_images": 4}
    config = config_of(model, norm, data)
    return findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields})


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_images_that_are_too_small_are_found_when_planning(model):
    name = name_of(model)
    least = LEAST[name]
    assert findings_of(model, "batch", least) == []
    assert network(model)(images(2, 3, least, least)).shape == (2, 10)
    with pytest.raises(RuntimeError):
        network(model)(images(2, 3, least - 1, least - 1))
    assert findings_of(model, "batch", least - 1) == [
        (
            "model",
            f"{name} reduces synthetic images of {least - 1}x{least} to nothing; it needs at least {least}x{least} "
            "pixels: use larger images or another network",
        )
    ]


@pytest.mark.parametrize(("model", "side"), [("era_convnet", 8), ("era_convnet", 10), ("eva_convnet", 22)])
def test_an_instance_norm_over_single_pixels_is_found_when_planning(model, side):
    assert findings_of(model, "instance", side) == [
        (
            "norm",
            f"a norm of {model} sees synthetic images of {side}x{side + 1} as single pixels, "
            "over which an instance norm is always 0; use another norm or larger images",
        )
    ]
    with pytest.raises(InputError, match="instance norm over a single pixel"):
        network(model, "instance")(images(2, 3, side, side + 1))
    assert findings_of(model, "instance", side + 4) == []
    assert network(model, "instance")(images(2, 3, side + 4, side + 5)).shape == (2, 10)


@pytest.mark.parametrize("model", MNIST)
def test_mnist_models_refuse_instance_norms(model):
    [(path, message)] = findings_of(model, "instance", 28)
    assert path == "norm"
    assert message == (
        f"a norm of {model} sees synthetic images of 28x29 as single pixels, "
        "over which an instance norm is always 0; use another norm"
    )


@pytest.mark.parametrize(("model", "convolutions"), [("era_convnet", 10), ("mnist_model4", 6), ("eva_convnet", 7)])
def test_methods_on_weights_and_biases_reach_every_convolution(model, convolutions):
    net = network({"name": model, "conv": "weight_standardized", "conv_bias": True})
    found = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(found) == convolutions
    assert all(isinstance(module, StandardizedConv) for module in found)
    assert not any(module.bias.any() for module in found)
