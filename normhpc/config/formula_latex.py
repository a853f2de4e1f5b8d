"""Formulas as LaTeX, for the pages of the catalogue."""

from normhpc.config.formula import Binary, Call, Formula, Moment, Negative, Number, Variable

_SYMBOLS = {
    "weight": r"\gamma",
    "bias": r"\beta",
    "alpha": r"\alpha",
    "beta": r"\beta",
    "eps": r"\epsilon",
    "gate": r"\rho",
    "threshold": r"\tau",
    "shift": "s",
    "channels": "C",
    "mixed_mean": r"\hat\mu",
    "mixed_var": r"\hat\sigma^2",
}
_OVER = {
    "batch": "N,H,W",
    "instance": "H,W",
    "layer": "C,H,W",
    "group": "G,H,W",
    "pixel": "C",
    "ghost": "n,H,W",
    "filter": "I,h,w",
}
_OWN_COMMANDS = {"tanh", "sin", "cos", "exp", "log", "arctan", "max", "min"}
_SUM, _PRODUCT, _POWER, _ATOM = 1, 2, 3, 4
"""How tightly a piece of LaTeX holds together."""


def latex(formula: Formula) -> str:
    r"""``formula`` in LaTeX's mathematics, without the dollars.

    A moment is \mu or \sigma^2 with the axes it is over, G being a group of channels and n a stretch of images. Only
    commands that web pages know, and no underscore where Markdown could take it for emphasis.
    """
    return _latex(formula)[0]


def _latex(formula: Formula) -> tuple[str, int]:
    match formula:
        case Number(value):
            return _number(value)
        case Variable(name):
            return _SYMBOLS.get(name) or (name if len(name) == 1 else _upright(name)), _ATOM
        case Negative(operand):
            return f"-{_within(operand, _PRODUCT)}", _SUM
        case Binary("+" | "-" as operator, left, right):
            return f"{latex(left)} {operator} {_within(right, _SUM + (operator == '-'))}", _SUM
        case Binary("*", left, right):
            dot = " " if _adjoins(left) and _adjoins(right) and not isinstance(right, Number) else r" \cdot "
            return f"{_within(left, _PRODUCT)}{dot}{_within(right, _PRODUCT)}", _PRODUCT
        case Binary("/", left, right):
            return rf"\frac{{{latex(left)}}}{{{latex(right)}}}", _PRODUCT
        case Binary(_, left, right):
            return f"{_within(left, _ATOM)}^{{{latex(right)}}}", _POWER
        case Call(function, arguments):
            return _call(function, arguments)
        case Moment(kind, operand, scope):
            return _moment(kind, operand, _OVER[scope])


def _call(function: str, arguments: tuple[Formula, ...]) -> tuple[str, int]:
    inner = ", ".join(map(latex, arguments))
    match function:
        case "sqrt":
            return rf"\sqrt{{{inner}}}", _ATOM
        case "rsqrt":
            return rf"\frac{{1}}{{\sqrt{{{inner}}}}}", _PRODUCT
        case "square":
            return f"{_within(arguments[0], _ATOM)}^2", _POWER
        case "abs":
            return rf"\left\lvert {inner} \right\rvert", _ATOM
    name = rf"\{function}" if function in _OWN_COMMANDS else _upright(function)
    return rf"{name}\left({inner}\right)", _ATOM


def _moment(kind: str, operand: Formula, over: str) -> tuple[str, int]:
    of = "" if operand == Variable("x") else rf"\left({latex(operand)}\right)"
    match kind:
        case "mean":
            return rf"\mu_{{{over}}}{of}", _ATOM
        case "var":
            return rf"\sigma_{{{over}}}^2{of}", _ATOM if of else _POWER
        case "std":
            return rf"\sqrt{{\sigma_{{{over}}}^2{of} + \epsilon}}", _ATOM
        case "rms":
            return rf"\sqrt{{\mu_{{{over}}}\left({_within(operand, _ATOM)}^2\right) + \epsilon}}", _ATOM
    return rf"\lVert {latex(operand)} \rVert_{{{over}}}", _ATOM


def _adjoins(formula: Formula) -> bool:
    """Whether a factor is a symbol that needs no dot beside another."""
    match formula:
        case Number():
            return True
        case Variable(name):
            return len(name) == 1 or name in _SYMBOLS
        case Binary("*", left, right):
            return _adjoins(left) and _adjoins(right)
    return False


def _number(value: float) -> tuple[str, int]:
    digits, _, exponent = f"{value:.6g}".partition("e")
    return (rf"{digits} \cdot 10^{{{int(exponent)}}}", _PRODUCT) if exponent else (digits, _ATOM)


def _upright(name: str) -> str:
    words = name.replace("_", r"\ ")
    return rf"\mathrm{{{words}}}"


def _within(formula: Formula, rank: int) -> str:
    """The LaTeX of an operand; in parentheses where it holds less tightly than ``rank``."""
    text, own = _latex(formula)
    return text if own >= rank else rf"\left({text}\right)"
