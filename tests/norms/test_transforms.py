"""Layers in transforms of torch.func: replicas stacked by vmap are the lone layers, derivatives are autograd's."""

import pytest
import torch
from support.norm_cases import ONE_OF_EACH, SPECS, WRITTEN, example
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from normhpc.config import norm as configs
from normhpc.errors import InputError
from normhpc.norms import build, moments

KINDS = [*ONE_OF_EACH, *WRITTEN, configs.WeightNorm(scaled_relu=True)]
REPLICAS = 3
C = 8
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
DIFFERENCES = ("gate", "mean_weight", "var_weight")
"""Parameters whose gradients are small differences of large sums."""

every_kind = pytest.mark.parametrize("spec", KINDS, ids=repr)
in_both_modes = pytest.mark.parametrize("training", [True, False])


def images(*shape, seed=0, dtype=torch.float64):
    return (1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5).to(
        dtype
    )


def replicas(spec, *, dtype=torch.float64, training=True):
    return [example(spec, C, "silu", seed).to(dtype).train(training) for seed in range(REPLICAS)]


def stacked(tensors):
    """The tensors of each replica by name, along a new first dimension."""
    first, *others = [dict(named) for named in tensors]
    return {
        name: torch.stack([value.detach(), *(other[name].detach() for other in others)])
        for name, value in first.items()
    }


def assert_same(found, expected, name):
    tolerance = TOLERANCE.get(expected.dtype, 0.0) * (10 if name in DIFFERENCES else 1)
    error = (found.double() - expected.double()).abs().max()
    assert error <= tolerance * max(1.0, expected.abs().max()), f"{name}: {error:.1e}"


def called(layer, parameters, buffers, x):
    return functional_call(layer, (parameters, buffers), (x,))


def gradients(layer, parameters, buffers, x, cotangent):
    """By parameters and by x, and the output, in a transform."""

    def loss(parameters, x, buffers):
        y = called(layer, parameters, buffers, x)
        return (y * cotangent).sum(), y

    (d_parameters, dx), y = grad(loss, argnums=(0, 1), has_aux=True)(parameters, x, buffers)
    return d_parameters, dx, y


def gradients_alone(layer, x, cotangent):
    """The same by autograd."""
    x = x.clone().requires_grad_()
    y = layer(x)
    parameters = dict(layer.named_parameters())
    dx, *found = torch.autograd.grad((y * cotangent).sum(), [x, *parameters.values()])
    return dict(zip(parameters, found, strict=True)), dx, y.detach()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@in_both_modes
@pytest.mark.parametrize("spec", [*SPECS, *KINDS[len(ONE_OF_EACH) :]], ids=repr)
def test_stacked_replicas_are_the_lone_layers(spec, training, dtype, layout):
    layers = replicas(spec, dtype=dtype, training=training)
    parameters = stacked(layer.named_parameters() for layer in layers)
    buffers = stacked(layer.named_buffers() for layer in layers)
    for step in range(2):
        x, cotangents = (images(REPLICAS, 5, C, 3, 4, seed=10 * step + kind, dtype=dtype) for kind in range(2))
        x = x.flatten(0, 1).contiguous(memory_format=layout).view(x.shape)
        d_parameters, dx, y = vmap(gradients, (None, 0, 0, 0, 0), randomness="different")(
            layers[0], parameters, buffers, x, cotangents
        )
        for replica, layer in enumerate(layers):
            own_parameters, own_dx, own_y = gradients_alone(layer, x[replica], cotangents[replica])
            assert_same(y[replica], own_y, "y")
            assert_same(dx[replica], own_dx, "dx")
            for name, value in own_parameters.items():
                assert_same(d_parameters[name][replica], value, name)
            for name, value in layer.named_buffers():
                assert_same(buffers[name][replica], value, name)


@pytest.mark.parametrize("spec", [spec for spec in KINDS if isinstance(spec, configs.BatchStatistics)], ids=repr)
def test_statistics_stacked_along_another_dimension_move(spec):
    """torch's batch norm moves a copy of such, without a word."""
    layers = replicas(spec)
    parameters = stacked(layer.named_parameters() for layer in layers)
    buffers = stacked(layer.named_buffers() for layer in layers)
    along = {name: value.ndim - 1 for name, value in buffers.items()}
    buffers = {name: value.movedim(0, along[name]).contiguous() for name, value in buffers.items()}
    x = images(REPLICAS, 5, C, 3, 4)
    vmap(called, (None, 0, along, 0))(layers[0], parameters, buffers, x)
    for replica, layer in enumerate(layers):
        layer(x[replica])
        for name, value in layer.named_buffers():
            assert_same(buffers[name].select(along[name], replica), value, name)


