"""Random formulas, and what a formula is in float64 numpy, written without a look at normhpc.norms."""

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

from normhpc.config.formula import Binary, Call, Formula, Moment, Negative, Number, Variable

Array = NDArray[np.float64]

FUNCTIONS: dict[str, Callable[..., Array]] = {
    "sigmoid": expit,
    "tanh": np.tanh,
    "erf": erf,
    "arctan": np.arctan,
    "sin": np.sin,
    "cos": np.cos,
    "relu": lambda x: x * (x > 0),
    "softplus": lambda x: np.logaddexp(0, x),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "square": lambda x: x * x,
    "abs": np.abs,
    "sign": np.sign,
    "max": np.maximum,
    "min": np.minimum,
    "clip": lambda x, low, high: np.where(np.where(x > low, x, low) < high, np.where(x > low, x, low), high),
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1)),
}
BOUNDED = ("sigmoid", "tanh", "erf", "arctan", "sin", "cos")
"""What keeps a random formula from running away."""


def value(formula: Formula, x: Array, parameters: dict[str, Array], groups: int, eps: float) -> Array:
    """``formula`` of ``x`` (N, C, H, W), of x's shape."""

    def of(node: Formula) -> Array:
        match node:
            case Number(number):
                return np.full_like(x, number)
            case Variable("x"):
                return x
            case Variable("eps"):
                return np.full_like(x, eps)
            case Variable(name):
                return np.zeros_like(x) + np.reshape(parameters[name], (1, -1, 1, 1))
            case Negative(operand):
                return 0 - of(operand)
            case Binary("+", left, right):
                return of(left) + of(right)
            case Binary("-", left, right):
                return of(left) - of(right)
            case Binary("*", left, right):
                return of(left) * of(right)
            case Binary("/", left, right):
                return of(left) / of(right)
            case Binary("**", left, right):
                return of(left) ** of(right)
            case Call(function, arguments):
                return FUNCTIONS[function](*map(of, arguments))
            case Moment(kind, operand, scope):
                return moment(kind, of(operand), scope, groups, eps)

    return of(formula)


def moment(kind: str, values: Array, scope: str, groups: int, eps: float) -> Array:
    """A statistic at every place, over the values that share it."""
    result = np.empty_like(values)
    channels = values.shape[1]
    for n, c, h, w in np.ndindex(*values.shape):
        size = channels // groups
        first = c - c % size
        own = {
            "batch": values[:, c],
            "instance": values[n, c],
            "layer": values[n],
            "group": values[n, first : first + size],
            "pixel": values[n, :, h, w],
        }[scope].ravel()
        mean = own.sum() / own.size
        variance = ((own - mean) ** 2).sum() / own.size
        result[n, c, h, w] = {
            "mean": mean,
            "var": variance,
            "std": np.sqrt(variance + eps),
            "rms": np.sqrt((own**2).sum() / own.size + eps),
            "norm": np.sqrt((own**2).sum()),
        }[kind]
    return result


def formulas(*, smooth: bool = False) -> st.SearchStrategy[Formula]:
    """Formulas that name x and stay finite; with ``smooth``, those whose gradient has no jumps either."""
    leaves = st.one_of(
        st.just(Variable("x")),
        st.sampled_from("vuab").map(Variable),
        st.floats(0.125, 4).map(lambda number: Number(round(number, 3))),
        st.builds(Moment, st.sampled_from(("mean", "var", "std", "rms")), st.just(Variable("x")), st.just("batch")),
    )

    def larger(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
        positive = inner.map(lambda operand: Binary("+", Call("sigmoid", (operand,)), Number(0.5)))
        parts = [
            st.builds(Negative, inner),
            st.builds(Binary, st.sampled_from("+-*"), inner, inner),
            st.builds(Binary, st.just("/"), inner, positive),
            st.builds(Binary, st.just("**"), positive, inner.map(lambda operand: Call("tanh", (operand,)))),
            st.builds(lambda name, operand: Call(name, (operand,)), st.sampled_from(BOUNDED), inner),
            st.builds(
                lambda name, operand: Call(name, (operand,)),
                st.sampled_from(("log", "log1p", "sqrt", "rsqrt", "square", "exp", "expm1", "softplus")),
                positive,
            ),
            st.builds(
                Moment,
                st.sampled_from(("mean", "var", "std", "rms")),
                inner,
                st.sampled_from(("instance", "layer", "group", "pixel")),
            ),
        ]
        if not smooth:
            parts += [
                st.builds(lambda *operands: Call("max", operands), inner, inner),
                st.builds(lambda *operands: Call("min", operands), inner, inner),
                st.builds(lambda operand: Call("clip", (operand, Number(0.5), Number(2.0))), inner),
                st.builds(lambda name, operand: Call(name, (operand,)), st.sampled_from(("abs", "relu", "elu")), inner),
                st.builds(Moment, st.just("norm"), inner, st.sampled_from(("instance", "layer", "group", "pixel"))),
            ]
        return st.one_of(parts)

    tree = st.recursive(leaves, larger, max_leaves=8)
    return tree.map(lambda inner: Binary("*", Variable("x"), inner))
