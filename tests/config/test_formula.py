"""The language of formulas: what can be written, how mistakes are told, and how it looks in LaTeX."""

import contextlib
import json
import string
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from support.formula_trees import formulas

from normhpc.config import RunConfig
from normhpc.config.formula import (
    FUNCTIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    MOMENTS,
    NAMES,
    SCOPES,
    Binary,
    Call,
    FormulaError,
    Moment,
    Negative,
    Number,
    Variable,
    parse,
    scopes,
    written,
)
from normhpc.config.formula_latex import latex
from normhpc.config.norm import NormConfig
from normhpc.config.problems import validate_run
from normhpc.errors import InputError
from normhpc.sweep import load

X = Variable("x")
CATALOGUE = get_args(get_args(NormConfig)[0])


def test_a_formula_is_a_tree():
    assert parse("x * sigmoid(-v * x) / std(x, 'group')") == Binary(
        "/",
        Binary("*", X, Call("sigmoid", (Binary("*", Negative(Variable("v")), X),))),
        Moment("std", X, "group"),
    )
    assert parse("-x**2 - .5e1") == Binary("-", Negative(Binary("**", X, Number(2.0))), Number(5.0))


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("x/std( x ,\"batch\")", "x / std(x, 'batch')"),
        ("((x) + (2.0 * (x)))\n", "x + 2 * x"),
        ("x - (x - 1)", "x - (x - 1)"),
        ("(x - x) - 1", "x - x - 1"),
        ("x / (x * 2) * 3", "x / (x * 2) * 3"),
        ("x ** (2 ** x)", "x**2**x"),
        ("(x ** 2) ** x", "(x**2)**x"),
        ("(-x) ** 2 + (-(x ** 2))", "(-x)**2 + -x**2"),
        ("x ** (-1) * -(x * 2)", "x**-1 * -(x * 2)"),
        ("1e-5 * x + 1_000", "1e-05 * x + 1000"),
    ],
)  # fmt: skip
def test_there_is_one_spelling(text, spelled):
    assert written(parse(text)) == spelled
    assert parse(spelled) == parse(text)


@given(formulas())
def test_the_spelling_is_read_back(tree):
    assert parse(written(tree)) == tree


