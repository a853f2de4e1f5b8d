"""What every norm slot promises whatever it computes."""

import copy
import pickle
from typing import get_args

import pytest
import torch
from support.norm_cases import ONE_OF_EACH, WRITTEN
from support.norm_cases import SPECS as OF_ONE_FORMULA
from support.norm_formulas import owns_activation
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from normhpc.config import norm as configs
from normhpc.config.norm.pointwise import PointwiseShape
from normhpc.norms import ParamSpec, build, moments
from normhpc.norms.activation import ACTIVATIONS

SPECS = [*OF_ONE_FORMULA, *WRITTEN, configs.WeightNorm()]
LAYOUTS = [torch.contiguous_format, torch.channels_last]

every_norm = pytest.mark.parametrize("spec", SPECS, ids=repr)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def images(*shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(**options)


@every_layout
@pytest.mark.parametrize("act", ACTIVATIONS)
@every_norm
def test_input_is_never_overwritten_and_layout_is_kept(spec, act, layout):
    x = images(2, 8, 5, 6).contiguous(memory_format=layout)
    before = x.clone()
    for training in (True, False):
        y = build(spec, 8, act).train(training)(x)
        assert y.is_contiguous(memory_format=layout)
        assert y.dtype == x.dtype
        assert torch.equal(x, before)


@every_layout
@every_norm
def test_bf16_under_autocast_has_fp32_statistics_and_bf16_output(spec, layout):
    slot, exact = build(spec, 8), build(spec, 8).double()
    x = (3 * images(4, 8, 9, 7) + 5).bfloat16().contiguous(memory_format=layout).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = slot(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=layout)
    x64 = x.detach().double().requires_grad_()
    y64 = exact(x64)
    cotangent = images(4, 8, 9, 7, seed=1).bfloat16()
    y.backward(cotangent)
    y64.backward(cotangent.double())
    # One rounding to bf16 is 2^-9 of a value; the statistics must add nothing to it.
    torch.testing.assert_close(y.double(), y64, rtol=2**-8, atol=2**-8)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=2**-6, atol=2**-6)
    for (name, buffer), (_, buffer64) in zip(slot.named_buffers(), exact.named_buffers(), strict=True):
        torch.testing.assert_close(buffer.double(), buffer64.double(), rtol=1e-5, atol=1e-5, msg=name)
    for parameter, parameter64 in zip(slot.parameters(), exact.parameters(), strict=True):
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad.double(), parameter64.grad, rtol=2**-6, atol=0.3)


@every_norm
def test_copies_pickles_and_states_compute_the_same(spec):
    slot = build(spec, 8, "silu")
    for seed in range(3):
        slot(images(4, 8, 3, 3, seed=seed))
    with torch.no_grad():
        for parameter in slot.parameters():
            parameter.add_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    other = build(spec, 8, "silu")
    other.load_state_dict(slot.state_dict())
    x = images(2, 8, 3, 3, seed=9)
    for twin in (copy.deepcopy(slot), pickle.loads(pickle.dumps(slot)), other):
        for training in (False, True):
            twin.train(training)
            assert torch.equal(twin(x), copy.deepcopy(slot).train(training)(x))


@every_norm
def test_parameters_are_spared_from_weight_decay(spec):
    slot = build(spec, 8)
    expected = {name: ParamSpec(decay=False, lr_factor=1.0) for name, _ in slot.named_parameters()}
    if "gate" in expected:
        expected["gate"] = ParamSpec(decay=False, lr_factor=spec.gate_lr_factor, bounds=(0.0, 1.0))
    assert slot.param_specs() == expected


@every_norm
def test_a_step_leaves_plain_parameters_where_they_are(spec):
    slot = build(spec, 8)
    before = copy.deepcopy(slot.state_dict())
    slot.post_step()
    assert all(torch.equal(value, before[name]) for name, value in slot.state_dict().items())


def saved_bytes(module, x):
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    return sum(storages.values()), y


@every_layout
@pytest.mark.parametrize(
    ("spec", "native"),
    [
        (configs.BatchNorm(), nn.BatchNorm2d(8)),
        (configs.LayerNorm(), nn.GroupNorm(1, 8)),
        (configs.InstanceNorm(), nn.InstanceNorm2d(8, affine=True)),
        (configs.GroupNorm(groups=4), nn.GroupNorm(4, 8)),
        (configs.NoNorm(), nn.Identity()),
    ],
    ids=repr,
)
def test_saves_no_more_for_the_backward_pass_than_torch(spec, native, layout):
    x = images(4, 8, 16, 16).contiguous(memory_format=layout).requires_grad_()
    ours, _y = saved_bytes(build(spec, 8), x)
    theirs, _y = saved_bytes(nn.Sequential(native, nn.ReLU()), x)
    assert ours <= theirs


