"""Norms against torch's and timm's, through training passes and in evaluation: values, gradients, statistics."""

import pytest
import torch
from support.norm_others import CHANNELS, OTHERS

from normhpc.norms import build

CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def pair(other):
    """The same parameters in both, none of them as they start."""
    ours, theirs = build(other.config, CHANNELS, other.act), other.layer()
    generator = torch.Generator().manual_seed(0)
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            value = 0.5 + 0.5 * torch.rand(parameter.shape, generator=generator)
            parameter.copy_(value)
            named.pop(other.names.get(name, name)).copy_(
                value.view_as(theirs.get_parameter(other.names.get(name, name)))
            )
    assert not named, f"only theirs: {', '.join(named)}"
    return ours, theirs


def assert_same_buffers(ours, theirs):
    own = dict(ours.named_buffers())
    for name, value in theirs.named_buffers():
        if name in own:
            torch.testing.assert_close(own[name], value, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_values_gradients_and_statistics(other, layout):
    ours, theirs = pair(other)
    steps = 1 if other.config.name == "batch_renorm" else 3
    for seed in range(steps + 1):
        training = seed < steps
        ours.train(training)
        theirs.train(training)
        generator = torch.Generator().manual_seed(seed)
        x = (2 * torch.randn(4, CHANNELS, 5, 3, generator=generator) + 0.7).contiguous(memory_format=layout)
        cotangent = torch.randn(x.shape, generator=generator).contiguous(memory_format=layout)
        twin = x.clone().requires_grad_()
        y, z = ours(x.requires_grad_()), theirs(twin)
        torch.testing.assert_close(y, z, **CLOSE)
        for parameter in (*ours.parameters(), *theirs.parameters()):
            parameter.grad = None
        y.backward(cotangent)
        z.backward(cotangent)
        torch.testing.assert_close(x.grad, twin.grad, **CLOSE)
        for name, parameter in ours.named_parameters():
            same = theirs.get_parameter(other.names.get(name, name)).grad.view_as(parameter)
            torch.testing.assert_close(
                parameter.grad, same, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: name + text
            )
        assert_same_buffers(ours, theirs)
