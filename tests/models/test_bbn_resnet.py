"""BeyondBatchNorm's residual network: parameter counts and the formulas of its blocks."""

import pytest
import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.problems import validate_run
from normhpc.errors import InputError
from normhpc.models import build
from normhpc.models.bbn_resnet import PostactBlock, PreactBlock, Threshold
from normhpc.norms import Norm, ParamSpec

FRN = {"name": "frn_tlu", "learn_eps": True}


def config_of(model, norm="batch", classes=100, **fields):
    data = {"name": "synthetic", "images": 8, "test_images": 4, "num_classes": classes}
    return RunConfig.model_validate({"model": model, "norm": norm, "data": data, "batch_size": 4, **fields})


def network(*arguments, **options):
    torch.manual_seed(0)
    return build(config_of(*arguments, **options))


def small(norm="batch", **fields):
    return network({"name": "bbn_resnet8", "width": 4, **fields}, norm)


def parameters(*arguments, **options):
    return sum(parameter.numel() for parameter in network(*arguments, **options).parameters())


def blocks_of(net):
    return [block for block in net.modules() if isinstance(block, PostactBlock | PreactBlock)]


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("norm", "fields", "count"),
    [
        ("none", {"conv_bias": False}, 3_497_412),
        ("batch", {}, 3_505_924),
        ("layer", {}, 3_505_924),
        ("instance", {}, 3_505_924),
        ("group", {}, 3_505_924),
        ("scaled_weight_standardized", {}, 3_505_924),
        ({"name": "weight", "scaled_relu": True}, {"joint_slot": "after_sum"}, 3_505_924),
        (FRN, {"joint_slot": "after_sum"}, 3_510_045),
        ("evonorm_s0", {"joint_slot": "after_sum", "conv_bias": False}, 3_509_604),
    ],
    ids=str,
)
@pytest.mark.parametrize(("residual", "more"), [("plain", 0), ("skipinit", 27)])
def test_parameters_of_beyondbatchnorm(norm, fields, count, residual, more):
    assert parameters({"name": "bbn_resnet56", "residual": residual, **fields}, norm) == count + more


def test_parameters_for_10_classes():
    assert parameters("bbn_resnet56", classes=10) == 3_494_314


def test_it_has_57_convolutions_and_norms():
    net = network("bbn_resnet56")
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 57
    assert {conv.kernel_size for conv in convolutions} == {(3, 3)}
    assert sum(isinstance(module, Norm) for module in net.modules()) == 57
    assert [conv.stride for conv in convolutions].count((2, 2)) == 4


def test_weights_start_by_he_over_fan_in():
    for block in blocks_of(network("bbn_resnet56"))[10:]:
        fan_in = block.conv1.conv.in_channels * 9
        assert block.conv1.conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


def test_a_block_activates_the_sum():
    block = blocks_of(small().eval())[1]
    x = images(2, 4, 7, 6)
    kept = x.clone()
    first, second, shortcut = block.conv1, block.conv2, block.shortcut
    assert (first.slot.act, second.slot.act, shortcut.slot.act) == ("relu", "none", "none")
    branch = second.slot(second.conv(first.slot(first.conv(x))))
    torch.testing.assert_close(block(x), torch.relu(branch + shortcut.slot(shortcut.conv(x))))
    assert torch.equal(x, kept)


def test_with_act_before_sum_nothing_follows_the_sum():
    block = blocks_of(small(act_before_sum=True, residual="skipinit").eval())[0]
    block.scale.factor.data.fill_(0.3)
    x = images(2, 4, 7, 6)
    branch = torch.relu(block.conv2.slot.normalize(block.conv2.conv(block.conv1(x))))
    torch.testing.assert_close(block(x), 0.3 * branch + x)


def test_preact_blocks_normalize_before_they_convolve():
    net = small(preact=True, residual="skipinit").eval()
    block = blocks_of(net)[1]
    block.scale.factor.data.fill_(0.3)
    x = images(2, 4, 7, 6)
    kept = x.clone()
    norm, conv = block.shortcut
    branch = block.conv2(block.slot2(block.conv1(block.slot1(x))))
    assert (block.slot1.act, block.slot2.act, norm.act) == ("relu", "relu", "none")
    torch.testing.assert_close(block(x), 0.3 * branch + conv(norm(x)))
    assert torch.equal(x, kept)
    assert (norm.num_features, conv.stride, conv.kernel_size) == (4, (2, 2), (3, 3))
    assert isinstance(blocks_of(net)[0].shortcut, nn.Identity)


