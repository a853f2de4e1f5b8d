from functools import partial

import pytest
import torch
from support.norm_identities import images
from torch import nn

from normhpc.errors import InputError
from normhpc.norms import build


@pytest.mark.parametrize(
    ("spec", "native"),
    [
        ("layer", partial(nn.GroupNorm, 1, 6)),
        ("instance", partial(nn.InstanceNorm2d, 6, affine=True)),
        ({"name": "group", "groups": 2}, partial(nn.GroupNorm, 2, 6)),
        ({"name": "group", "group_size": 2}, partial(nn.GroupNorm, 3, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (1, 6, 2, 2), (2, 6, 1, 3)], ids=str)
def test_follows_torch(spec, native, shape):
    slot, native = build(spec, 6, "none"), native()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    y, z = slot(x), native(twin)
    torch.testing.assert_close(y, z, rtol=1e-5, atol=2e-6)
    y.square().sum().backward()
    z.square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(slot.parameters(), native.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_layer_is_layer_norm_over_the_image():
    x = torch.randn(3, 6, 4, 5)
    torch.testing.assert_close(build("layer", 6, "none")(x), nn.functional.layer_norm(x, x.shape[1:]))


@pytest.mark.parametrize(("same", "groups"), [("layer", 1), ("instance", 6)])
def test_layer_and_instance_are_extreme_groups(same, groups):
    x = torch.randn(3, 6, 4, 5)
    assert torch.equal(build(same, 6)(x), build({"name": "group", "groups": groups}, 6)(x))


@pytest.mark.parametrize("training", [True, False])
def test_instance_refuses_a_single_pixel(training):
    slot = build("instance", 4).train(training)
    with pytest.raises(InputError, match=r"^norm: instance norm over a single pixel is always 0 .*\(2, 4, 1, 1\)"):
        slot(torch.randn(2, 4, 1, 1))


def test_training_and_evaluation_are_the_same():
    x = torch.randn(3, 6, 4, 5)
    for name in ("layer", "instance"):
        slot = build(name, 6)
        assert torch.equal(slot(x), slot.eval()(x))
        assert not list(slot.buffers())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mean", [0.0, 1.5, 3.0, 100.0])
@pytest.mark.parametrize("spec", ["layer", {"name": "group", "groups": 2}, {"name": "group", "groups": 8}], ids=repr)
def test_statistics_of_half_precision_are_kept_in_fp32(spec, mean, dtype, layout):
    """What is rounded is the result alone: statistics of 8 bits would show in every value of the gradient."""
    x = (images(24, 32, 6, 5) + mean).to(dtype).contiguous(memory_format=layout).requires_grad_()
    cotangent = images(24, 32, 6, 5, seed=1).to(dtype).contiguous(memory_format=layout)
    layer, exact = build(spec, 32, "none"), build(spec, 32, "none").double()
    y = layer(x)
    y.backward(cotangent)
    doubled = x.detach().double().contiguous().requires_grad_()
    expected = exact(doubled)
    expected.backward(cotangent.double().contiguous())
    half_a_bit = torch.finfo(dtype).eps / 2
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=1.01 * half_a_bit, atol=2e-4)
    torch.testing.assert_close(x.grad.double(), doubled.grad, rtol=1.01 * half_a_bit, atol=2e-4)
    torch.testing.assert_close(layer.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-3)
