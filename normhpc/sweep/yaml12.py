"""YAML 1.2 on PyYAML: scalars of the core schema, no silent duplicates, and the place of every key and value."""

import contextlib
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from normhpc.config.problems import Keys, dotted
from normhpc.errors import InputError, Problem

Place = tuple[int, int]
"""Line and column, counted from 1."""

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
_ALIASED_VALUES = 100_000
"""More values than this, made by aliases alone, are taken for an attack on the reader's memory."""
_LEVELS = 50
"""Deeper nesting than this describes no sweep."""


@dataclass(frozen=True)
class Document:
    """One parsed file: ``value`` in plain Python, and the places of the keys and values in it by path."""

    value: Any
    file: str = ""
    keys: dict[Keys, Place] = field(default_factory=dict)
    values: dict[Keys, Place] = field(default_factory=dict)

    def place(self, path: Keys, *, of_key: bool = False) -> Place | None:
        """Where ``path`` stands; where its nearest parent does when nothing stands there itself."""
        places = self.keys if of_key else self.values
        if path in places:
            return places[path]
        return next((self.values[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.values), None)


def parse(text: str, file: str = "") -> Document:
    """Read one YAML document. Raises :class:`InputError` with ``file``, line and column of what cannot be read."""
    try:
        return _Reader(text, file).document()
    except yaml.MarkedYAMLError as error:
        line, column = _place(error.problem_mark) if error.problem_mark else (None, None)
        words = ", ".join(word for word in (error.context, error.problem) if word)
        if line is not None and column is not None and _letter(text, line, column) == "\t":
            words = "expected blanks before the first word of a line, found a tab"
        raise InputError(Problem(f"not YAML: {words}", "", file, line, column)) from None
    except yaml.reader.ReaderError as error:
        raise InputError(Problem(f"not YAML: character {error.character!r} is not allowed", file=file)) from None


def _letter(text: str, line: int, column: int) -> str:
    """What stands there; nothing at the end of a line or of the text."""
    return "".join(text.splitlines()[line - 1 : line])[column - 1 : column]


def parse_scalar(text: str) -> Any:
    """The value of a YAML text given on the command line. Raises :class:`InputError` when it is not YAML."""
    return parse(text).value


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """PyYAML's parser with the implicit types of the core schema instead of YAML 1.1's."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own protocol)


for _name, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


class _Reader:
    """Turns PyYAML's node graph into values, noting places and refusing what YAML 1.2 or good sense forbids."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.keys: dict[Keys, Place] = {}
        self.values: dict[Keys, Place] = {}
        self.problems: list[Problem] = []
        self.open: set[int] = set()
        self.made: set[int] = set()
        self.aliased = 0

    def document(self) -> Document:
        self._refuse_deep_nesting()
        loader = _Loader(self.text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
        value = self._value(root, ()) if root is not None else None
        if self.problems:
            raise InputError(self.problems)
        return Document(value, self.file, self.keys, self.values)

    def _refuse_deep_nesting(self) -> None:
        """Count levels on the flat stream of events: composing nodes recurses in C and would crash the interpreter."""
        depth = 0
        for event in yaml.parse(self.text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _LEVELS:
                line, column = _place(event.start_mark)
                raise InputError(Problem(f"nested deeper than {_LEVELS} levels", "", self.file, line, column))

    def _value(self, node: yaml.Node, path: Keys) -> Any:
        self._guard(node, path)
        self.values[path] = _place(node.start_mark)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self.open.discard(id(node))

    def _guard(self, node: yaml.Node, path: Keys) -> None:
        if id(node) in self.open:
            self._stop(node, path, "an alias refers to the value it stands in")
        if len(self.open) > _LEVELS:
            self._stop(node, path, f"nested deeper than {_LEVELS} levels by aliases")
        self.aliased += id(node) in self.made
        self.made.add(id(node))
        if self.aliased > _ALIASED_VALUES:
            self._stop(node, path, f"aliases repeat more than {_ALIASED_VALUES:,} values")

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = self._key(key_node, path)
            here = (*path, key)
            if key in own:
                line, column = self.keys[here]
                message = f"{key!r} is given twice, first at line {line}, column {column}"
                self._report(key_node, here, message)
                continue
            self.keys[here] = _place(key_node.start_mark)
            own[key] = self._value(value_node, here)
        for source in merged:
            self._merge(source, path, own)
        return own

    def _merge(self, source: yaml.Node, path: Keys, own: dict[Any, Any]) -> None:
        """Take from ``source`` the keys that ``own`` lacks; places already noted stay those of ``own``."""
        if not isinstance(source, yaml.MappingNode):
            self._report(source, path, "<< takes a mapping or a list of mappings")
            return
        outer_keys, outer_values = self.keys, self.values
        self.keys, self.values = {}, {}
        value = self._value(source, path)
        found_keys, found_values = self.keys, self.values
        self.keys, self.values = outer_keys, outer_values
        depth = len(path)
        taken = {key for key in value if key not in own}
        own.update((key, value[key]) for key in value if key in taken)
        outer_keys.update((at, place) for at, place in found_keys.items() if at[depth] in taken)
        outer_values.update((at, place) for at, place in found_values.items() if len(at) > depth and at[depth] in taken)

    def _key(self, node: yaml.Node, path: Keys) -> str | int:
        if not isinstance(node, yaml.ScalarNode):
            self._stop(node, path, "a key must be a plain word, not a list or mapping")
        key = self._scalar(node, path)
        # The path of a list item is an integer, so any other key is kept by its text: nothing normhpc reads has such keys.
        return key if isinstance(key, str) else str(node.value)

    def _scalar(self, node: yaml.Node, path: Keys) -> Any:
        text = node.value
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            if kind in ("str", "merge"):
                return text
            if any(kind == name and re.fullmatch(pattern, text) for name, pattern, _ in _CORE_SCHEMA):
                return self._core_value(kind, node, path)
            if any(kind == name for name, _, _ in _CORE_SCHEMA):
                self._report(node, path, f"{text!r} is not a YAML 1.2 {kind}")
                return None
        self._report(node, path, f"the tag !{node.tag.removeprefix('!').replace(_TAG, '!')} is not allowed")
        return None

    def _core_value(self, kind: str, node: yaml.ScalarNode, path: Keys) -> Any:
        text: str = node.value.lower()
        if kind == "null":
            return None
        if kind == "bool":
            return text == "true"
        if kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        with contextlib.suppress(ValueError):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        self._report(node, path, f"a number of {len(text)} digits is too long")
        return None

    def _report(self, node: yaml.Node, path: Keys, message: str) -> None:
        line, column = _place(node.start_mark)
        self.problems.append(Problem(message, dotted(path), self.file, line, column))

    def _stop(self, node: yaml.Node, path: Keys, message: str) -> NoReturn:
        self._report(node, path, message)
        raise InputError(self.problems)


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1