def test_statistics_that_lie_between_each_other_move():
    """torch's batch norm moves a copy of such too."""
    layers = replicas(configs.BatchNorm())
    parameters = stacked(layer.named_parameters() for layer in layers)
    buffers = stacked(layer.named_buffers() for layer in layers)
    mixed = {
        name: torch.empty_strided(value.shape, (1, *[REPLICAS] * (value.ndim - 1)), dtype=value.dtype).copy_(value)
        for name, value in buffers.items()
    }
    x = images(REPLICAS, 5, C, 3, 4)
    vmap(called, (None, 0, 0, 0))(layers[0], parameters, mixed, x)
    for replica, layer in enumerate(layers):
        layer(x[replica])
        for name, value in layer.named_buffers():
            assert_same(mixed[name][replica], value, name)


@pytest.mark.parametrize("spec", [spec for spec in KINDS if list(build(spec, C).parameters())], ids=repr)
def test_replicas_of_one_input(spec):
    layers = replicas(spec)
    parameters = stacked(layer.named_parameters() for layer in layers)
    buffers = stacked(layer.named_buffers() for layer in layers)
    x = images(5, C, 3, 4)
    y = vmap(called, (None, 0, 0, None))(layers[0], parameters, buffers, x)
    for replica, layer in enumerate(layers):
        assert_same(y[replica], layer(x).detach(), "y")
        for name, value in layer.named_buffers():
            assert_same(buffers[name][replica], value, name)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own, in its formulas
