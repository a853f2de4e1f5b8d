"""The language of formulas: what a ``formula`` norm computes, and what the catalogue says every norm computes.

A formula is written like Python and never run by it: its syntax tree is turned, node by node, into the small trees
below, and whatever has no place in them is refused with its column. ``docs/norms/formula.md`` describes the language.
"""

import ast
import math
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from normhpc.errors import did_you_mean

Operator = Literal["+", "-", "*", "/", "**"]


class FormulaError(ValueError):
    """A formula that cannot be; the message has the column, which counts from 1."""


@dataclass(frozen=True)
class Number:
    """A finite number that is not negative."""

    value: float


@dataclass(frozen=True)
class Variable:
    """``x``, a learned parameter or a field of the norm."""

    name: str


@dataclass(frozen=True)
class Negative:
    """Minus the operand."""

    operand: "Formula"


@dataclass(frozen=True)
class Binary:
    """Two operands and what is done with them."""

    operator: Operator
    left: "Formula"
    right: "Formula"


@dataclass(frozen=True)
class Call:
    """An elementwise function."""

    function: str
    arguments: "tuple[Formula, ...]"


@dataclass(frozen=True)
class Moment:
    """A statistic of the operand over a scope, one number for all its values."""

    kind: str
    operand: "Formula"
    scope: str


Formula = Number | Variable | Negative | Binary | Call | Moment

VECTORS = {"v": 1.0, "u": 0.0}
"""Learned parameters with a value per channel, and where they start."""
SCALARS = {"a": 1.0, "b": 0.0}
"""Learned parameters with one value for the layer, and where they start."""
NAMES = ("x", *VECTORS, *SCALARS, "eps")
"""What a formula can name: the input, the learned parameters and the norm's ``eps``."""
FUNCTIONS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("sigmoid", "tanh", "erf", "arctan", "sin", "cos", "relu", "softplus"), (1,)),
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "abs", "sign"), (1,)),
    **dict.fromkeys(("max", "min"), (2,)),
    "clip": (3,),
    "elu": (1, 2),
}
"""Every elementwise function and how many arguments it can take."""
MOMENTS = ("mean", "var", "std", "rms", "norm")
"""Mean, biased variance, sqrt(variance + eps), sqrt(mean of squares + eps), and the root of the sum of squares."""
SCOPES = ("batch", "instance", "layer", "group", "pixel")
"""What a moment is over: (N, H, W), (H, W), (C, H, W), a group of channels and (H, W), or C."""

MAX_LENGTH = 1000
MAX_DEPTH = 50
MAX_NUMBER = 1e30
"""Well inside fp32."""

_FOREIGN = re.compile(r"[^A-Za-z0-9_+\-*/().,'\"\s]")
_OPERATORS: dict[type[ast.operator], Operator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 4}
_NEGATIVE_RANK, _ATOM_RANK = 3, 5


def parse(text: str, *, free_names: bool = False) -> Formula:
    """The tree of a formula. Raises :class:`FormulaError` with the column of the first mistake.

    ``free_names`` is for showing formulas that are not computed from their text, those of the catalogue: every name,
    function and scope will do.
    """
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"a formula has at most {MAX_LENGTH} characters, got {len(text)}")
    if not text.strip():
        raise FormulaError("an empty formula")
    if foreign := _FOREIGN.search(text):
        raise FormulaError(f"column {foreign.start() + 1}: {foreign.group()!r} has no place in a formula")
    line = re.sub(r"\s", " ", text)
    reader = _Reader(indent=len(line) - len(line.lstrip()), free_names=free_names)
    formula = reader.read(_syntax(line.lstrip(), reader.indent))
    if not free_names and Variable("x") not in set(nodes(formula)):
        raise FormulaError("a formula without x would forget its input")
    return formula


def nodes(formula: Formula) -> Iterator[Formula]:
    """``formula`` and everything in it, in the order of writing."""
    yield formula
    for part in _parts(formula):
        yield from nodes(part)


def scopes(formula: Formula) -> frozenset[str]:
    """The scopes of all moments in ``formula``."""
    return frozenset(node.scope for node in nodes(formula) if isinstance(node, Moment))


def written(formula: Formula) -> str:
    """The one spelling of ``formula``: single spaces and quotes, no needless parentheses. :func:`parse` reads it back."""
    return _written(formula)[0]


_UNCLOSED = "'(' was never closed"
"""What Python says of such a text, since 3.10."""


def _syntax(text: str, indent: int) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        column = min(error.offset or math.inf, len(text) + 1)
        what = "this '(' is never closed" if error.msg == _UNCLOSED else "cannot be read as a formula from here"
        raise FormulaError(f"column {column + indent}: {what}") from None
    except (RecursionError, MemoryError):
        raise FormulaError(_too_deep()) from None


def _too_deep() -> str:
    return f"nested too deeply: at most {MAX_DEPTH} operations inside each other"