def test_preact_nets_end_without_a_norm():
    net = small(preact=True).eval()
    x = images(2, 3, 8, 8)
    y = net.stem(x)
    for block in net.blocks:
        y = block(y)
    torch.testing.assert_close(net(x), net.head(y.mean((2, 3))))
    assert y.min() < 0


def test_evonorm_after_the_sum_leaves_branch_and_shortcut_without_norm():
    block = blocks_of(small({"name": "evonorm_s0", "groups": 2}, joint_slot="after_sum"))[1]
    x = images(2, 4, 7, 6)
    branch = block.conv2.conv(block.conv1(x))
    torch.testing.assert_close(block(x), block.end(branch + block.shortcut.conv(x)))
    assert type(block.end) is type(block.conv1.slot)
    assert block.end.owns_act
    assert not list(block.conv2.slot.parameters())
    assert not list(block.shortcut.slot.parameters())


def test_frn_after_the_sum_is_its_threshold_alone():
    block = blocks_of(small(FRN, joint_slot="after_sum"))[1]
    block.end.threshold.data.uniform_(-0.5, 0.5)
    x = images(2, 4, 7, 6)
    branch = block.conv2.slot(block.conv2.conv(block.conv1(x)))
    expected = torch.maximum(branch + block.shortcut(x), block.end.threshold.view(1, -1, 1, 1))
    torch.testing.assert_close(block(x), expected)
    assert block.conv1.slot.threshold is not None
    assert block.conv2.slot.threshold is None
    assert block.shortcut.slot.threshold is None
    assert block.end.param_specs() == {"threshold": ParamSpec()}


def test_threshold_takes_the_gradient_at_ties_and_keeps_the_dtype():
    layer = Threshold(2)
    x = torch.zeros(1, 2, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    assert torch.equal(layer.threshold.grad, torch.tensor([4.0, 4.0]))
    assert not x.grad.any()
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_a_norm_apart_from_the_activation_stays_where_it_is(norm):
    x = images(2, 3, 8, 8)
    assert torch.equal(small(norm)(x), small(norm, joint_slot="after_sum")(x))


def test_scaled_relu_after_the_sum_keeps_the_weight_norm():
    norm = {"name": "weight", "scaled_relu": True}
    block = blocks_of(small(norm, joint_slot="after_sum"))[1]
    assert {type(conv.conv).__name__ for conv in (block.conv1, block.conv2, block.shortcut)} == {"WeightNormConv"}
    assert block.end.owns_act
    assert not block.conv2.slot.owns_act


@pytest.mark.parametrize(
    "fields", [{}, {"preact": True}, {"act_before_sum": True}, {"joint_slot": "after_sum"}], ids=str
)
@pytest.mark.parametrize("norm", ["batch", {"name": "evonorm_s0", "groups": 2}, FRN, "weight"], ids=str)
@pytest.mark.parametrize("residual", ["plain", "skipinit"])
def test_every_form_trains_everywhere(norm, fields, residual):
    net = small(norm, residual=residual, **fields)
    for name, parameter in net.named_parameters():
        if name.endswith("factor"):
            parameter.data.fill_(0.5)
    nn.functional.cross_entropy(net(images(3, 3, 17, 12)), torch.tensor([0, 1, 2])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_mistakes_name_the_field():
    for fields, message in [
        (
            {"preact": True, "act_before_sum": True},
            "model: expected one of preact and act_before_sum, got both: a preact branch ends with its conv",
        ),
        (
            {"name": "bbn_resnet55"},
            "model.name: expected bbn_resnet{6n+2} (bbn_resnet8, bbn_resnet14, bbn_resnet20 ...), got bbn_resnet55; "
            "near it: bbn_resnet50",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            validate_run({"model": {"name": "bbn_resnet56", **fields}})
        assert [str(problem) for problem in caught.value.problems] == [message]