@in_both_modes
@every_kind
def test_forward_derivatives_are_autograds(spec, training):
    layer = example(spec, C, "silu").train(training)
    x, direction, cotangent = (images(5, C, 3, 4, seed=seed) for seed in range(3))
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def of(x, parameters):
        return called(layer, parameters, {name: value.clone() for name, value in layer.named_buffers()}, x)

    ones = {name: torch.ones_like(value) for name, value in parameters.items()}
    y, tangent = jvp(of, (x, parameters), (direction, ones))
    d_parameters, dx, own_y = gradients_alone(layer, x, cotangent)
    expected = (dx * direction).sum() + sum(value.sum() for value in d_parameters.values())
    assert_same(y, own_y, "y")
    torch.testing.assert_close((tangent * cotangent).sum(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("norm", ["batch", "ghost_batch", "batch_renorm", "evonorm_b0", "group", "layer", "frn_tlu"])
def test_compiled_replicas(norm):
    torch.compiler.reset()
    layers = [build(norm, 32).train() for _ in range(REPLICAS)]
    parameters = stacked(layer.named_parameters() for layer in layers)
    buffers = stacked(layer.named_buffers() for layer in layers)
    x = images(REPLICAS, 5, 32, 3, 4, dtype=torch.float32)

    def together(parameters, buffers, x):
        return vmap(lambda *given: called(layers[0], *given), (0, 0, 0))(parameters, buffers, x)

    y = torch.compile(together, backend="aot_eager", fullgraph=True)(parameters, buffers, x)
    for replica, layer in enumerate(layers):
        torch.testing.assert_close(y[replica], layer(x[replica]).detach(), rtol=1e-5, atol=1e-5)
        for name, value in layer.named_buffers():
            torch.testing.assert_close(buffers[name][replica], value, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


def test_replicas_of_a_network_learn_as_the_lone_ones():
    """Three steps of gradient descent of three starts, on other images each."""
    nets = []
    for seed in range(REPLICAS):
        torch.manual_seed(seed)
        slots = [build(name, 8) for name in ("batch", "evonorm_b0", "layer", "frn_tlu", "dyt")]
        convolutions = [nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in slots]
        pairs = [module for pair in zip(convolutions, slots, strict=True) for module in pair]
        nets.append(nn.Sequential(nn.Conv2d(3, 8, 3), *pairs).double())
    parameters = stacked(net.named_parameters() for net in nets)
    buffers = stacked(net.named_buffers() for net in nets)
    for step in range(3):
        x, cotangents = images(REPLICAS, 4, 3, 8, 8, seed=step), images(REPLICAS, 4, 8, 6, 6, seed=step + 10)
        found, _, _ = vmap(gradients, (None, 0, 0, 0, 0), randomness="different")(
            nets[0], parameters, buffers, x, cotangents
        )
        parameters = {name: value - 1e-4 * found[name] for name, value in parameters.items()}
        for replica, net in enumerate(nets):
            own, _, _ = gradients_alone(net, x[replica], cotangents[replica])
            with torch.no_grad():
                for name, value in net.named_parameters():
                    value -= 1e-4 * own[name]
    for replica, net in enumerate(nets):
        for name, value in net.named_parameters():
            torch.testing.assert_close(parameters[name][replica], value.detach(), rtol=1e-9, atol=1e-9)
        for name, value in net.named_buffers():
            torch.testing.assert_close(buffers[name][replica], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "batch_renorm", "evonorm_b0"])
def test_statistics_of_several_ranks_are_refused(norm, monkeypatch):
    monkeypatch.setattr(moments, "several_ranks", lambda: True)
    monkeypatch.setattr("normhpc.norms.batch.several_ranks", lambda: True)
    layer = build({"name": norm, "sync": True}, 4)
    buffers = stacked([layer.named_buffers()])
    with pytest.raises(InputError) as raised:
        vmap(lambda buffers, x: functional_call(layer, buffers, (x,)))(buffers, torch.ones(1, 2, 4, 3, 3))
    assert str(raised.value) == (
        "norm: expected statistics of one rank under torch.func, got sync: true on several ranks; "
        "transform on one rank, or use sync: false"
    )


class Operations(TorchDispatchMode):
    """Names of what torch computes."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_stacked_batch_norm_is_one_of_all_channels(dtype, layout, along):
    """With autograd around vmap, as runs are trained together; also where it is differentiated twice."""
    layers = [example(configs.BatchNorm(), C, "none", seed).to(dtype).train() for seed in range(REPLICAS)]
    parameters = stacked(layer.named_parameters() for layer in layers)
    buffers = stacked(layer.named_buffers() for layer in layers)
    own = [images(5, C, 3, 4, seed=seed, dtype=dtype).to(memory_format=layout) for seed in range(REPLICAS)]
    x = torch.stack(own, along)
    cotangents = images(REPLICAS, 5, C, 3, 4, seed=9, dtype=dtype)
    leaves = [x, *parameters.values()]
    for leaf in leaves:
        leaf.requires_grad_()

    with Operations() as forward:
        y = vmap(called, (None, 0, 0, along))(layers[0], parameters, buffers, x)
    assert forward.names.count("native_batch_norm") == 1
    assert not {"mul", "add", "sub"} & set(forward.names)
    found = torch.autograd.grad((y * cotangents).sum(), leaves, create_graph=True)
    (second,) = torch.autograd.grad(found[0].square().sum(), x)
    for replica, layer in enumerate(layers):
        alone = own[replica].clone().requires_grad_()
        expected = layer(alone)
        wanted = torch.autograd.grad(
            (expected * cotangents[replica]).sum(), [alone, *layer.parameters()], create_graph=True
        )
        (own_second,) = torch.autograd.grad(wanted[0].square().sum(), alone)
        assert_same(y[replica], expected, "y")
        assert_same(second.select(along, replica), own_second, "second derivative")
        for name, (of_all, of_one) in zip(("x", *parameters), zip(found, wanted, strict=True), strict=True):
            assert_same(of_all.select(along if name == "x" else 0, replica), of_one, name)
        for name, value in layer.named_buffers():
            assert_same(buffers[name][replica], value, name)


def test_batch_norm_stacked_by_two_transforms_is_left_to_torch():
    """Images stacked by one vmap and layers by one inside it are no stack of pairs, as many as there are of each."""
    layers = replicas(configs.BatchNorm())
    parameters = stacked(layer.named_parameters() for layer in layers)
    buffers = stacked(layer.named_buffers() for layer in layers)
    x = images(REPLICAS, 5, C, 3, 4)

    def of_all(own):
        return vmap(lambda weights, statistics: called(layers[0], weights, statistics, own))(parameters, buffers)

    with pytest.raises(RuntimeError, match="Batch norm got a batched tensor as input while the running_mean"):
        vmap(of_all)(x)
