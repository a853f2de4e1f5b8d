"""What every network of the study promises, whatever it is made of."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.model import ZooModel
from normhpc.models import MODELS, build
from normhpc.norms import Norm

GROUP = {"name": "group", "groups": 4}
WEIGHT_METHODS = ["weight", "weight_standardized", "scaled_weight_standardized", "weight_centering"]
PLAIN = ["none", "batch", "layer", "instance", GROUP]
SMALL = [
    *("none", "batch", "layer", {**GROUP, "indivisible": "shrink"}, {"name": "evonorm_s0", "groups": 1}, "frn_tlu"),
    *("dyt", "weight", "weight_standardized"),
]
TOKENS = ["none", "batch", "layer", "instance", GROUP, "rms", "frn", "dyt", "derf"]


@dataclass(frozen=True)
class Case:
    """A network, norms that it can take, and heights and widths of images."""

    model: dict
    norms: list
    sizes: tuple
    methods: tuple = ()
    """Methods on weights beside them."""

    def __str__(self):
        return " ".join(map(str, self.model.values()))


CASES = [
    *(
        Case(model, PLAIN, ((32, 32), (28, 28), (17, 23), (8, 40)), tuple(WEIGHT_METHODS))
        for model in (
            {"name": "convnet"},
            {"name": "resnet8"},
            {"name": "resnet14", "residual": "skipinit", "width": 4},
            {"name": "resnet8", "residual": "nf", "width": 4},
            {"name": "vgg", "widths": [8, 12, 16], "strided": [2]},
            {"name": "bbn_resnet8", "width": 8},
            {"name": "bbn_resnet8", "width": 4, "preact": True},
        )
    ),
    *(
        Case(model, SMALL, ((28, 26), (24, 31)))
        for model in (
            {"name": "era_convnet"},
            {"name": "era_convnet", "skip": False, "dropout": 0.0},
            *({"name": f"mnist_model{number}"} for number in (2, 3, 4, 5)),
            {"name": "eva_convnet"},
        )
    ),
    Case(
        {"name": "vit", "image_size": 16, "patch": 4, "depth": 2, "heads": 3, "width": 12, "mlp_width": 20},
        TOKENS,
        ((16, 16), (12, 20)),
    ),
]
every_network = pytest.mark.parametrize("case", CASES, ids=str)
with_every_norm = pytest.mark.parametrize(
    ("case", "norm"), [pytest.param(case, norm, id=f"{case} {norm}") for case in CASES for norm in case.norms]
)


def network(model, norm="batch", seed=0, **data):
    """With a random head, also where it starts at 0 and nothing is learned below it in the first step."""
    torch.manual_seed(seed)
    data = {"name": "synthetic", "images": 8, "test_images": 4, **data}
    net = build(RunConfig.model_validate({"model": model, "norm": norm, "data": data, "batch_size": 4}))
    if not net.head.weight.any():
        nn.init.normal_(net.head.weight, generator=torch.Generator().manual_seed(1))
    return net


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_these_tests_see_every_network():
    zoo = {kind for kind in MODELS if issubclass(kind, ZooModel)}
    assert {type(RunConfig.model_validate({"model": case.model}).model) for case in CASES} == set(MODELS) - zoo


@with_every_norm
def test_images_of_any_size_give_logits_and_gradients_everywhere(case, norm):
    for size in case.sizes:
        net = network(case.model, norm)
        x = images(3, 3, *size).requires_grad_()
        logits = net(x)
        assert logits.shape == (3, 10)
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() > 0
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@every_network
def test_images_and_classes_come_from_the_data(case):
    net = network(case.model, channels=5, num_classes=7)
    assert net(images(2, 5, *case.sizes[-1])).shape == (2, 7)


@every_network
def test_weights_are_a_function_of_torchs_random_state_alone(case):
    first = network(case.model, seed=3)
    random.seed(5)
    np.random.default_rng(5)
    again, other = network(case.model, seed=3), network(case.model, seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())


@every_network
def test_neither_norm_nor_method_on_weights_changes_the_initial_weights(case):
    networks = [network(case.model, norm) for norm in (*case.norms, *case.methods)]
    networks += [network({**case.model, "conv": method}) for method in case.methods]
    weights = [
        {
            f"{place}.{name}": value
            for place, module in net.named_modules()
            if not isinstance(module, Norm)
            for name, value in module.named_parameters(recurse=False)
            if name != "gain" and not (isinstance(module, nn.Conv2d) and name == "bias")
        }
        for net in networks
    ]
    layers = {
        f"{place}.weight" for place, part in networks[0].named_modules() if isinstance(part, nn.Conv2d | nn.Linear)
    }
    assert layers <= weights[0].keys()
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


@with_every_norm
def test_channels_last_gives_the_same_logits(case, norm):
    net = network(case.model, norm).eval()
    x = images(2, 3, *case.sizes[0])
    expected = net(x)
    net.to(memory_format=torch.channels_last)
    rounding = 1e-5 * max(1.0, expected.abs().max().item())  # some methods on weights give logits of hundreds
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=rounding)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"name": "convnet"}, 8),
        ({"name": "resnet8"}, 8),
        ({"name": "era_convnet", "dropout": 0.0}, 24),
        ({"name": "mnist_model4"}, 24),
        ({"name": "eva_convnet"}, 24),
        (CASES[-1].model, 16),
        (CASES[-1].model, 24),
    ],
    ids=str,
)
def test_compiled_in_one_graph(model, size):
    torch.compiler.reset()
    net = network(model)
    x = images(2, 3, size, size)
    expected = net(x)
    torch.testing.assert_close(torch.compile(net, backend="aot_eager", fullgraph=True)(x), expected)
    torch.compiler.reset()