@every_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_norm
def test_keeps_the_input_and_little_else(spec, dtype, layout):
    x = images(2, 64, 16, 16, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    ours, _y = saved_bytes(build(spec, 64, "relu" if owns_activation(spec) else "none"), x)
    assert ours <= 1.05 * x.untyped_storage().nbytes()


@every_norm
def test_second_derivatives(spec):
    slot = build(spec, 4, "relu").double().train(not isinstance(spec, configs.BatchRenorm))  # which holds r and d
    generator = torch.Generator().manual_seed(1)
    for parameter in slot.parameters():
        torch.nn.init.normal_(parameter, mean=0.5, generator=generator)
    x = images(2, 4, 2, 3, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in slot.named_parameters()]

    def of(x, *values):
        return torch.func.functional_call(slot, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(of, (x, *slot.parameters()))


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("act", ["relu", "tanh"])
@pytest.mark.parametrize("spec", [*ONE_OF_EACH, *WRITTEN], ids=repr)
def test_compiled_equals_eager(spec, act):
    slot = build(spec, 8, act)
    twin = torch.compile(copy.deepcopy(slot), backend="aot_eager", fullgraph=True)
    x = images(4, 8, 3, 3).requires_grad_()
    copied = x.detach().clone().requires_grad_()
    y, z = slot(x), twin(copied)
    torch.testing.assert_close(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    torch.testing.assert_close(x.grad, copied.grad)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_relu_has_the_value_and_gradient_of_relu():
    values = [-2.0, -0.0, 0.0, 3.0, float("inf"), float("nan")]
    results = []
    for relu in (build("none", 6), torch.compile(build("none", 6), backend="aot_eager", fullgraph=True)):
        x = torch.tensor(values).view(1, 6, 1, 1).requires_grad_()
        y = relu(x)
        y.sum().backward()
        results.append((y.detach(), x.grad))
    (value, slope), (compiled_value, compiled_slope) = results
    torch.testing.assert_close(compiled_value, value, equal_nan=True)
    torch.testing.assert_close(compiled_slope, slope, equal_nan=True)


@every_norm
def test_only_batch_statistics_let_images_see_each_other(spec):
    slot = build(spec, 8)
    x = images(4, 8, 3, 3)
    moved = x.clone()
    moved[1:] += images(3, 8, 3, 3, seed=1)
    alone = torch.equal(slot(x)[0], slot(moved)[0])
    assert alone == (slot.scope != "batch")


@every_layout
@every_norm
def test_blocks_of_images_are_one_batch(spec, layout, monkeypatch):
    results = []
    for values in (1, 1000, 1 << 20):  # of images of 480 values: one at a time, two, all five
        monkeypatch.setattr(moments, "_BLOCK_VALUES", values)
        slot = build(spec, 8)
        x = images(5, 8, 12, 5).contiguous(memory_format=layout).requires_grad_()
        y = slot(x)
        y.backward(images(5, 8, 12, 5, seed=1))
        results.append([y.detach(), x.grad, *(parameter.grad for parameter in slot.parameters()), *slot.buffers()])
    for other in results[1:]:
        for value, same in zip(results[0], other, strict=True):
            torch.testing.assert_close(value, same, rtol=1e-4, atol=1e-4)


KINKS = [
    *(
        configs.PointwiseShape(shape=shape, alpha=1.0)
        for shape in get_args(PointwiseShape.model_fields["shape"].annotation)
    ),
    configs.FilterResponseTlu(),
]


@pytest.mark.parametrize("spec", [*KINKS, configs.FormulaNorm(expr="elu(x)")], ids=repr)
def test_closed_forms_are_autograds_at_kinks(spec):
    slot = build(spec, 2, "none")
    x = torch.tensor([-1.0, -0.0, 0.0, 1.0]).repeat(2).view(1, 2, 2, 2).requires_grad_()
    (closed,) = torch.autograd.grad(slot(x).sum(), x)
    (automatic,) = torch.autograd.grad(slot(x).sum(), x, create_graph=True)
    torch.testing.assert_close(closed, automatic.detach())


def test_elu_in_a_formula_has_the_slope_1_at_0():
    x = torch.zeros(1, 1, 1, 2, requires_grad=True)
    build({"name": "formula", "expr": "elu(x)", "affine": False}, 1, "none")(x).sum().backward()
    assert x.grad.tolist() == [[[[1.0, 1.0]]]]


class Operations(TorchDispatchMode):
    """The names of the operations of torch that give a tensor of ``size`` values."""

    def __init__(self, size):
        super().__init__()
        self.size, self.names = size, []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if isinstance(result, torch.Tensor) and result.numel() == self.size:
            self.names.append(function.overloadpacket.__name__)
        return result


@every_layout
@pytest.mark.parametrize("norm", ["dyt", "frn_tlu", "rms", "evonorm_s0", "evonorm_b0", "variance"])
def test_one_block_is_not_copied(norm, layout):
    slot = build(norm, 32)
    x = images(2, 32, 4, 4).contiguous(memory_format=layout).requires_grad_()
    cotangent = images(2, 32, 4, 4, seed=1).contiguous(memory_format=layout)
    with Operations(x.numel()) as seen:
        torch.autograd.grad(slot(x), [x, *slot.parameters()], cotangent)
    assert {"add", "addcmul", "mul"} & set(seen.names)
    assert not {"copy_", "clone", "empty_like"} & set(seen.names)


@pytest.mark.parametrize("expr", ["x", "x - mean(x, 'batch')"])
def test_one_block_is_not_its_input(expr):
    slot = build({"name": "formula", "expr": expr, "affine": False}, 4, "none")
    x, cotangent = images(2, 4, 3, 3).requires_grad_(), images(2, 4, 3, 3, seed=1)
    before = cotangent.clone()
    y = slot(x)
    y.backward(cotangent)
    assert torch.equal(cotangent, before)
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert x.grad.untyped_storage().data_ptr() != cotangent.untyped_storage().data_ptr()


@pytest.mark.parametrize("values", [1, 1 << 20])  # images by themselves, all together
@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
@pytest.mark.parametrize(
    "spec",
    ["dyt", "frn", "layer_pixel", "evonorm_b0", "evonorm_s0", "variance", "batch_instance", "batch_renorm", WRITTEN[1]],
    ids=str,
)
def test_what_is_frozen_costs_no_gradient_and_changes_no_other(spec, frozen, values, monkeypatch):
    monkeypatch.setattr(moments, "_BLOCK_VALUES", values)
    slot, cotangent = build(spec, 32, "none"), images(4, 32, 3, 3, seed=1)
    leaves = {"x": images(4, 32, 3, 3).requires_grad_(), **dict(slot.named_parameters())}
    slot(leaves["x"]).backward(cotangent)
    expected = {name: leaf.grad for name, leaf in leaves.items() if name != frozen}
    slot = build(spec, 32, "none")
    leaves = {"x": images(4, 32, 3, 3).requires_grad_(), **dict(slot.named_parameters())}
    leaves[frozen].requires_grad_(False)
    y = slot(leaves["x"])
    with Operations(y.numel()) as seen:
        y.backward(cotangent)
    assert leaves[frozen].grad is None
    for name, gradient in expected.items():
        assert torch.equal(leaves[name].grad, gradient), name
    if frozen == "x":
        assert not {"empty_like", "copy_"} & set(seen.names)


@pytest.mark.parametrize("norm", ["batch", "batch_instance", "variance", "switchable"])
def test_bf16_gradients_are_rounded_once(norm):
    """Also where the gradient has a mean, which the statistics of the batch take out of it."""
    x, cotangent = images(16, 4, 8, 8).bfloat16(), (0.05 * images(16, 4, 8, 8, seed=1) + 1).bfloat16()
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        moved = x.detach().to(dtype).requires_grad_()
        slot = build(norm, 4, "none")
        (slot.double() if dtype == torch.float64 else slot)(moved).backward(cotangent.to(dtype))
        found.append(moved.grad.double())
    assert (found[0] - found[1]).norm() <= 2**-8 * found[1].norm()


@pytest.mark.parametrize("norm", ["dyt", "evonorm_b0", "frn"])
def test_bf16_parameters_add_up_their_gradients_in_fp32(norm, monkeypatch):
    monkeypatch.setattr(moments, "_BLOCK_VALUES", 1)
    x, cotangent = images(256, 4, 8, 8).bfloat16(), images(256, 4, 8, 8, seed=1).bfloat16()
    slot, exact = build(norm, 4, "relu").bfloat16(), build(norm, 4, "relu").double()
    slot(x).backward(cotangent)
    exact(x.double()).backward(cotangent.double())
    error = slot.weight.grad.double() - exact.weight.grad
    assert error.norm() <= 2**-7 * exact.weight.grad.norm()


@every_layout
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", [*ONE_OF_EACH, *WRITTEN], ids=repr)
def test_whole_layers_in_half_precision(spec, dtype, layout):
    slot, exact = build(spec, 8).to(dtype), build(spec, 8).double()
    for parameter, parameter64 in zip(slot.parameters(), exact.parameters(), strict=True):
        parameter64.data.copy_(parameter.data)  # what is no number of a half type is rounded
    x, cotangent = (images(4, 8, 5, 6, seed=seed).to(dtype).contiguous(memory_format=layout) for seed in range(2))
    x64 = x.double().requires_grad_()
    y, y64 = slot(x.requires_grad_()), exact(x64)
    y.backward(cotangent)
    y64.backward(cotangent.double())
    digit = torch.finfo(dtype).eps
    assert y.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(y.double(), y64, rtol=4 * digit, atol=4 * digit)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=8 * digit, atol=8 * digit)


@pytest.mark.parametrize("norm", ["variance", "evonorm_b0", "switchable"])
def test_training_may_go_on_before_the_backward_pass_of_an_evaluation(norm):
    slot = build(norm, 4).eval()
    x = images(4, 4, 3, 3).requires_grad_()
    y = slot(x)
    slot.train()(images(4, 4, 3, 3, seed=1))
    y.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("spec", ["frn", "frn_tlu", "batch", "evonorm_s0", "dyt"])
def test_nan_stays_nan(spec):
    x = images(2, 32, 3, 3)
    x[1, 5, 0, 0] = float("nan")
    assert build(spec, 32)(x)[1, 5, 0, 0].isnan()
