"""What expansion asks of every run - rules, conditions, checks - answered once per distinct case."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from normhpc.config.checks import Check
from normhpc.sweep.fragments import POSITION, State
from normhpc.sweep.layers import Assignment, Raw
from normhpc.sweep.matching import Condition

States = list[State]
"""One state for each of :data:`~normhpc.sweep.fragments.FIELDS`."""

_REMEMBERED = 20_000
"""Entries of a cache before it starts anew: a million random draws must not stay in memory."""


class Cache(dict[Any, Any]):
    """A dictionary that forgets everything when it grows too large."""

    def keep(self, key: Any, value: Any) -> Any:
        """Store and return ``value``."""
        if len(self) >= _REMEMBERED:
            self.clear()
        self[key] = value
        return value


class Invalid(Exception):  # noqa: N818  (a signal inside the expansion, it never reaches the user)
    """Some state that is needed holds no valid value."""


def refuse_invalid(states: Sequence[State]) -> None:
    """Raise :class:`Invalid` when any of ``states`` has findings."""
    if any(state.findings for state in states):
        raise Invalid


class Matcher:
    """A condition, remembered per combination of the states it reads."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.matched = False
        self._positions = [POSITION[name] for name in condition.fields]
        self._key = itemgetter(*self._positions)
        self._results = Cache()

    def __call__(self, states: States) -> bool:
        """Whether the run of ``states`` matches. Raises :class:`Invalid` when a field it reads is not valid."""
        key = self._key(states)
        result: bool | None = self._results.get(key)
        if result is None:
            read = [states[position] for position in self._positions]
            refuse_invalid(read)
            result = self._results.keep(key, self.condition.holds({state.field: state.json for state in read}))
            self.matched |= bool(result)
        return bool(result)


class Rule:
    """A layer for the runs that match, remembered per state it changes."""

    def __init__(self, matches: Matcher | None, layer: dict[str, list[Assignment]]) -> None:
        self.matches = matches
        self._changes = [(POSITION[name], single, Cache()) for name, single in layer.items()]

    def apply(self, states: States, make: Callable[[str, Raw], State]) -> None:
        """Put the layer on top of ``states``, in place; ``make`` validates a changed field."""
        if self.matches is not None and not self.matches(states):
            return
        for position, layer, results in self._changes:
            before = states[position]
            after = results.get(before)
            if after is None:
                after = results.keep(before, make(before.field, before.raw.under(layer)))
            states[position] = after


class Checker:
    """A cross-field check, remembered per combination of the states it reads."""

    def __init__(self, check: Check) -> None:
        self.fields = check.fields
        self._find = check.find
        self._key = itemgetter(*(POSITION[name] for name in check.fields))
        self._results = Cache()

    def __call__(self, states: Sequence[State]) -> tuple[str, str] | None:
        """The dotted path at fault and what is wrong, or None."""
        key = self._key(states)
        result: tuple[tuple[str, str] | None] | None = self._results.get(key)
        if result is None:
            read = key if isinstance(key, tuple) else (key,)
            result = self._results.keep(key, (self._find(*(state.value for state in read)),))
        return result[0]