KNOWN = ", ".join((*FUNCTIONS, *MOMENTS))
MISTAKES = [
    ("", "an empty formula"),
    ("  ", "an empty formula"),
    ("1 + v", "a formula without x would forget its input"),
    ("  x * y", "column 7: no name is 'y'. There are: x, v, u, a, b, eps"),
    ("x * epss", "column 5: no name is 'epss', did you mean 'eps'? There are: x, v, u, a, b, eps"),
    ("x * weight", "column 5: weight is not written: affine: true multiplies by weight and adds bias"),
    ("x * tanh", "column 5: tanh is a function: write what it is of, tanh(x)"),
    ("x / std", "column 5: std is a function: write what it is of, std(x, 'scope') with the scope one of batch, "
     "instance, layer, group, pixel"),
    ("x *\n sigmod(x)", f"column 6: no function is 'sigmod', did you mean 'sigmoid'? There are: {KNOWN}"),
    ("x * qqq(x)", f"column 5: no function is 'qqq'. There are: {KNOWN}"),
    ("mean(x, 'chanel')", "column 9: no scope is 'chanel'. There are: batch, instance, layer, group, pixel"),
    ("mean(x, 'grup')", "column 9: no scope is 'grup', did you mean 'group'? There are: batch, instance, layer, group, "
     "pixel"),
    ("mean(x)", "column 1: mean is written mean(x, 'scope') with the scope one of batch, instance, layer, group, pixel"),
    ("max(x)", "column 1: max is written max(x, y), got 1 arguments"),
    ("sin(x, x)", "column 1: sin is written sin(x), got 2 arguments"),
    ("clip(x, 1)", "column 1: clip is written clip(x, low, high), got 2 arguments"),
    ("elu()", "column 1: elu is written elu(x) or elu(x, alpha), got 0 arguments"),
    ("mean(x * x, 'batch')", "column 6: over the batch a moment is of x itself, not of what is made of it"),
    ("norm(x, 'batch')", "column 1: over the batch there are mean, var, std and rms, not norm"),
    ("x *", "column 4: cannot be read as a formula from here"),
    ("(x + 1", "column 1: this '(' is never closed"),
    ("x / (std(x, 'group')", "column 5: this '(' is never closed"),
    ("  x / (std(x, 'group')", "column 7: this '(' is never closed"),
    ("x / (std(x, 'group'", "column 9: this '(' is never closed"),
    ("x + 1)", "column 6: cannot be read as a formula from here"),
    ("x y", "column 3: cannot be read as a formula from here"),
    ("x[0]", "column 2: '[' has no place in a formula"),
    ("x # half", "column 3: '#' has no place in a formula"),
    ("x \u00b7 2", "column 3: '\u00b7' has no place in a formula"),
    ("x.real", "column 1: expected numbers, names, + - * / ** and calls of functions"),
    ("x if x else 1", "column 1: expected numbers, names, + - * / ** and calls of functions"),
    ("x * True", "column 5: expected numbers, names, + - * / ** and calls of functions"),
    ("x * 1j", "column 5: expected numbers, names, + - * / ** and calls of functions"),
    ("x // 2", "column 1: expected numbers, names, + - * / ** and calls of functions"),
    ("+x", "column 1: expected numbers, names, + - * / ** and calls of functions"),
    ("x.sin(x)", "column 1: expected numbers, names, + - * / ** and calls of functions"),
    ("f'x'", "column 1: expected numbers, names, + - * / ** and calls of functions"),
    ("mean(*x)", "column 1: mean is written mean(x, 'scope') with the scope one of batch, instance, layer, group, pixel"),
    ("x * 1e400", "column 5: a number in a formula is at most 1e+30"),
    (f"x * {10**40}", "column 5: a number in a formula is at most 1e+30"),
    ("x * 9**9**9", "column 5: 9**9**9 is not a number of at most 1e+30"),
    ("x * (-8)**0.5", "column 5: (-8)**0.5 is not a number of at most 1e+30"),
    ("x * 0**-1", "column 5: 0**-1 is not a number of at most 1e+30"),
    ("x / (2 - 2)", "column 1: division by 0"),
    ("x" + " " * MAX_LENGTH, f"a formula has at most {MAX_LENGTH} characters, got {MAX_LENGTH + 1}"),
    ("x" + " + x" * MAX_DEPTH, "nested too deeply: at most 50 operations inside each other"),
    ("-" * (MAX_LENGTH - 1) + "x", "nested too deeply: at most 50 operations inside each other"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text, message):
    with pytest.raises(FormulaError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_the_deepest_formula_will_do():
    assert parse("x" + " + x" * (MAX_DEPTH - 1))


ALPHABET = st.sampled_from(
    ["x", "v", "mean", "max", "'layer'", "(", ")", ",", "-", "**", "/", "9", ".", " ", "e5", "if"]
)


@given(st.one_of(st.lists(ALPHABET, max_size=40).map("".join), st.text(string.printable, max_size=60), st.text()))
@example("\x00")
@example("(" * 400 + "x" + ")" * 400)
@example("x(" * 300)
@example("1if x else 2")
def test_whatever_is_written_there_is_a_formula_or_a_message(text):
    with contextlib.suppress(FormulaError):
        tree = parse(text)
        assert parse(written(tree)) == tree


def test_scopes_are_those_of_all_moments():
    assert scopes(parse("x")) == set()
    assert scopes(parse("mean(x / std(x, 'batch'), 'pixel') + norm(x, 'pixel')")) == {"batch", "pixel"}


@pytest.mark.parametrize("norm", CATALOGUE, ids=lambda norm: norm.__name__)
def test_formulas_of_the_catalogue_are_in_the_language(norm):
    tree = parse(norm.formula, free_names=True)
    assert written(tree) == norm.formula
    text = latex(tree)
    assert text.count("{") == text.count("}")
    assert "}_" not in text
    assert "*" not in text
    assert "|" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x * v / std(x, 'batch') + bias", r"\frac{x v}{\sqrt{\sigma_{N,H,W}^2 + \epsilon}} + \beta"),
        ("2 * x * tanh(x)", r"2 x \cdot \tanh\left(x\right)"),
        ("x * 3", r"x \cdot 3"),
        ("x - (x - 1)", r"x - \left(x - 1\right)"),
        ("x - (x * 2) + 1e-5", r"x - x \cdot 2 + 1 \cdot 10^{-5}"),
        ("(x + 1)**(1 - x)", r"\left(x + 1\right)^{1 - x}"),
        ("(-x)**-x * -x", r"\left(-x\right)^{-x} \cdot \left(-x\right)"),
        ("-(x + 1)", r"-\left(x + 1\right)"),
        ("square(x)**2", r"\left(x^2\right)^{2}"),
        ("sqrt(abs(x)) * rsqrt(x)", r"\sqrt{\left\lvert x \right\rvert} \cdot \frac{1}{\sqrt{x}}"),
        ("max(x, erf(x))", r"\max\left(x, \mathrm{erf}\left(x\right)\right)"),
        ("var(x, 'layer') + var(x * x, 'pixel')", r"\sigma_{C,H,W}^2 + \sigma_{C}^2\left(x x\right)"),
        ("var(x, 'layer')**2", r"\left(\sigma_{C,H,W}^2\right)^{2}"),
        ("rms(x + 1, 'group')", r"\sqrt{\mu_{G,H,W}\left(\left(x + 1\right)^2\right) + \epsilon}"),
        ("norm(x, 'instance')", r"\lVert x \rVert_{H,W}"),
        ("mixed_mean + long_name", r"\hat\mu + \mathrm{long\ name}"),
    ],
)  # fmt: skip
def test_latex(text, expected):
    assert latex(parse(text, free_names=True)) == expected


