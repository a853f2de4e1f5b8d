"""What is wrong with a configuration, in the language of its fields instead of the validator's."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from normhpc.config.base import Part
from normhpc.config.run import RunConfig
from normhpc.errors import InputError, Problem, did_you_mean

Keys = tuple[str | int, ...]
"""Where a value stands in nested mappings and lists."""


class Finding(NamedTuple):
    """One mistake: ``path`` leads to the value at fault, ``unknown_key`` tells that the key itself is at fault."""

    path: Keys
    message: str
    unknown_key: bool = False


def findings_of(error: ValidationError, model: type[BaseModel]) -> list[Finding]:
    """Every mistake ``error`` holds about a value for ``model``, in the order of the fields."""
    return [_finding(details, model) for details in error.errors(include_url=False) if not _is_echo(details)]


def validate_run(mapping: Mapping[str, Any], file: str = "") -> RunConfig:
    """The configuration in ``mapping``. Raises :class:`InputError` with every problem, each with its dotted path."""
    try:
        return RunConfig.model_validate(mapping)
    except ValidationError as error:
        found = findings_of(error, RunConfig)
    raise InputError(Problem(finding.message, dotted(finding.path), file) for finding in found)


def dotted(path: Sequence[str | int]) -> str:
    """``matrix.norm[2].groups`` for ``("matrix", "norm", 2, "groups")``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def shown(value: object) -> str:
    """``value`` as a YAML reader would recognise it, cut to a line."""
    words: dict[object, str] = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    elif isinstance(value, int) and abs(value) >= 10**30:
        text = "a huge number"
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kinds_of(field: FieldInfo) -> tuple[type[Part], ...]:
    """The parts that ``field`` can hold; empty for a field of plain values."""
    return _models_in(field.annotation)


def unknown_key(key: object, allowed: Sequence[str]) -> str:
    """The message for a key that nothing knows."""
    hint = did_you_mean(key, allowed)
    return f"unknown key {shown(key)}{hint} allowed: {', '.join(allowed)}".replace(
        f"{key!r} allowed", f"{key!r}, allowed"
    )


def _models_in(annotation: Any) -> tuple[type[Part], ...]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return (annotation,)
    return tuple(kind for argument in get_args(annotation) for kind in _models_in(argument))


def _finding(details: ErrorDetails, model: type[BaseModel]) -> Finding:
    context, given = details.get("ctx", {}), details["input"]
    path, owner = _without_tags(details["loc"], model)
    match details["type"]:
        case "disagreement":
            return Finding((*path, *str(context["path"]).split(".")), str(context["message"]))
        case "unknown_name":
            return Finding((*path, "name"), details["msg"])
        case "extra_forbidden" if owner is not None:
            return Finding(path, unknown_key(path[-1], list(owner.model_fields)), unknown_key=True)
        case "invalid_key":
            return Finding(path, f"expected a name as key, got {shown(path[-1])}", unknown_key=True)
        case "missing":
            return Finding(path, "a value is needed, there is no default")
        case "value_error":
            return Finding(path, str(context["error"]))
        case "part_type":
            return Finding(path, details["msg"].rpartition(", got ")[0] + f", got {shown(given)}")
        case kind:
            expected = _expected(kind, context, details["msg"])
            return Finding(path, f"expected {expected}, got {shown(given)}{_hint(kind, context, given)}")


def _is_echo(details: ErrorDetails) -> bool:
    """Whether a list is called too short only because the validator left its wrong values out."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def _without_tags(loc: Keys, model: type[BaseModel]) -> tuple[Keys, type[BaseModel] | None]:
    """``loc`` without the class names of chosen parts, and the part that owns its last key."""
    path: list[str | int] = []
    here: type[BaseModel] | None = model
    owner: type[BaseModel] | None = None
    kinds: tuple[type[Part], ...] = ()
    for step in loc:
        chosen = next((kind for kind in kinds if kind.__name__ == step), None)
        if chosen is not None:
            here, kinds = chosen, ()
            continue
        path.append(step)
        if isinstance(step, int):  # the items of a list are what its field holds
            continue
        owner = here
        field = here.model_fields.get(str(step)) if here is not None else None
        kinds = kinds_of(field) if field is not None else ()
        here = kinds[0] if len(kinds) == 1 else None
    return tuple(path), owner


_NOUNS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "string_unicode": "valid Unicode text",
}
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
"""What YAML 1.2 reads as a number when it is not quoted."""
_BOUNDS = {
    "greater_than_equal": ("ge", ">="),
    "greater_than": ("gt", ">"),
    "less_than_equal": ("le", "<="),
    "less_than": ("lt", "<"),
}


def _expected(kind: str, context: Mapping[str, Any], otherwise: str) -> str:
    if kind in _NOUNS:
        return _NOUNS[kind]
    if kind in _BOUNDS:
        key, sign = _BOUNDS[kind]
        bound = context[key]
        noun = "integer" if isinstance(bound, int) else "number"
        if (key, bound) in (("ge", 1), ("gt", 0)):
            return f"a positive {noun}"
        return (
            f"{'an' if noun == 'integer' else 'a'} {noun} {sign} {bound:g}"
            if noun == "number"
            else f"an integer {sign} {bound}"
        )
    if kind == "literal_error":
        return f"one of {', '.join(_choices(context))}"
    if kind in ("too_short", "too_long"):
        word, count = (
            ("at least", context.get("min_length")) if kind == "too_short" else ("at most", context.get("max_length"))
        )
        return f"{word} {count} value{'' if count == 1 else 's'}"
    return otherwise[:1].lower() + otherwise[1:]


def _choices(context: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", str(context["expected"]))


def _hint(kind: str, context: Mapping[str, Any], given: object) -> str:
    if kind == "literal_error":
        return did_you_mean(given, _choices(context))
    if kind in ("int_type", "float_type") and isinstance(given, str):
        if _NUMBER.fullmatch(given):
            return ", a string: leave out the quotes"
        if "_" in given and _NUMBER.fullmatch(given.replace("_", "")):
            return ", a string: leave out the underscores"
    if kind == "bool_type" and str(given).lower() in ("yes", "no", "on", "off", "y", "n", "true", "false"):
        return ", a string: write true or false"
    return ""