class _Reader:
    """Turns nodes of Python's syntax tree into formulas; the first thing amiss raises."""

    def __init__(self, indent: int, *, free_names: bool) -> None:
        self.indent = indent
        self.free_names = free_names

    def read(self, node: ast.expr, depth: int = 1) -> Formula:
        if depth > MAX_DEPTH:
            raise FormulaError(_too_deep())
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return Number(self.number(node, value))
            case ast.Name(id=name):
                return self.variable(node, name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Negative(self.read(operand, depth + 1))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
                formula = Binary(_OPERATORS[type(operator)], self.read(left, depth + 1), self.read(right, depth + 1))
                self.check_constant(node, formula)
                return formula
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.moment(node, depth) if name in MOMENTS else self.call(node, name, arguments, depth)
        raise self.error(node, "expected numbers, names, + - * / ** and calls of functions")

    def number(self, node: ast.expr, value: float) -> float:
        # an int too large for a float is refused by the comparison before it is converted
        if value > MAX_NUMBER:
            raise self.error(node, f"a number in a formula is at most {MAX_NUMBER:g}")
        return float(value)

    def variable(self, node: ast.expr, name: str) -> Variable:
        if self.free_names or name in NAMES:
            return Variable(name)
        if name in FUNCTIONS or name in MOMENTS:
            raise self.error(node, f"{name} is a function: write what it is of, {self.usage(name)}")
        if name in ("weight", "bias"):
            raise self.error(node, f"{name} is not written: affine: true multiplies by weight and adds bias")
        raise self.error(node, f"no name is {name!r}{did_you_mean(name, NAMES) or '.'} There are: {', '.join(NAMES)}")

    def call(self, node: ast.expr, name: str, arguments: list[ast.expr], depth: int) -> Call:
        if not self.free_names:
            self.check_function(node, name, len(arguments))
        return Call(name, tuple(self.read(argument, depth + 1) for argument in arguments))

    def check_function(self, node: ast.expr, name: str, count: int) -> None:
        if name not in FUNCTIONS:
            known = (*FUNCTIONS, *MOMENTS)
            hint = did_you_mean(name, known) or "."
            raise self.error(node, f"no function is {name!r}{hint} There are: {', '.join(known)}")
        if count not in FUNCTIONS[name]:
            raise self.error(node, f"{name} is written {self.usage(name)}, got {count} arguments")

    def moment(self, node: ast.Call, depth: int) -> Moment:
        assert isinstance(node.func, ast.Name)
        kind = node.func.id
        match node.args:
            case [operand, ast.Constant(value=str() as scope) as place]:
                pass
            case _:
                raise self.error(node, f"{kind} is written {self.usage(kind)}")
        if scope not in SCOPES and not self.free_names:
            hint = did_you_mean(scope, SCOPES) or "."
            raise self.error(place, f"no scope is {scope!r}{hint} There are: {', '.join(SCOPES)}")
        formula = self.read(operand, depth + 1)
        if scope == "batch" and not self.free_names:
            if kind == "norm":
                raise self.error(node, "over the batch there are mean, var, std and rms, not norm")
            if formula != Variable("x"):
                raise self.error(operand, "over the batch a moment is of x itself, not of what is made of it")
        return Moment(kind, formula, scope)

    def usage(self, name: str) -> str:
        if name in MOMENTS:
            return f"{name}(x, 'scope') with the scope one of {', '.join(SCOPES)}"
        forms = {"clip": "clip(x, low, high)", "elu": "elu(x) or elu(x, alpha)"}
        return forms.get(name) or (f"{name}(x)" if FUNCTIONS[name] == (1,) else f"{name}(x, y)")

    def check_constant(self, node: ast.expr, formula: Binary) -> None:
        if formula.operator == "/" and constant(formula.right) == 0:
            raise self.error(node, "division by 0")
        try:
            value = constant(formula)
        except (ArithmeticError, ValueError):
            value = math.inf
        if value is not None and abs(value) > MAX_NUMBER:
            raise self.error(node, f"{written(formula)} is not a number of at most {MAX_NUMBER:g}")

    def error(self, node: ast.expr, message: str) -> FormulaError:
        return FormulaError(f"column {node.col_offset + self.indent + 1}: {message}")


def constant(formula: Formula) -> float | None:
    """The value of a formula made of numbers and operators alone, else None.

    Raises :class:`ArithmeticError` or :class:`ValueError` where there is no finite real value; :func:`parse` lets no
    such part pass.
    """
    match formula:
        case Number(value):
            return value
        case Negative(operand):
            positive = constant(operand)
            return None if positive is None else -positive
        case Binary(operator, left, right):
            one, other = constant(left), constant(right)
            return None if one is None or other is None else combined(operator, one, other)
    return None


def combined(operator: Operator, one: float, other: float) -> float:
    """One number with another; a power is real."""
    match operator:
        case "+":
            return one + other
        case "-":
            return one - other
        case "*":
            return one * other
        case "/":
            return one / other
    return math.pow(one, other)


def _parts(formula: Formula) -> Collection[Formula]:
    match formula:
        case Negative(operand) | Moment(_, operand, _):
            return (operand,)
        case Binary(_, left, right):
            return (left, right)
        case Call(_, arguments):
            return arguments
    return ()


def _written(formula: Formula) -> tuple[str, int]:
    """The text of ``formula`` and how tightly its outermost operator binds."""
    match formula:
        case Number(value):
            return (str(int(value)) if value.is_integer() and value < 1e15 else repr(value)), _ATOM_RANK
        case Variable(name):
            return name, _ATOM_RANK
        case Negative(operand):
            return f"-{_within(operand, _NEGATIVE_RANK)}", _NEGATIVE_RANK
        case Binary("**", left, right):
            return f"{_within(left, _ATOM_RANK)}**{_within(right, _NEGATIVE_RANK)}", _RANK["**"]
        case Binary(operator, left, right):
            rank = _RANK[operator]
            return f"{_within(left, rank)} {operator} {_within(right, rank + 1)}", rank
        case Call(function, arguments):
            return f"{function}({', '.join(map(written, arguments))})", _ATOM_RANK
        case Moment(kind, operand, scope):
            return f"{kind}({written(operand)}, {scope!r})", _ATOM_RANK


def _within(formula: Formula, rank: int) -> str:
    """The text of an operand; in parentheses where it binds less tightly than ``rank``."""
    text, own = _written(formula)
    return text if own >= rank else f"({text})"
