"""Conditions on resolved configurations: what ``exclude``, ``when`` and ``--only`` compare.

A condition is true, false, or says nothing (None) where the configuration lacks the path; only true matches.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError, create_model

from normhpc.config.base import Part, shown_name
from normhpc.config.problems import Keys, findings_of, shown
from normhpc.errors import did_you_mean
from normhpc.sweep.paths import Node, Path, node_at, unknown_step
from normhpc.sweep.places import Mistakes

Check = Callable[[Any], bool | None]
"""Takes the JSON value at a path."""

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
OPERATORS = ("in", "not", *_COMPARISONS)
"""The words that make a mapping a comparison instead of a partial match."""


@dataclass(frozen=True)
class Condition:
    """What must hold; ``fields`` are the top-level fields it reads, ``origin`` is where it is written."""

    fields: tuple[str, ...]
    origin: Keys
    check: Check

    def holds(self, configuration: Mapping[str, Any]) -> bool:
        """Whether the configuration, given as JSON values by top-level field, matches."""
        return self.check(configuration) is True


def read_condition(value: Any, origin: Keys, mistakes: Mistakes) -> Condition | None:
    """The condition that the mapping ``value`` at ``origin`` declares; what is wrong with it is noted."""
    if not isinstance(value, dict) or not value:
        mistakes.add(origin, f"expected a mapping of paths to what they must be, got {shown(value)}")
        return None
    before = len(mistakes)
    check = _partial(value, (), origin, mistakes)
    fields = tuple(dict.fromkeys(key.split(".")[0] for key in value))
    return Condition(fields, origin, check) if len(mistakes) == before else None


def same(one: object, other: object) -> bool:
    """Equality of JSON values: 1 is 1.0 but true is not 1."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _partial(value: Mapping[str, Any], path: Path, origin: Keys, mistakes: Mistakes) -> Check:
    checks = []
    for key, item in value.items():
        steps = tuple(key.split("."))
        message = unknown_step((*path, *steps))
        if message is not None:
            mistakes.add((*origin, key), message, at_key=True)
            continue
        checks.append(_at(steps, _check(item, (*path, *steps), (*origin, key), mistakes)))
    return _all(checks)


def _check(value: Any, path: Path, origin: Keys, mistakes: Mistakes) -> Check:
    node = node_at(path)
    assert node is not None
    if isinstance(value, dict) and any(key in OPERATORS for key in value):
        return _comparison(value, path, origin, mistakes)
    if isinstance(value, dict) and value and node.children:
        return _partial(value, path, origin, mistakes)
    if node.named and isinstance(value, str):
        _note_unknown_name(value, node, origin, mistakes)
        return _at(("name",), lambda given: same(given, value))
    if isinstance(value, dict) or node.children:
        value_wanted = f"a value to compare with or one of {', '.join(OPERATORS)}"
        expected = "a name or a mapping" if node.named else "a mapping" if node.children else value_wanted
        mistakes.add(origin, f"expected {expected}, got {shown(value)}")
    parent = node_at(path[:-1])
    assert parent is not None
    if path[-1] == "name" and parent.named:
        _note_unknown_name(value, parent, origin, mistakes)
    elif not node.children and not isinstance(value, dict):
        readings, message = _readings(value, path[-1], parent)
        if message is not None:
            mistakes.add(origin, message)
        return lambda given: any(same(given, reading) for reading in (value, *readings))
    return lambda given: same(given, value)


def _readings(value: Any, field: str, parent: Node) -> tuple[list[Any], str | None]:
    """What ``value`` is to the kinds of ``parent`` that can have it in ``field``; without any, why none can.

    A formula is the same in every spelling.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # comparing, 2.0 is 2
    readings, message = [], None
    for kind in parent.kinds:
        if field in kind.model_fields:
            alone = _field_alone(kind, field)
            try:
                read = alone.model_validate({field: value})
            except ValidationError as error:
                message = message or findings_of(error, alone)[0].message
            else:
                readings.append(read.model_dump(mode="json")[field])
    return readings, None if readings else message


@cache
def _field_alone(kind: type[Part], field: str) -> type[Part]:
    """A model with nothing but one field of ``kind``."""
    return create_model("Alone", __base__=Part, **{field: (kind.model_fields[field].rebuild_annotation(), ...)})  # type: ignore[call-overload,no-any-return]


def _comparison(value: Mapping[str, Any], path: Path, origin: Keys, mistakes: Mistakes) -> Check:
    checks: list[Check] = []
    for key, operand in value.items():
        here = (*origin, key)
        if key not in OPERATORS:
            mistakes.add(here, f"{key!r} cannot stand beside a comparison ({', '.join(OPERATORS)})", at_key=True)
        elif key == "not":
            checks.append(_not(_check(operand, path, here, mistakes)))
        elif key == "in":
            if not isinstance(operand, list):
                mistakes.add(here, f"expected a list, got {shown(operand)}")
                continue
            checks.append(_any([_check(item, path, (*here, at), mistakes) for at, item in enumerate(operand)]))
        elif (node := node_at(path)) is not None and node.children:
            fields = ", ".join(f"{'.'.join(path)}.{name}" for name in node.children)
            mistakes.add(here, f"has no order; compare one of its fields: {fields}", at_key=True)
        elif isinstance(operand, bool) or not isinstance(operand, int | float):
            mistakes.add(here, f"expected a number, got {shown(operand)}")
        else:
            checks.append(_compared(_COMPARISONS[key], operand))
    return _all(checks)


def _note_unknown_name(name: object, node: Node, origin: Keys, mistakes: Mistakes) -> None:
    if isinstance(name, str) and not node.kinds_called(name):
        allowed = [shown_name(kind) for kind in node.kinds]
        noun = node.named.noun if node.named else "part"
        hint = did_you_mean(name, allowed) or "."
        mistakes.add(origin, f"no {noun} is called {name!r}{hint} There are: {', '.join(allowed)}")


def _at(steps: Path, check: Check) -> Check:
    def follow(value: Any) -> bool | None:
        for step in steps:
            if not isinstance(value, Mapping) or step not in value:
                return None
            value = value[step]
        return check(value)

    return follow


def _compared(holds: Callable[[Any, Any], bool], operand: float) -> Check:
    def check(given: Any) -> bool:
        return isinstance(given, int | float) and not isinstance(given, bool) and holds(given, operand)

    return check


def _all(checks: Iterable[Check]) -> Check:
    checks = tuple(checks)

    def check(value: Any) -> bool | None:
        results = [each(value) for each in checks]
        return False if False in results else None if None in results else True

    return check


def _any(checks: Iterable[Check]) -> Check:
    checks = tuple(checks)

    def check(value: Any) -> bool | None:
        results = [each(value) for each in checks]
        return True if True in results else None if None in results else False

    return check


def _not(check: Check) -> Check:
    def negated(value: Any) -> bool | None:
        result = check(value)
        return None if result is None else not result

    return negated
