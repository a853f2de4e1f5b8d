"""From the sections of a YAML file to what they declare."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normhpc.config import RunConfig
from normhpc.config.problems import Keys, shown
from normhpc.errors import did_you_mean
from normhpc.sweep.axes import Axis, Column, matrix_axes, read_columns, read_random, zip_axis
from normhpc.sweep.layers import Assignment, by_field, clashes, read_layer
from normhpc.sweep.matching import Condition, read_condition
from normhpc.sweep.overrides import Filter, Overrides, read_filter, read_overrides
from normhpc.sweep.places import Mistakes, written
from normhpc.sweep.yaml12 import Document

SECTIONS = (
    *("name", "description", "base", "matrix", "zip", "random", "ablate", "include", "exclude", "when", "seeds"),
    "resources",
)
"""The keys a sweep file can have."""

_MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Rule:
    """``layer``, by top-level field, goes on top of every run for which ``condition`` holds; None holds for all."""

    condition: Condition | None
    layer: dict[str, list[Assignment]]


@dataclass
class Declaration:
    """What a sweep file and the command line say, checked for form but not yet expanded."""

    document: Document
    name: str = ""
    description: str = ""
    base: list[Assignment] = field(default_factory=list)
    axes: list[Axis] = field(default_factory=list)
    ablations: list[list[Assignment]] = field(default_factory=list)
    inclusions: list[list[Assignment]] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    exclusions: list[Condition] = field(default_factory=list)
    seeds: Sequence[int] | None = None
    only: Filter = field(default_factory=Filter)
    notes: list[str] = field(default_factory=list)
    unclear: set[str] = field(default_factory=set)
    """Fields that a rule would set whose condition cannot be read."""


def read_declaration(
    document: Document, overrides: Sequence[str], only: Sequence[str], mistakes: Mistakes
) -> Declaration:
    """The sweep that ``document`` declares, as far as it can be read; what is wrong with its form is noted.

    Raises :class:`InputError` when there is nothing to read at all.
    """
    if not isinstance(document.value, dict):
        got = "nothing" if document.value is None else shown(document.value)
        mistakes.add((), f"expected the sections of a sweep ({', '.join(SECTIONS)}), got {got}")
        mistakes.raise_any()
    reader = _Reader(document, mistakes)
    declaration = reader.read(read_overrides(overrides, mistakes, has_seeds="seeds" in document.value))
    declaration.only = read_filter(only, mistakes)
    return declaration


class _Reader:
    """Reads one section per method; each notes its mistakes and goes on."""

    def __init__(self, document: Document, mistakes: Mistakes) -> None:
        self.sections: dict[str, Any] = dict(document.value)
        self.mistakes = mistakes
        self.declared = Declaration(document)

    def read(self, overrides: Overrides) -> Declaration:
        for key in self.sections:
            if key not in SECTIONS:
                self._unknown_section(key)
        self._words(overrides)
        self._base()
        self._axes(overrides)
        self._extras()
        self._when()
        self._exclude()
        self._seeds(overrides)
        if overrides.layer:
            self.declared.rules.append(Rule(None, by_field(overrides.layer)))
        return self.declared

    def _unknown_section(self, key: str) -> None:
        if key.split(".")[0] in RunConfig.model_fields:
            message = f"{key!r} is a field of a run; write it under base, matrix, zip, random or ablate"
        else:
            hint = did_you_mean(key, SECTIONS) or ","
            message = f"unknown section {key!r}{hint} allowed: {', '.join(SECTIONS)}"
        self.mistakes.add((key,), message, at_key=True)

    def _words(self, overrides: Overrides) -> None:
        given = {**self.sections, **overrides.sections}
        origin = ("--set", "name") if "name" in overrides.sections else ("name",)
        name = given.get("name", Path(self.declared.document.file).stem)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            what = "" if "name" in given else ", the name of the file; give the sweep a name"
            if isinstance(name, int | float) and not isinstance(name, bool):
                what = f', a number; write "{name}"'
            rule = "expected letters, digits, dots, _ and -, not starting with a dot"
            self.mistakes.add(origin, f"{rule}, got {shown(name)}{what}")
        description = given.get("description", "")
        if not isinstance(description, str):
            self.mistakes.add(("description",), f"expected a text, got {shown(description)}")
        self.declared.name, self.declared.description = str(name), str(description)

    def _base(self) -> None:
        base = self.sections.get("base", {})
        if isinstance(base, dict):
            for key in [key for key in base if key.split(".")[0] == "resources"]:
                self.mistakes.add(("base", key), "write resources as a section of its own, beside base", at_key=True)
            base = {key: value for key, value in base.items() if key.split(".")[0] != "resources"}
        layer = read_layer(base, ("base",), self.mistakes)
        if "resources" in self.sections:
            if not isinstance(self.sections["resources"], dict):
                self.mistakes.add(("resources",), f"expected a mapping, got {shown(self.sections['resources'])}")
            else:
                layer += read_layer({"resources": self.sections["resources"]}, (), self.mistakes)
        self.declared.base = layer

    def _axes(self, overrides: Overrides) -> None:
        axes: list[Axis] = []
        if "matrix" in self.sections:
            columns = list(read_columns(self.sections["matrix"], ("matrix",), self.mistakes))
            axes += matrix_axes(self._free(columns, overrides))
        for at, group in enumerate(self._list("zip", "groups of lists")):
            columns = list(read_columns(group, ("zip", at), self.mistakes))
            self._refuse_part_of_a_zip(columns, ("zip", at), overrides)
            columns = self._free(columns, overrides)
            axis = zip_axis(columns, ("zip", at), self.mistakes) if columns else None
            axes += [axis] if axis else []
        if "random" in self.sections:
            axis = read_random(self.sections["random"], ("random",), overrides.fixes, self.mistakes)
            axes += [axis] if axis else []
        columns_of_all = [column for axis in axes for column in axis.columns.values()]
        if len(columns_of_all) > 1:
            for first, second in clashes(columns_of_all):
                path = ".".join(second.path)
                self.mistakes.add(second.origin, f"sets {path}, which {written(first.origin)} sets as well")
        self.declared.axes = axes

    def _refuse_part_of_a_zip(self, columns: list[Column], origin: Keys, overrides: Overrides) -> None:
        """Lists that advance together belong together: with one of them fixed, the others pair with a wrong value."""
        fixing = [(column, overrides.fixing(column.path)) for column in columns]
        left = ", ".join(column.label for column, assignment in fixing if assignment is None)
        given = ", ".join(column.label for column, assignment in fixing if assignment is not None)
        first = next((assignment for _, assignment in fixing if assignment is not None), None)
        if first is not None and left:
            message = (
                f"expected all lists of {written(origin)}, which advance together, or none, got {given} without {left}; "
                f"set {left} as well, or leave runs out with --only"
            )
            self.mistakes.add(first.origin, message)

    def _free(self, columns: list[Column], overrides: Overrides) -> list[Column]:
        """The columns that no ``--set`` overrides."""
        for column in columns:
            if overrides.fixes(column.path):
                count = len(column.values)
                values = "1 value" if count == 1 else f"{count} values"
                self.declared.notes.append(f"--set replaces the {values} of {written(column.origin)}")
        return [column for column in columns if not overrides.fixes(column.path)]

    def _extras(self) -> None:
        if "ablate" in self.sections:
            columns = read_columns(self.sections["ablate"], ("ablate",), self.mistakes)
            self.declared.ablations = [layer for column in columns for layer in column.layers]
        self.declared.inclusions = [
            read_layer(entry, ("include", at), self.mistakes)
            for at, entry in enumerate(self._list("include", "mappings"))
        ]

    def _when(self) -> None:
        for at, entry in enumerate(self._list("when", "{match: {...}, set: {...}}")):
            origin = ("when", at)
            if not isinstance(entry, dict) or not {"match", "set"} <= set(entry):
                self.mistakes.add(origin, f"expected both match and set, got {shown(entry)}")
                continue
            for key in set(entry) - {"match", "set"}:
                self.mistakes.add((*origin, key), f"unknown key {key!r}, allowed: match, set", at_key=True)
            condition = read_condition(entry["match"], (*origin, "match"), self.mistakes)
            layer = read_layer(entry["set"], (*origin, "set"), self.mistakes)
            if condition is not None:
                self.declared.rules.append(Rule(condition, by_field(layer)))
            else:
                self.declared.unclear.update(by_field(layer))

    def _exclude(self) -> None:
        for at, entry in enumerate(self._list("exclude", "conditions")):
            condition = read_condition(entry, ("exclude", at), self.mistakes)
            if condition is not None:
                self.declared.exclusions.append(condition)

    def _seeds(self, overrides: Overrides) -> None:
        given = {**self.sections, **overrides.sections}
        if "seeds" not in given:
            return
        origin: Keys = ("--set", "seeds") if "seeds" in overrides.sections else ("seeds",)
        self.declared.seeds = self._read_seeds(given["seeds"], origin)
        self._refuse_seed_beside_seeds(origin)

    def _read_seeds(self, value: Any, origin: Keys) -> Sequence[int]:
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_SEEDS:
            return range(value)
        if not isinstance(value, list) or not value:
            wanted = f"a positive integer up to {_MOST_SEEDS:,} or a list of seeds"
            self.mistakes.add(origin, f"expected {wanted}, got {shown(value)}")
            return range(1)
        for at, seed in enumerate(value):
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
                self.mistakes.add((*origin, at), f"expected an integer from 0 to 2**63 - 1, got {shown(seed)}")
        seeds = list(dict.fromkeys(value)) if all(isinstance(seed, int) for seed in value) else [0]
        if len(seeds) < len(value):
            self.declared.notes.append(f"{written(origin)} names a seed more than once; it runs once")
        return seeds

    def _refuse_seed_beside_seeds(self, origin: Keys) -> None:
        declared = self.declared
        layers = [declared.base, *declared.ablations, *declared.inclusions]
        layers += [singles for axis in declared.axes for singles in axis.columns.values()]
        layers += [layer for rule in declared.rules for layer in rule.layer.values()]
        for assignment in (assignment for layer in layers for assignment in layer if assignment.path[0] == "seed"):
            self.mistakes.add(
                assignment.origin, f"sets seed, which {written(origin)} sets as well; keep one of the two"
            )
        conditions = [rule.condition for rule in declared.rules if rule.condition] + declared.exclusions
        for condition in (condition for condition in conditions if "seed" in condition.fields):
            message = "seeds are added after this rule; list the wanted numbers under seeds, or make seed a matrix axis"
            self.mistakes.add((*condition.origin, "seed"), message, at_key=True)

    def _list(self, section: str, of: str) -> list[Any]:
        value = self.sections.get(section, [])
        if not isinstance(value, list):
            self.mistakes.add((section,), f"expected a list of {of}, got {shown(value)}")
            return []
        return value
