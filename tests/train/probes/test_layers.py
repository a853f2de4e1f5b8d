"""Which layers are measured, with which numbers, and what it does not disturb."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.convnext import CNBlock

from normhpc import models, norms
from normhpc.config import RunConfig
from normhpc.config.training import LayerProbes as LayerProbesConfig
from normhpc.errors import InputError
from normhpc.train.probes import LayerProbes
from normhpc.train.probes.layers import Channels, as_planes, as_samples, measured_places

ALL = LayerProbesConfig().measures


def network(model, norm="batch", **fields):
    torch.manual_seed(3)
    return models.build(RunConfig.model_validate({"data": "cifar10", "model": model, "norm": norm, **fields}))


def probed(model, images, labels, wanted=ALL, step=0, every=1, scale=1.0):
    """The measured numbers of one pass, and their names."""
    probes = LayerProbes(model, wanted, every)
    with probes.measuring(step, len(images)) as reading:
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        if reading is not None:
            reading.watch(loss)
        torch.autograd.backward(loss, torch.full_like(loss, scale))
    steps, count, values = probes.settled()
    return {column: values[0, number] for number, column in enumerate(probes.columns)}, steps, count


@pytest.mark.parametrize("channels_last", [False, True])
def test_numbers_of_a_network_against_a_float64_pass(channels_last):
    """conv, slot, conv, slot, pooling, written out without modules and differentiated by autograd in float64."""
    model = network({"name": "convnet", "widths": [6, 4]})
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 10
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    if channels_last:
        model, images = (part.to(memory_format=torch.channels_last) for part in (model, images))
    found, _, _ = probed(model, images, labels, scale=0.37)

    x, convs, slots = images.double(), [], []
    for layer in range(2):
        conv = F.conv2d(x, weights[f"layers.{layer}.conv.weight"], padding=1).requires_grad_()
        if layer == 0:
            conv = conv.detach().requires_grad_()
        conv.retain_grad()
        mean, variance = conv.mean((0, 2, 3), keepdim=True), conv.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = (weights[f"layers.{layer}.slot.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        slot = torch.relu((conv - mean) / (variance + 1e-5).sqrt() * scale + shift)
        convs.append(conv)
        slots.append(slot)
        x = F.max_pool2d(slot, 2)
    logits = x.mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]
    F.cross_entropy(logits, labels).backward()

    expected = {}
    for layer, (conv, slot) in enumerate(zip(convs, slots, strict=True)):
        values, out = conv.detach().numpy(), slot.detach().numpy()
        place, norm = f"layers.{layer}.conv", f"layers.{layer}.slot"
        axes = (0, 2, 3)
        expected[place, "conv", "conv_std"] = values.std(axes, ddof=1).mean()
        expected[place, "conv", "gradient_norm"] = np.sqrt((conv.grad.numpy() ** 2).sum())
        expected[norm, "norm", "norm_mean"] = np.abs(values.mean(axes)).mean()
        expected[norm, "norm", "norm_variance"] = values.var(axes, ddof=1).mean()
        expected[norm, "norm", "dead_channels"] = np.mean([not (out[:, c] > 0).any() for c in range(out.shape[1])])
        expected[norm, "activation", "activation_variance"] = out.var(axes, ddof=1).mean()
        rows = out.reshape(12, -1)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        k = unit @ unit.T
        expected[norm, "activation", "activation_cosine"] = np.mean((k.sum(1) - 1) / 11)
        expected[norm, "activation", "activation_rank"] = 12 / np.linalg.eigvalsh(k)[-1]
    assert found.keys() == expected.keys()
    for place, value in expected.items():
        assert found[place] == pytest.approx(value, rel=2e-4, abs=1e-6), place


def test_places_of_the_seeds_networks():
    """The counts of BeyondBatchNorm's own probers: 10 + 10 in cfg_10 and 57 + 55 in ResNet-56."""

    def counts(model):
        kinds = [kind for place in measured_places(model) for kind in place.kinds]
        return {kind: kinds.count(kind) for kind in ("conv", "activation", "norm")}

    assert counts(network({"name": "vgg", "cfg": "cfg_10"})) == {"conv": 10, "activation": 10, "norm": 10}
    assert counts(network("bbn_resnet56")) == {"conv": 57, "activation": 55, "norm": 57}
    assert counts(network("resnet20")) == {"conv": 21, "activation": 19, "norm": 21}
    assert counts(network("bbn_resnet56", "frn_tlu"))["activation"] >= 55


