"""Which layer gives the logits."""

import pytest
import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.models import build, classifier
from normhpc.models.zoo import torchvision_network

CIFAR = {"name": "synthetic", "images": 8, "test_images": 4, "height": 32, "width": 32, "num_classes": 7}
OWN = [
    *("convnet", "resnet8", "bbn_resnet56", "vgg", "era_convnet", "eva_convnet"),
    *("mnist_model2", "mnist_model3", "mnist_model4", "mnist_model5"),
    *({"name": "resnet8", "residual": residual} for residual in ("skipinit", "fixup", "nf")),
    {"name": "vit", "width": 48, "heads": 3, "image_size": None, "patch": 8},
]


@pytest.mark.parametrize("model", OWN, ids=str)
def test_it_is_the_head_of_every_network_of_the_study(model):
    norm = "none" if "fixup" in str(model) else "batch"
    network = build(RunConfig.model_validate({"model": model, "data": CIFAR, "norm": norm, "batch_size": 4}))
    assert isinstance(network.head, nn.Linear)
    assert classifier(network) is network.head


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "fc"),
        ("densenet121", "classifier"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("swin_t", "head"),
        ("vit_b_32", "heads.head"),
    ],
)
def test_in_networks_of_torchvision(name, layer):
    network = torchvision_network(name, 3, 7)
    assert classifier(network) is network.get_submodule(layer)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "fc"), ("mobilenet_v3_small", "classifier.3")])
def test_in_rewritten_networks(name, layer):
    config = {"model": f"torchvision/{name}", "norm": "layer", "data": CIFAR, "batch_size": 4}
    network = build(RunConfig.model_validate(config))
    assert classifier(network) is network.get_submodule(layer)


def test_without_any():
    assert classifier(nn.BatchNorm2d(3)) is None
    assert classifier(nn.Sequential(nn.Linear(2, 3), nn.Conv2d(3, 4, 1), nn.ReLU())).weight.shape == torch.Size(
        [4, 3, 1, 1]
    )
