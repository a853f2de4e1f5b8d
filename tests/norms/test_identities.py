"""Norms against each other, and against worked numbers."""

import pytest
import torch
from support.norm_identities import IDENTITIES, images, new

from normhpc.config import norm as configs
from normhpc.norms import build

P_GROUPING = (1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.0000001, 8, 16, 32, 64)
WIDTHS = (32, 64, 128, 512)


@pytest.mark.parametrize(("identity", "about"), IDENTITIES, ids=lambda value: getattr(value, "__name__", ""))
def test_identity(identity, about):
    one, other = identity()
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [configs.EvoNormB1(), *(kind(groups=2) for kind in (configs.EvoNormS0, configs.EvoNormS1, configs.EvoNormS2))],
    ids=repr,
)
def test_the_other_evonorms_do_change_with_scale(config):
    layer = new(config, "relu", bias=torch.zeros(6))
    change = (layer(100 * images()) - layer(images())).abs().max() / layer(images()).abs().max()
    assert 0.02 < change < 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("p", P_GROUPING)
def test_groups_of_the_rule_of_beyondbatchnorm(p, width):
    wanted = {1: width, 1e-7: 1}.get(p, p if p > 1 else round(width * p))
    groups = configs.GroupNorm(p_grouping=p).groups_of(width)
    assert groups == (wanted if width % wanted == 0 else None)
    if groups is not None:
        x = torch.randn(2, width, 2, 2, dtype=torch.float64)
        found = build(configs.GroupNorm(p_grouping=p), width, "none").double()(x)
        expected = torch.nn.functional.group_norm(x, groups)
        torch.testing.assert_close(found, expected)


def test_the_table_of_groups_of_beyondbatchnorm():
    found = {p: [configs.GroupNorm(p_grouping=p).groups_of(width) for width in WIDTHS] for p in P_GROUPING}
    assert found == {
        1: [32, 64, 128, 512],
        0.5: [16, 32, 64, 256],
        0.25: [8, 16, 32, 128],
        0.125: [4, 8, 16, 64],
        0.0625: [2, 4, 8, 32],
        0.03125: [1, 2, 4, 16],
        1e-7: [1, 1, 1, 1],
        8: [8, 8, 8, 8],
        16: [16, 16, 16, 16],
        32: [32, 32, 32, 32],
        64: [None, 64, 64, 64],
    }


def test_the_gate_is_projected_after_a_step_and_learns_faster():
    layer = build(configs.BatchInstanceNorm(gate_init=0.5, gate_lr_factor=7.0), 4)
    assert layer.param_specs()["gate"].lr_factor == 7.0
    assert layer.param_specs()["weight"].lr_factor == 1.0
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([-0.5, 0.0, 0.25, 1.5]))
    layer.post_step()
    assert layer.gate.tolist() == [0, 0, 0.25, 1]


def test_the_gate_learns_from_either_bound():
    for start in (0.0, 1.0):
        layer = build(configs.BatchInstanceNorm(gate_init=start), 6)
        optimizer, before = torch.optim.SGD(layer.parameters(), lr=0.1), layer.gate.detach().clone()
        layer(images().float()).square().mul(images(seed=1).float()).sum().backward()
        optimizer.step()
        layer.post_step()
        assert (layer.gate != before).any()
        assert layer.gate.min() >= 0
        assert layer.gate.max() <= 1


def test_a_gate_that_does_not_train_is_part_of_the_state_only():
    layer = build(configs.BatchInstanceNorm(gate_init=0.25, train_gate=False), 4)
    assert "gate" not in dict(layer.named_parameters())
    assert "gate" not in layer.param_specs()
    assert layer.state_dict()["gate"].tolist() == [0.25] * 4


# The cells of a worksheet of EVA6-Group-15/dl-normalization, "Layer N".
WORKED = torch.tensor(
    [
        [[-2, -3, 2, -1], [-3, 3, 1, -2], [-2, 0, 0, 2], [-3, -3, 0, -1]],
        [[-1, -2, 3, 1], [1, -3, 2, 0], [-1, -2, 2, 3], [-2, 2, 1, 3]],
        [[0, 1, -2, 0], [2, -3, -3, 0], [1, -1, -1, -1], [3, -2, -3, -1]],
        [[1, 0, -1, -2], [2, 2, -2, 0], [-3, 1, -3, 3], [0, -3, 1, -1]],
    ],
    dtype=torch.float64,
).view(4, 4, 2, 2)


@pytest.mark.parametrize(
    ("config", "means", "variances"),
    [
        (
            configs.BatchNorm(),
            torch.tensor([-0.375, -0.1875, -0.125, -0.5625]).view(1, 4, 1, 1),
            torch.tensor([2.609375, 4.40234375, 3.609375, 4.12109375]).view(1, 4, 1, 1),
        ),
        (
            configs.LayerNorm(),
            torch.tensor([-0.75, 0.4375, -0.625, -0.3125]).view(4, 1, 1, 1),
            torch.tensor([3.6875, 3.87109375, 2.984375, 3.46484375]).view(4, 1, 1, 1),
        ),
        (
            configs.GroupNorm(groups=2),
            torch.tensor([-0.625, -0.875, 0.125, 0.75, -0.625, -0.625, 0, -0.625])
            .view(4, 2)
            .repeat_interleave(2, 1)
            .view(4, 4, 1, 1),
            torch.tensor([4.734375, 2.609375, 3.609375, 3.9375, 2.984375, 2.984375, 2.25, 4.484375])
            .view(4, 2)
            .repeat_interleave(2, 1)
            .view(4, 4, 1, 1),
        ),
    ],
    ids=["batch", "layer", "group"],
)
def test_worked_example(config, means, variances):
    layer = build(config, 4, "none").double()
    expected = (WORKED - means.double()) / (variances.double() + 1e-5).sqrt()
    torch.testing.assert_close(layer(WORKED), expected, rtol=1e-9, atol=1e-9)
    if isinstance(config, configs.BatchNorm):
        torch.testing.assert_close(layer.running_mean, 0.1 * means.double().flatten())
        torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variances.double().flatten() * 16 / 15)