def test_activations_of_other_libraries_and_modules_that_are_called_twice():
    relu = nn.ReLU(inplace=True)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.LazyLinear(10), nn.GELU()
    )
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    model(images)
    found, _, _ = probed(model, images, labels, ("activation_variance", "conv_std"))
    assert [column.layer for column in found] == ["0", "1", "2", "1:2", "6"]
    with torch.no_grad():
        first = model[:1](images)
        assert found["0", "conv", "conv_std"] == pytest.approx(first.std((0, 2, 3)).mean().item(), rel=1e-5)
        assert found["1", "activation", "activation_variance"] == pytest.approx(
            first.relu().var((0, 2, 3)).mean().item(), rel=1e-5
        )
        assert found["6", "activation", "activation_variance"] == pytest.approx(
            model(images).var(0).mean().item(), 1e-5
        )


def test_a_slot_counts_with_all_that_is_in_it():
    class Nested(norms.Norm):
        def __init__(self):
            super().__init__(4, "relu")
            self.inner = nn.ReLU()

        def normalize(self, x):
            return self.inner(x)

    assert [place.name for place in measured_places(nn.Sequential(Nested(), nn.ReLU()))] == ["0", "1"]


class Tail(nn.Module):
    """Logits from what ``body`` gives, channels where ``axis`` says."""

    def __init__(self, body, axis):
        super().__init__()
        self.body = body
        self.axis = axis

    def forward(self, x):
        y = self.body(x)
        return y.movedim(self.axis, 1).flatten(2).mean(2)[:, :4]


def test_channels_behind_a_linear_layer_are_the_last_ones():
    """torchvision's ConvNeXt calls GELU on (N, H, W, C), here with H = W = C."""
    model = Tail(nn.Sequential(nn.Conv2d(3, 4, 1), CNBlock(4, 1e-6, 0.0)), 1)
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5) % 4
    taken = []
    model.body[1].block[4].register_forward_hook(lambda module, inputs, output: taken.append(output.detach().double()))
    found, _, _ = probed(model, images, labels)
    (activated,) = taken
    assert activated.shape == (5, 16, 16, 16)
    place = ("body.1.block.4", "activation", "activation_variance")
    assert found[place] == pytest.approx(activated.var((0, 1, 2)).mean().item(), rel=1e-5)
    assert found[place] != pytest.approx(activated.var((0, 2, 3)).mean().item(), rel=1e-2)


def test_channels_behind_a_kept_norm_are_as_the_norm_has_them():
    class Dense(nn.Module):
        """A norm over more channels than the convolution before it gives."""

        def __init__(self, norm, act):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(3, 4, 1), norm, act

        def forward(self, x):
            y = torch.cat([x, self.conv(x)], 1)
            return self.act(self.norm(y) if isinstance(self.norm, nn.BatchNorm2d) else self.norm(y.movedim(1, -1)))

    images, labels = torch.randn(5, 3, 6, 6), torch.arange(5) % 4
    for norm, axis, axes in ((nn.BatchNorm2d(7), 1, (0, 2, 3)), (nn.LayerNorm(7), -1, (0, 1, 2))):
        model = Tail(Dense(norm, nn.ReLU()), axis)
        with torch.no_grad():
            activated = model.body(images).double()
        found, _, _ = probed(model, images, labels)
        variance = found["body.act", "activation", "activation_variance"]
        assert variance == pytest.approx(activated.var(axes).mean().item(), rel=1e-5)


def test_channels_that_lie_nobody_knows_where_are_not_measured():
    class Turned(nn.Module):
        def forward(self, x):
            return x.movedim(1, -1)

    model = Tail(nn.Sequential(nn.Conv2d(3, 4, 1), Turned(), nn.ReLU()), -1)
    found, _, _ = probed(model, torch.randn(5, 3, 6, 6), torch.arange(5) % 4)
    measured = {column.measure for column in found if column.layer == "body.2"}
    assert measured == {"activation_cosine", "activation_rank"}


def test_layouts():
    tokens = torch.randn(2, 5, 3)
    assert torch.equal(as_planes(tokens, Channels(3, -1, 3))[:, :, :, 0], tokens.transpose(1, 2))
    assert torch.equal(as_planes(tokens, Channels(3, 1, 5)), tokens[:, :, :, None])
    assert as_planes(torch.randn(2, 7), None).shape == (2, 7, 1, 1)
    images = torch.randn(2, 5, 3, 4)
    assert as_planes(images, Channels(4, 1, 5)) is images
    assert torch.equal(as_planes(images, Channels(4, -1, 4)), images.permute(0, 3, 1, 2))
    for newest in (None, Channels(4, 1, 6), Channels(3, 1, 5), Channels(2, -1, 4)):
        assert as_planes(images, newest) is None
    assert as_planes(torch.randn(2, 5, 3, 4, 4), Channels(5, 1, 5)) is None
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    rows = as_samples(x, 4)
    assert rows.data_ptr() == x.data_ptr()
    assert torch.allclose(rows @ rows.T, x.flatten(1) @ x.flatten(1).T)
    assert as_samples(torch.randn(8, 5), 4).shape == (4, 10)  # two windows an image


