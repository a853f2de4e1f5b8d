"""From a declaration to its runs, one after another, sharing all work that runs have in common."""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

from normhpc.config.checks import CHECKS, FITS, FITS_RESOURCES
from normhpc.config.problems import Keys
from normhpc.errors import InputError, Problem
from normhpc.sweep.axes import Axis
from normhpc.sweep.cases import Cache, Checker, Invalid, Matcher, Rule, States, refuse_invalid
from normhpc.sweep.declaration import Declaration
from normhpc.sweep.fragments import FIELDS, JOINT, POSITION, State
from normhpc.sweep.layers import Assignment, Raw, by_field, in_order
from normhpc.sweep.paths import Path
from normhpc.sweep.places import Mistakes, located
from normhpc.sweep.runs import Run as Run

_CHECKED_AT_ONCE = 10_000
"""Combinations that are all resolved before the first run is given out; of a larger sweep, every value once."""

_SEED = POSITION["seed"]
_FITS = (*FITS, *FITS_RESOURCES)


class Expansion:
    """The runs of a declaration. ``merged`` counts, after a whole pass, the runs left out as equal to an earlier one."""

    def __init__(self, declaration: Declaration) -> None:
        self.declared = declaration
        self.merged: int | None = None
        self.used: set[Keys] = set()
        self._invalid_seen = False
        self._base = {name: Raw().under(layer) for name, layer in by_field(declaration.base).items()}
        self._base_states: dict[str, State] = {}
        self._tables = [_Table(name, declaration.axes) for name in FIELDS]
        self.rules = [
            Rule(Matcher(rule.condition) if rule.condition else None, rule.layer) for rule in declaration.rules
        ]
        self.exclusions = [Matcher(condition) for condition in declaration.exclusions]
        self._only = [Matcher(condition) for condition in declaration.only.conditions]
        self._checks = [Checker(check) for check in CHECKS]

    def check(self, mistakes: Mistakes) -> None:
        """Add to ``mistakes`` all that resolving the runs of a small sweep meets.

        Of a large sweep every value of every axis is tried once, and what only a combination shows is raised
        when the expansion comes to it. Where the form has mistakes already, only fields without any are looked at,
        each by itself. What makes runs impossible to train is no mistake by itself, but is told beside others.
        """
        unclear = (
            mistakes.words() | self.declared.unclear | {name for rule in self.declared.rules for name in rule.layer}
        )
        formed = not mistakes
        for states in self._some_combinations():
            if not formed:
                mistakes.take(self._invalid([state for state in states if state.field not in unclear]))
                continue
            try:
                self._settle(states)
            except InputError as error:
                mistakes.take(error.problems)
        if formed and mistakes:
            fits = [Checker(check) for check in _FITS]
            for states in self._some_combinations():
                mistakes.take(self._misfits_beside_mistakes(fits, states))

    def cells(self) -> Iterator[tuple[State, ...]]:
        """The resolved combinations that are kept, in order, before seeds and before equal runs are merged."""
        extras = self._extra_combinations()
        for states in itertools.chain(self._combinations(self._all_indices()), extras):
            if self._settle(states):
                yield tuple(states)

    def runs(self, swept: tuple[Path, ...]) -> Iterator[Run]:
        """Every run once, in order; ``swept`` are the paths that a run tells of itself."""
        seen: set[int] | None = None if self.distinct else set()
        only, merged = self.declared.only, 0
        for cell in self.cells():
            head = hashlib.blake2b(f"{{{''.join([state.identity for state in cell[:_SEED]])}{JOINT}".encode())
            for seed in self._seeds(cell):
                whole = head.copy()
                whole.update(b"%d}" % seed)
                run_id = whole.hexdigest()[:16]
                if seen is not None:
                    number = int(run_id, 16)
                    if number in seen:
                        merged += 1
                        continue
                    seen.add(number)
                if not only.run_ids or all(run_id.startswith(prefixes) for prefixes in only.run_ids):
                    yield Run(run_id, seed, cell, swept)
        self.merged = merged

    def misfits(self) -> Iterator[Problem]:
        """What makes sound runs impossible to train, each problem once."""
        checks = [Checker(check) for check in _FITS]
        told: set[Problem] = set()
        for cell in self.cells():
            for check in checks:
                found = check(cell)
                problem = found and self._disagreement(found, check.fields, cell)
                if problem and problem not in told:
                    told.add(problem)
                    yield problem

    @property
    def combinations(self) -> int:
        """Combinations of all axes, before anything is excluded, merged or added."""
        return math.prod(len(axis.layers) for axis in self.declared.axes)

    @property
    def countable(self) -> bool:
        """Whether the number of runs is that of the combinations times the seeds."""
        only = self.declared.only
        return self.distinct and not (self.exclusions or only.conditions or only.seeds or only.run_ids)

    @cached_property
    def distinct(self) -> bool:
        """Whether no two combinations can be the same run: every axis shows in a field that tells its values apart."""
        if self.declared.ablations or self.declared.inclusions or any(rule.matches for rule in self.rules):
            return False
        overridden = {name for rule in self.declared.rules for name in rule.layer}
        told_apart: set[int] = set()
        for table in self._tables:
            if table.size <= _CHECKED_AT_ONCE and table.field not in overridden:
                identities = {self._in_table(table, key).identity for key in table.all_keys()}
                if len(identities) == table.size and identities != {""}:
                    told_apart.update(table.axes)
        return told_apart == set(range(len(self.declared.axes)))

    def _seeds(self, cell: tuple[State, ...]) -> Sequence[int]:
        seeds: Sequence[int] = (cell[_SEED].value,) if self.declared.seeds is None else self.declared.seeds
        for wanted in self.declared.only.seeds:
            seeds = [seed for seed in seeds if wanted.holds({"seed": seed})]
        return seeds

    def _all_indices(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*(range(len(axis.layers)) for axis in self.declared.axes))

    def _some_combinations(self) -> Iterator[States]:
        lengths = [len(axis.layers) for axis in self.declared.axes]
        if self.combinations <= _CHECKED_AT_ONCE:
            yield from self._combinations(self._all_indices())
        else:
            for axis, length in enumerate(lengths):
                alone = (tuple(at * (other == axis) for other in range(len(lengths))) for at in range(length))
                yield from self._combinations(itertools.islice(alone, _CHECKED_AT_ONCE))
        yield from self._extra_combinations()

    def _combinations(self, indices: Iterator[tuple[int, ...]]) -> Iterator[States]:
        fixed: list[Any] = [None if table.axes else self._base_state(table.field) for table in self._tables]
        varying = [(POSITION[table.field], table, table.key_of, table.states) for table in self._tables if table.axes]
        for index in indices:
            states = fixed.copy()
            for position, table, key_of, known in varying:
                key = key_of(index)
                state = known.get(key)
                states[position] = self._in_table(table, key) if state is None else state
            yield states

    def _extra_combinations(self) -> Iterator[States]:
        for layer in (*self.declared.ablations, *self.declared.inclusions):
            changed = by_field(layer)
            yield [
                self._make(name, self._raw(name).under(changed[name])) if name in changed else self._base_state(name)
                for name in FIELDS
            ]

    def _raw(self, name: str) -> Raw:
        return self._base.get(name) or Raw()

    def _base_state(self, name: str) -> State:
        if name not in self._base_states:
            self._base_states[name] = self._make(name, self._raw(name))
        return self._base_states[name]

    def _in_table(self, table: "_Table", key: Any) -> State:
        state: State | None = table.states.get(key)
        if state is None:
            state = table.states.keep(key, self._make(table.field, self._raw(table.field).under(table.layer(key))))
        return state

    def _make(self, name: str, raw: Raw) -> State:
        state = State(name, raw)
        self._invalid_seen |= bool(state.findings)
        self.used.update(raw.origins.values())
        return state

    def _settle(self, states: States) -> bool:
        """Apply the rules to ``states`` in place; whether the run is wanted. Raises :class:`InputError`."""
        try:
            for rule in self.rules:
                rule.apply(states, self._make)
            if self._invalid_seen:
                refuse_invalid(states)
            for exclusion in self.exclusions:
                if exclusion(states):
                    return False
        except Invalid:
            raise InputError([*self._invalid(states), *self._failed(self._checks, states)]) from None
        for check in self._checks:
            if check(states):
                raise InputError(self._failed(self._checks, states))
        for condition in self._only:  # noqa: SIM110  (a generator costs a tenth of the whole expansion)
            if not condition(states):
                return False
        return True

    def _misfits_beside_mistakes(self, checks: Sequence[Checker], states: States) -> Iterator[Problem]:
        """What ``checks`` find in the run of ``states``, as far as its fields are valid and known."""
        try:
            if not self._settle(states):
                return
        except InputError:
            # a rule that reads a wrong field is not applied, nor are those after it
            if any(state.findings for state in states):
                changed = {name for rule in self.declared.rules for name in rule.layer}
                checks = [check for check in checks if changed.isdisjoint(check.fields)]
        yield from self._failed(checks, states)

    def _failed(self, checks: Sequence[Checker], states: States) -> Iterator[Problem]:
        """What ``checks`` find in ``states``, but for those that read a field without a valid value."""
        for check in checks:
            if not any(states[POSITION[name]].findings for name in check.fields) and (found := check(states)):
                yield self._disagreement(found, check.fields, states)

    def _invalid(self, states: States) -> Iterator[Problem]:
        for state in states:
            for finding in state.findings:
                origin, rest = state.raw.origin_of(tuple(map(str, finding.path)))
                below = finding.path[len(finding.path) - len(rest) :]  # with the positions in lists as numbers
                yield located(self.declared.document, origin, finding.message, below, at_key=finding.unknown_key)

    def _disagreement(self, found: tuple[str, str], fields: tuple[str, ...], states: Sequence[State]) -> Problem:
        """The problem at the value that set the path at fault, or else at one that set another field of the check."""
        path, message = tuple(found[0].split(".")), found[1]
        origin, rest = states[POSITION[path[0]]].raw.origin_of(path)
        if origin:
            return located(self.declared.document, origin, message, rest)
        for name in fields:
            other, _ = states[POSITION[name]].raw.origin_of((name,))
            if other:
                return located(self.declared.document, other, f"{found[0]}: {message}; set {found[0]}")
        return located(self.declared.document, path, message)


class _Table:
    """The states of one field by the values of the axes that touch it."""

    def __init__(self, field: str, axes: Sequence[Axis]) -> None:
        self.field = field
        self.axes = [number for number, axis in enumerate(axes) if field in axis.fields]
        self.states = Cache()
        self._layers = [axes[number].layers for number in self.axes]
        self.size = math.prod(map(len, self._layers))
        # With one index, itemgetter gives the index itself; `layer` and `all_keys` follow it.
        self.key_of: Callable[[tuple[int, ...]], Any] = itemgetter(*self.axes) if self.axes else tuple

    def all_keys(self) -> Iterator[Any]:
        indices = itertools.product(*(range(len(layers)) for layers in self._layers))
        return (index[0] if len(index) == 1 else index for index in indices)

    def layer(self, key: Any) -> list[Assignment]:
        index = key if isinstance(key, tuple) else (key,)
        chosen = (layers[at] for layers, at in zip(self._layers, index, strict=True))
        return in_order(one for layer in chosen for one in layer if one.path[0] == self.field)
