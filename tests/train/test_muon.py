"""Muon for the matrices and AdamW for the rest, against torch's own on plain matrices."""

import numpy as np
import pytest
import torch
from support.steps import ALONE, ready
from torch import nn

from normhpc.config.training import Muon
from normhpc.train.optimizer import build_optimizer, set_lr
from normhpc.train.step import train_step

MATRICES = ["layers.0.conv.weight", "layers.1.conv.weight"]


def network(**changes):
    return ready(**changes)[1].model


def with_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", ["weights", "all"])
def test_twenty_steps_equal_torch_bit_for_bit(nesterov, decay):
    optim = Muon(lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=0.1, ns_steps=3, rest_lr=3e-3, decay=decay)
    model = network()
    own = build_optimizer(model, optim)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    twins = {
        name: nn.Parameter(value.flatten(1).clone() if name in MATRICES else value.clone())
        for name, value in start.items()
    }
    muon = torch.optim.Muon(
        [twins[name] for name in MATRICES], momentum=0.9, nesterov=nesterov, weight_decay=0.1, ns_steps=3
    )
    rest = [twin for name, twin in twins.items() if name not in MATRICES]
    spared = 0.1 if decay == "all" else 0.0
    groups = [{"params": [twin], "weight_decay": 0.1 if twin.ndim > 1 else spared} for twin in rest]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    for step in range(20):
        set_lr(own, 0.05 * (1 - step / 30))
        for optimizer, peak in ((muon, 1.0), (adamw, 3e-3 / 0.05)):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 - step / 30) * peak
        with_gradients(model, step)
        for name, parameter in model.named_parameters():
            twins[name].grad = parameter.grad.reshape(twins[name].shape).clone()
        own.step()
        muon.step()
        adamw.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, twins[name].view_as(parameter)), name
        assert not torch.equal(parameter, start[name]), name


def test_one_step_by_hand():
    """The first update of a matrix: its momentum is 0.05 G, and U = 0.0975 G has the directions of G at equal length."""
    model = network()
    optimizer = build_optimizer(model, Muon(lr=0.1, weight_decay=0.5))
    set_lr(optimizer, 0.1)
    before = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    with_gradients(model, 0)
    gradients = {name: parameter.grad.double().numpy() for name, parameter in model.named_parameters()}
    optimizer.step()
    for name in MATRICES:
        rows = len(before[name])
        taken = (1 - 0.1 * 0.5) * before[name] - model.get_parameter(name).detach().double().numpy()
        step = taken.reshape(rows, -1) / (0.1 * max(1, rows / (before[name].size / rows)) ** 0.5)
        left, values, right = np.linalg.svd(gradients[name].reshape(rows, -1), full_matrices=False)
        # five iterations leave singular values of 0.7 to 1.2, in bf16
        scales = np.diag(left.T @ step @ right.T)
        assert scales.min() > 0.6, name
        assert scales.max() < 1.3, name
        np.testing.assert_allclose(left @ np.diag(scales) @ right, step, atol=0.02)
        assert values.max() / values.min() > 1.3
    # AdamW's first step is the sign, times the rate of the rest
    for name in ("head.bias", "layers.0.slot.weight"):
        moved = model.get_parameter(name).detach().double().numpy() - before[name]
        np.testing.assert_allclose(moved, -1e-3 * np.sign(gradients[name]), rtol=1e-3)


def test_what_counts_as_a_matrix():
    model = network(model={"name": "resnet8", "width": 4, "residual": "skipinit"})
    groups = build_optimizer(model, Muon(weight_decay=0.5)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        (group["matrices"], group["weight_decay"]): {names[id(parameter)] for parameter in group["params"]}
        for group in groups
    }
    convolutions = {name for name in names.values() if name.endswith("conv.weight")}
    assert len(convolutions) >= 7
    assert found == {
        (True, 0.5): convolutions,
        (False, 0.5): {"head.weight"},
        (False, 0.0): set(names.values()) - convolutions - {"head.weight"},
    }
    assert {group["matrices"]: group["lr_factor"] for group in groups} == {True: 1.0, False: 1e-3 / 0.02}


def test_embeddings_and_tokens_of_a_transformer_are_the_rest():
    vit = {"name": "vit", "width": 12, "heads": 2, "depth": 1, "mlp_width": 24, "patch": 4, "image_size": None}
    model = network(model=vit, norm="layer_pixel")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]
        for group in build_optimizer(model, Muon()).param_groups
        for parameter in group["params"]
        if group["matrices"]
    }
    assert found == {
        name for name in names.values() if name.endswith(("inward.weight", "outward.weight", "patches.weight"))
    }
    assert len(found) == 5


@pytest.mark.parametrize("width", [4, 8])
def test_channels_last_changes_rounding_only(width):
    plain, other = (
        ready(
            optim={"name": "muon", "lr": 0.02},
            model={"name": "resnet8", "width": width, "channels_last": layout},
            schedule="constant",
            norm="layer",
        )
        for layout in (False, True)
    )
    for config, state, batches in (plain, other):
        train_step(state, batches, np.arange(9), config, ALONE, updates_per_epoch=4)
    fresh = dict(ready(model={"name": "resnet8", "width": width}, norm="layer")[1].model.named_parameters())
    for name, parameter in plain[1].model.named_parameters():
        theirs = other[1].model.get_parameter(name)
        # the sums of bf16 products go in another order
        torch.testing.assert_close(theirs, parameter, rtol=0, atol=0.02 * 0.05)
        assert not torch.equal(parameter, fresh[name]), name


def test_a_parameter_without_a_gradient_stays():
    model = network()
    optimizer = build_optimizer(model, Muon())
    with_gradients(model, 0)
    model.get_parameter(MATRICES[0]).grad = None
    before = model.get_parameter(MATRICES[0]).detach().clone()
    optimizer.step()
    assert torch.equal(model.get_parameter(MATRICES[0]), before)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