def test_only_every_so_many_steps_and_only_with_hooks_then():
    model = network({"name": "convnet", "widths": [4]})
    probes = LayerProbes(model, ALL, 3)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    for step in range(7):
        with probes.measuring(step, 4) as reading:
            assert (reading is not None) == (step in (0, 3, 6))
            assert any(module._forward_hooks for module in model.modules()) == (step in (0, 3, 6))
            loss = F.cross_entropy(model(images), labels, reduction="sum")
            if reading is not None:
                reading.watch(loss)
            loss.backward()
        assert not any(module._forward_hooks for module in model.modules())
    steps, count, values = probes.settled()
    assert (steps.tolist(), count.tolist()) == ([0, 3, 6], [4, 4, 4])
    assert values.shape == (3, len(probes.columns))
    probes.clear()
    assert probes.settled()[2].shape == (0, len(probes.columns))


class NoReading(TorchDispatchMode):
    """Fails where a number of a tensor is asked for, which makes a GPU wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_linalg_eigh", "_linalg_svd"), (
            name
        )
        return func(*args, **(kwargs or {}))


def test_a_measured_step_asks_the_device_for_nothing():
    model = network("resnet8")
    probes = LayerProbes(model, ALL, 1)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    with NoReading(), probes.measuring(0, 4) as reading:
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        reading.watch(loss)
        loss.backward()
    assert np.isfinite(probes.settled()[2]).all()


@pytest.mark.parametrize("norm", ["batch", "none", "frn_tlu", "evonorm_b0", "weight"])
@pytest.mark.parametrize("model", ["resnet8", "bbn_resnet8", {"name": "resnet8", "residual": "nf"}, "mnist_model4"])
def test_outputs_and_gradients_are_those_without_probes(model, norm):
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6)
    plain, watched = network(model, norm), network(model, norm)
    logits = plain(images)
    F.cross_entropy(logits, labels, reduction="sum").backward()
    found, _, _ = probed(watched, images, labels)
    assert np.isfinite(list(found.values())).all()
    for (name, parameter), other in zip(plain.named_parameters(), watched.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
    for (name, buffer), other in zip(plain.named_buffers(), watched.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_half_precision_is_measured_in_full():
    model = network({"name": "convnet", "widths": [8]})
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    exactly, _, _ = probed(model, images, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _, _ = probed(model, images, labels)
    for place, value in exactly.items():
        assert found[place] == pytest.approx(value, rel=2e-2, abs=1e-3), place


def test_a_network_that_changes_its_way_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Conv2d(3, 10, 1), nn.Conv2d(3, 10, 1)])
            self.turn = 0

        def forward(self, x):
            self.turn += 1
            return self.parts[self.turn % 2](x).mean((2, 3))

    model = Fickle()
    probes = LayerProbes(model, ("conv_std",), 1)
    with probes.measuring(0, 2):
        model(torch.randn(2, 3, 4, 4))
    with pytest.raises(InputError) as error, probes.measuring(1, 2):
        model(torch.randn(2, 3, 4, 4))
    assert str(error.value) == (
        "probes.measures: expected a network that goes through the same layers in every step, but step 1 went through "
        "others than the first one; leave feature_quantiles alone with probes.measures: [], or set probes: none"
    )


def test_numbers_are_copied_from_the_device_once(monkeypatch):
    model = network({"name": "convnet", "widths": [4]})
    probes = LayerProbes(model, ALL, 1)
    alone = []
    for step, count in enumerate((4, 4, 3)):
        torch.manual_seed(step)
        images, labels = torch.randn(count, 3, 32, 32), torch.arange(count)
        single = LayerProbes(model, ALL, 1)
        for one in (probes, single):
            with one.measuring(step, count) as reading:
                loss = F.cross_entropy(model(images), labels, reduction="sum")
                reading.watch(loss)
                loss.backward()
        alone.append(single.settled()[2])
    copies, copy = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: copies.append(x) or copy(x))
    np.testing.assert_array_equal(probes.settled()[2], np.concatenate(alone))
    assert len(copies) == 1


def test_nothing_wanted_measures_nothing():
    model = network({"name": "convnet", "widths": [4]})
    found, steps, _ = probed_nothing(model)
    assert found == ()
    assert len(steps) == 0


def probed_nothing(model):
    probes = LayerProbes(model, (), 1)
    with probes.measuring(0, 2):
        model(torch.randn(2, 3, 32, 32))
    steps, count, _ = probes.settled()
    return probes.columns, steps, count