def norm_of(**fields):
    return RunConfig.model_validate({"norm": {"name": "formula", **fields}}).norm


def test_spelling_does_not_make_another_run():
    one, other = ({"norm": {"name": "formula", "expr": expr}} for expr in ('(x)/std(x,"layer")', "x / std(x, 'layer')"))
    assert RunConfig.model_validate(one).run_id == RunConfig.model_validate(other).run_id


@pytest.mark.parametrize(
    ("expr", "reach"),
    [
        ("tanh(a * x)", "value"),
        ("x / rms(x, 'pixel')", "pixel"),
        ("x / rms(x, 'pixel') / norm(x, 'group')", "sample"),
        ("x / max(std(x, 'batch'), std(x, 'instance'))", "batch"),
    ],
)
def test_reach_is_the_widest_scope(expr, reach):
    assert norm_of(expr=expr).reach == reach


def test_groups_matter_only_to_moments_over_groups():
    assert norm_of(expr="x / std(x, 'layer')", groups=7).groups_of(16) == 1
    assert norm_of(expr="x / std(x, 'group')", groups=7).groups_of(16) is None
    assert norm_of(expr="x / std(x, 'group')", group_size=4).groups_of(16) == 4


def test_affine_and_activation_decide_what_is_computed():
    whole = norm_of(expr="tanh(x)", owns_act=True)
    assert written(whole.tree()) == "tanh(x) * weight + bias"
    assert written(whole.tree(act=False)) == "x * weight + bias"
    bare = norm_of(expr="tanh(x)", affine=False)
    assert written(bare.tree()) == written(bare.tree(act=False)) == "tanh(x)"


def test_mistakes_in_a_run():
    with pytest.raises(InputError) as caught:
        validate_run({"norm": {"name": "formula", "expr": "x * sigmod(x)", "groups": 0}})
    assert str(caught.value).splitlines() == [
        "norm.groups: expected a positive integer, got 0",
        f"norm.expr: column 5: no function is 'sigmod', did you mean 'sigmoid'? There are: {KNOWN}",
    ]
    with pytest.raises(InputError, match=r"^norm\.expr: a value is needed, there is no default$"):
        validate_run({"norm": "formula"})
    with pytest.raises(InputError, match=r"^norm\.expr: expected a string, got 3$"):
        validate_run({"norm": {"name": "formula", "expr": 3}})


def test_mistakes_in_a_sweep_have_their_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text(
        'matrix:\n  norm:\n    - {name: formula, expr: "x * y"}\n    - name: formula\n      expr: x +\n'
    )
    with pytest.raises(InputError) as caught:
        load("sweep.yaml")
    assert str(caught.value).splitlines() == [
        f"sweep.yaml:3:29: matrix.norm[0].expr: column 5: no name is 'y'. There are: {', '.join(NAMES)}",
        "sweep.yaml:5:13: matrix.norm[1].expr: column 4: cannot be read as a formula from here",
    ]


def test_a_search_space_is_a_list_of_formulas(tmp_path):
    spreads = [f"{kind}(x, '{scope}')" for kind in ("std", "rms") for scope in SCOPES]
    numerators = ["x", "x * sigmoid(v * x)", "tanh(x)"]
    exprs = [f"{numerator} / {spread}" for numerator in numerators for spread in spreads]
    listed = "".join(f'    - "{expr}"\n' for expr in exprs)
    (tmp_path / "space.yaml").write_text(
        f"base:\n  norm: {{name: formula, owns_act: true}}\nmatrix:\n  norm.expr:\n{listed}  norm.eps: [1.0e-5, 0.1]\n"
    )
    runs = list(load(tmp_path / "space.yaml").runs())
    assert len({run.run_id for run in runs}) == len(runs) == 2 * len(exprs)
    norms = [json.loads(run.config_json)["norm"] for run in runs]
    assert {(norm["name"], norm["expr"]) for norm in norms} == {("formula", expr) for expr in exprs}


def test_a_condition_matches_a_formula_in_any_spelling(tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        "base: {norm: {name: formula, expr: x}}\nmatrix:\n  norm.expr: [x * x, tanh(x)]\n  epochs: [1, 2]\n"
        "exclude: [{norm.expr: (x*x), epochs: 2}]\n"
    )
    configs = [json.loads(run.config_json) for run in load(tmp_path / "sweep.yaml").runs()]
    assert [(config["norm"]["expr"], config["epochs"]) for config in configs] == [
        ("x * x", 1),
        ("tanh(x)", 1),
        ("tanh(x)", 2),
    ]
