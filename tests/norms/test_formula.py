"""Norms written as formulas: every word of the language, whole layers, and random formulas, against numpy."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support.formula_steps import SHARES, all_shares, one_step
from support.formula_trees import FUNCTIONS as EXPECTED
from support.formula_trees import Array, formulas, moment, value
from support.norm_formulas import column, gradient
from support.ranks import run_on_ranks

from normhpc.config.formula import FUNCTIONS, MOMENTS, SCALARS, SCOPES, VECTORS, Formula, parse, written
from normhpc.config.norm import FormulaNorm
from normhpc.errors import InputError
from normhpc.norms import ParamSpec, build
from normhpc.norms.formula import evaluate

SHAPE = (3, 6, 2, 4)
GROUPS = 3
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
B0 = "x / max(std(x, 'batch'), v * x + std(x, 'instance'))"


def images(*shape, seed=0, **options):
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(**options)


def parameters(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        **{name: torch.rand(SHAPE[1], generator=generator, dtype=torch.float64) + 0.5 for name in VECTORS},
        **{name: torch.rand((), generator=generator, dtype=torch.float64) + 0.5 for name in SCALARS},
    }


def of_torch(formula: Formula, x: torch.Tensor, learned: dict[str, torch.Tensor], eps: float = 1e-5) -> torch.Tensor:
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return evaluate(formula, x, mean, variance, learned, GROUPS, eps)


def of_numpy(formula: Formula, x: torch.Tensor, learned: dict[str, torch.Tensor], eps: float = 1e-5) -> Array:
    return value(formula, x.numpy(), {name: values.numpy() for name, values in learned.items()}, GROUPS, eps)


def formula_slot(expr, act="relu", **fields):
    return build({"name": "formula", "expr": expr, "groups": GROUPS, **fields}, SHAPE[1], act)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    counts = FUNCTIONS[name]
    x = images().abs() if name in ("log", "log1p", "sqrt", "rsqrt") else 3 * images()
    for count in counts:
        formula = parse(f"{name}({', '.join(['x', 'v', 'b + 0.5'][:count])})")
        np.testing.assert_allclose(of_torch(formula, x, parameters()), of_numpy(formula, x, parameters()), rtol=1e-8)
    assert set(EXPECTED) == set(FUNCTIONS)


@pytest.mark.parametrize("operator", ["+", "-", "*", "/", "**"])
def test_operators(operator):
    for text in (f"square(x) {operator} v", f"2 {operator} abs(x)", f"-abs(x) {operator} (3 {operator} 2)"):
        formula = parse(text)
        np.testing.assert_allclose(of_torch(formula, images(), parameters()), of_numpy(formula, images(), parameters()))


@LAYOUTS
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", MOMENTS)
def test_moments(kind, scope, layout):
    if (kind, scope) == ("norm", "batch"):
        return
    x = (2 * images() + 1).contiguous(memory_format=layout)
    y = of_torch(parse(f"{kind}(x, '{scope}')"), x, {}, eps=0.1)
    assert y.is_contiguous(memory_format=layout)
    np.testing.assert_allclose(y, moment(kind, x.numpy(), scope, GROUPS, 0.1))


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "batch"])
@pytest.mark.parametrize("kind", MOMENTS)
def test_moments_of_moments_and_of_parameters(kind, scope):
    for inner in ("norm(x, 'instance')", "mean(x, 'pixel')", "a * v", "2", "std(x, 'group') - std(x, 'batch')"):
        formula = parse(f"x + {kind}({inner}, '{scope}')")
        np.testing.assert_allclose(of_torch(formula, images(), parameters()), of_numpy(formula, images(), parameters()))


@settings(max_examples=150, deadline=None)
@given(formulas())
def test_random_formulas(tree):
    expected = of_numpy(tree, images(), parameters())
    np.testing.assert_allclose(of_torch(tree, images(), parameters()), expected, rtol=1e-7, atol=1e-7)
    assert parse(written(tree)) == tree


@settings(max_examples=30, deadline=None)
@given(formulas())
def test_images_see_each_other_through_the_given_statistics_alone(tree):
    x = images()
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    blocks = [evaluate(tree, block, mean, variance, parameters(), GROUPS, 1e-5) for block in (x[:2], x[2:2], x[2:])]
    assert [len(block) for block in blocks] == [2, 0, 1]
    torch.testing.assert_close(torch.cat(blocks), of_torch(tree, x, parameters()))


@settings(max_examples=15, deadline=None)
@given(formulas(smooth=True))
def test_gradients_of_random_formulas(tree):
    learned = {name: values.requires_grad_() for name, values in parameters().items()}
    x = images(2, 6, 1, 2).requires_grad_()

    def of(x, *values):
        return of_torch(tree, x, dict(zip(learned, values, strict=True)))

    assert torch.autograd.gradcheck(of, (x, *learned.values()), rtol=1e-3, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize(
    ("expr", "spec"),
    [
        ("x", "none"),
        ("(x - mean(x, 'batch')) / std(x, 'batch')", {"name": "batch"}),
        ("(x - mean(x, 'layer')) / std(x, 'layer')", "layer"),
        ("(x - mean(x, 'instance')) / std(x, 'instance')", "instance"),
        ("(x - mean(x, 'group')) / std(x, 'group')", {"name": "group", "groups": GROUPS}),
        ("x / rms(x, 'instance')", {"name": "frn", "eps": 1e-5}),
        ("x / rms(x, 'pixel')", {"name": "rms", "eps": 1e-5}),
        ("x * sigmoid(v * x) / std(x, 'group')", {"name": "evonorm_s0", "groups": GROUPS}),
        ("x * sigmoid(x) / std(x, 'group')", {"name": "evonorm_s1", "groups": GROUPS}),
        ("x * sigmoid(x) / rms(x, 'group')", {"name": "evonorm_s2", "groups": GROUPS}),
    ],
)
@pytest.mark.parametrize("act", ["relu", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_built_in_norm(expr, spec, act, training):
    built_in = build(spec, SHAPE[1], act).double()
    own = formula_slot(expr, act, owns_act="sigmoid" in expr, running="unbiased", affine=spec != "none").double()
    for parameter in built_in.parameters():
        torch.nn.init.normal_(parameter, mean=0.5)
    own.load_state_dict(built_in.state_dict(), strict=False)
    own.train(training)
    built_in.train(training)
    results = []
    for slot in (own, built_in):
        x = images().requires_grad_()
        y = slot(x)
        y.backward(images(seed=5))
        gradients = {name: parameter.grad for name, parameter in slot.named_parameters()}
        results.append({"y": y.detach(), "x": x.grad, **gradients, **dict(slot.named_buffers())})
    mine, theirs = results
    assert own.owns_act == built_in.owns_act
    for name in theirs.keys() - {"num_batches_tracked"}:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("act", ["relu", "none"])
def test_evonorm_b0_in_one_line(act):
    slot = formula_slot(B0, act, owns_act=True).double()
    learned = dict(slot.named_parameters())
    assert set(learned) == ({"weight", "bias", "v"} if act == "relu" else {"weight", "bias"})
    for parameter in learned.values():
        torch.nn.init.normal_(parameter, mean=0.5, generator=torch.Generator().manual_seed(1))
    x, cotangent = images().requires_grad_(), images(seed=2)
    y = slot(x)
    y.backward(cotangent)

    def b0(x: Array, values: dict[str, Array]) -> Array:
        """Liu et al. 2020, table 1; where no activation follows, as in the authors' code."""
        normal = x
        if act == "relu":
            batch = np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
            instance = np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)
            normal = x / np.maximum(batch, column(values["v"]) * x + instance)
        return normal * column(values["weight"]) + column(values["bias"])

    at = {name: parameter.detach().numpy() for name, parameter in learned.items()}
    np.testing.assert_allclose(y.detach().numpy(), b0(x.detach().numpy(), at), rtol=1e-10, atol=1e-10)
    moved = gradient(lambda moved: b0(moved, at), x.detach().numpy(), cotangent.numpy())
    np.testing.assert_allclose(x.grad.numpy(), moved, rtol=1e-6, atol=1e-6)
    for name, parameter in learned.items():
        expected = gradient(
            lambda moved, name=name: b0(x.detach().numpy(), at | {name: moved}), at[name], cotangent.numpy()
        )
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("expr", ["x * sigmoid(v * x) / std(x, 'group')", B0, "u + tanh(a * x) * norm(x, 'pixel')**b"])
def test_second_derivatives(expr):
    slot = build({"name": "formula", "expr": expr, "groups": 2}, 4, "tanh").double()
    for parameter in slot.parameters():
        torch.nn.init.normal_(parameter, mean=0.5, generator=torch.Generator().manual_seed(1))
    names = [name for name, _ in slot.named_parameters()]

    def of(x, *values):
        return torch.func.functional_call(slot, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(of, (images(2, 4, 2, 3).requires_grad_(), *slot.parameters()))


def test_parameters_are_those_that_occur():
    slot = formula_slot("u + a * x", affine=False)
    assert {name: parameter.tolist() for name, parameter in slot.named_parameters()} == {"u": [0.0] * 6, "a": 1.0}
    assert not slot.shifts
    assert formula_slot("x").shifts
    assert slot.param_specs() == {"u": ParamSpec(), "a": ParamSpec()}
    assert list(slot.buffers()) == []
    assert slot.local_statistics() == ()


@pytest.mark.parametrize(("running", "factor"), [("biased", 1.0), ("unbiased", 24 / 23)])
def test_running_statistics(running, factor):
    slot = formula_slot("(x - mean(x, 'batch')) / std(x, 'batch')", "none", momentum=0.25, running=running).double()
    x = 3 * images() + 2
    slot(x)
    torch.testing.assert_close(slot.running_mean, 0.25 * x.mean((0, 2, 3)))
    torch.testing.assert_close(slot.running_var, 0.75 + 0.25 * x.var((0, 2, 3), correction=0) * factor)
    assert not slot.running_var.requires_grad
    before = copy.deepcopy(slot.state_dict())
    y = slot.eval()(x)
    expected = (x - slot.running_mean.view(1, -1, 1, 1)) / (slot.running_var.view(1, -1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(y, expected)
    assert all(torch.equal(values, before[name]) for name, values in slot.state_dict().items())
    assert slot.scope == "batch"
    assert slot.local_statistics() == ("running_mean", "running_var")
    assert formula_slot(B0, sync=True).local_statistics() == ()


def test_one_value_per_channel_is_refused_in_training_only():
    slot = formula_slot(B0)
    with pytest.raises(InputError, match=r"^norm: batch norm over one value per channel is always 0"):
        slot(torch.randn(1, 6, 1, 1))
    assert slot.eval()(torch.randn(1, 6, 1, 1)).isfinite().all()


def test_ranks_together_are_one_process(tmp_path):
    expected = one_step(slice(0, 6))
    ranks = run_on_ranks(2, all_shares, tmp_path)
    for shares in SHARES:
        for name, values in expected.items():
            parts = [rank[shares][name] for rank in ranks]
            if name in ("y", "x"):
                together = torch.cat(parts)
            elif name.startswith("running"):
                assert torch.equal(parts[0], parts[1])
                together = parts[0]
            else:
                together = parts[0] + parts[1]
            torch.testing.assert_close(together, values, msg=f"{name} of {shares}")
    for rank in ranks:
        assert rank["too few"].startswith("norm: batch norm over one value per channel is always 0")


def test_groups_must_divide_where_they_are_used():
    assert formula_slot("x / std(x, 'layer')", groups=4).groups == 1
    with pytest.raises(InputError, match=r"^norm\.groups: groups 4 does not divide 6 channels"):
        formula_slot("x / std(x, 'group')", groups=4)


@LAYOUTS
@pytest.mark.parametrize("act", ["relu", "none"])
@pytest.mark.parametrize(
    "expr", ["x", "-x", "mean(x, 'instance')", "x / rms(x, 'pixel')", "x / std(x, 'group')", "x / std(x, 'batch')"]
)
@pytest.mark.parametrize("affine", [True, False])
def test_input_is_never_overwritten_and_layout_and_dtype_are_kept(expr, affine, act, layout):
    for dtype in (torch.float32, torch.bfloat16):
        x = images(dtype=dtype).contiguous(memory_format=layout)
        before = x.clone()
        slot = formula_slot(expr, act, affine=affine)
        for training in (True, False):
            y = slot.train(training)(x)
            assert y.shape == x.shape
            assert y.dtype == dtype
            assert y.is_contiguous(memory_format=layout)
            assert torch.equal(x, before)


def test_statistics_of_bf16_are_fp32():
    slot, exact = formula_slot(B0, owns_act=True), formula_slot(B0, owns_act=True).double()
    x = (3 * images(4, 6, 9, 7) + 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = slot(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), exact(x.double()), rtol=2**-8, atol=2**-8)


@LAYOUTS
@pytest.mark.parametrize("scope", SCOPES)
def test_fp32_statistics_survive_a_mean_far_from_zero(scope, layout):
    formula = parse(f"(x - mean(x, '{scope}')) / std(x, '{scope}')")
    x = (images(4, 6, 16, 16, dtype=torch.float32) + 1000).contiguous(memory_format=layout)
    # A last digit of the input is 6e-5; a variance from sums of squares would be off by several per cent.
    np.testing.assert_allclose(of_torch(formula, x, {}), of_numpy(formula, x.double(), {}), rtol=0, atol=2e-3)


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    "expr",
    [
        "x * sigmoid(v * x) / std(x, 'group')",
        B0,
        "a * clip(x, -1, 2)**2 + elu(norm(x, 'layer')) * var(sin(2), 'pixel') + eps * b - exp(1)",
    ],
)
def test_compiled_equals_eager(expr):
    slot = formula_slot(expr, owns_act=True)
    twin = torch.compile(copy.deepcopy(slot), backend="aot_eager", fullgraph=True)
    x = images(dtype=torch.float32).requires_grad_()
    copied = x.detach().clone().requires_grad_()
    y, z = slot(x), twin(copied)
    torch.testing.assert_close(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    torch.testing.assert_close(x.grad, copied.grad)


def test_a_part_builds_the_layer_and_it_says_what_it_computes():
    slot = build(FormulaNorm(expr="x/std(x,'layer')"), 4)
    assert (
        str(slot) == "FormulaLayer(4, act=relu, x / std(x, 'layer') * weight + bias, groups=1, eps=1e-05, sync=False)"
    )
