import re

import pytest
import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.models import build
from normhpc.models.block import ConvSlot
from normhpc.models.resnet import BasicBlock, SkipInit
from normhpc.norms import Norm, ParamSpec

NORMS = ["none", "batch", "layer", "instance", {"name": "group", "groups": 4}]
NETWORKS = [
    "convnet",
    "resnet8",
    {"name": "resnet14", "residual": "skipinit", "width": 4},
    {"name": "resnet8", "residual": "nf", "width": 4},
    {"name": "vgg", "widths": [8, 12, 16], "strided": [2]},
    {"name": "bbn_resnet8", "width": 8},
    {"name": "bbn_resnet8", "width": 4, "preact": True},
]
SMALL = {"name": "synthetic", "images": 8, "test_images": 4}


def config_of(model="convnet", norm="batch", **fields):
    return RunConfig.model_validate({"model": model, "norm": norm, "data": SMALL, "batch_size": 4, **fields})


def network(*arguments, seed=0, **fields):
    torch.manual_seed(seed)
    return build(config_of(*arguments, **fields))


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def resnet_parameters(n, width, channels, classes, norm, skipinit=False):
    """By hand: a convolution has k^2 in out weights, a norm 2 out; without norm the bias has out."""
    shift = 2 if norm else 1
    total = 9 * channels * width + shift * width
    below = width
    for stage in range(3):
        out = width * 2**stage
        for _ in range(n):
            total += 9 * below * out + 9 * out * out + 2 * shift * out + skipinit
            if below != out:
                total += below * out + shift * out
            below = out
    return total + below * classes + classes


@pytest.mark.parametrize(
    ("model", "n", "width"),
    [("resnet20", 3, 16), ("resnet56", 9, 16), ({"name": "resnet8", "width": 5}, 1, 5)],
    ids=str,
)
@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "none"])
@pytest.mark.parametrize("residual", ["plain", "skipinit"])
def test_parameters_of_resnets(model, n, width, norm, residual):
    model = {"name": model} if isinstance(model, str) else model
    found = parameters(network({**model, "residual": residual}, norm))
    assert found == resnet_parameters(n, width, 3, 10, norm != "none", residual == "skipinit")


def test_parameters_of_the_published_resnets():
    # 0.27M and 0.85M in table 6 of He et al. 2015; exact numbers for 1x1 shortcuts with batch norm.
    assert parameters(network("resnet20")) == 272_474
    assert parameters(network("resnet56")) == 855_770


@pytest.mark.parametrize(("norm", "per_channel"), [("batch", 2), ("none", 1)])
def test_parameters_of_the_convnet(norm, per_channel):
    found = parameters(network({"name": "convnet", "widths": [5, 7, 4]}, norm))
    assert found == 9 * (3 * 5 + 5 * 7 + 7 * 4) + per_channel * 16 + 4 * 10 + 10


@pytest.mark.parametrize("act", ["relu", "leaky_relu", "silu", "gelu", "tanh", "none"])
@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_the_activation_is_used_at_every_slot_but_branch_ends(model, act):
    net = network(model, act=act)
    slots = {name: slot for name, slot in net.named_modules() if isinstance(slot, Norm)}
    for name, slot in slots.items():
        end = re.search(r"conv2\.slot$|shortcut", name)
        assert slot.act == ("none" if end else act), name
    assert net(images(2, 3, 16, 16)).isfinite().all()


def test_convolutions_start_by_he_with_fan_out():
    for name, module in network("resnet56").named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06), name


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_convolution_has_a_bias_only_where_the_norm_has_no_shift(norm):
    convolutions = [part.conv for part in network("resnet8", norm).modules() if isinstance(part, ConvSlot)]
    assert len(convolutions) == 9
    for convolution in convolutions:
        assert (convolution.bias is not None) == (norm == "none")
        assert convolution.bias is None or not convolution.bias.any()


def test_a_residual_block_adds_branch_and_shortcut_before_the_activation():
    block = next(block for block in network("resnet8").modules() if isinstance(block, BasicBlock)).eval()
    x = images(2, 16, 6, 6)
    kept = x.clone()
    torch.testing.assert_close(block(x), torch.relu(block.conv2(block.conv1(x)) + x))
    assert torch.equal(x, kept)


def test_shortcuts_are_strided_1x1_convolutions_with_a_norm_where_the_width_changes():
    blocks = [block for block in network("resnet14").modules() if isinstance(block, BasicBlock)]
    changes = [isinstance(block.shortcut, ConvSlot) for block in blocks]
    assert changes == [False, False, True, False, True, False]
    for block in (blocks[2], blocks[4]):
        assert block.shortcut.conv.kernel_size == (1, 1)
        assert block.shortcut.conv.stride == (2, 2)
        assert isinstance(block.shortcut.slot, Norm)


def test_skipinit_starts_as_the_shortcut_alone():
    net = network({"name": "resnet8", "residual": "skipinit"}, "none")
    block = next(block for block in net.modules() if isinstance(block, BasicBlock))
    x = images(2, 16, 6, 6)
    assert torch.equal(block(x), torch.relu(x))
    factors = [module for module in net.modules() if isinstance(module, SkipInit)]
    assert len(factors) == 3
    assert all(module.param_specs() == {"factor": ParamSpec(decay=False)} for module in factors)


def test_groups_that_do_not_divide_a_width_are_refused():
    with pytest.raises(InputError, match=r"^norm.groups: groups 32 does not divide 16 channels"):
        network("resnet20", "group")
