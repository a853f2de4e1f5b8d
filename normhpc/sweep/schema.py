"""JSON Schemas (draft 2020-12) of the sweep file and of one run, for editors that complete and check YAML."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from normhpc.config import Resources, RunConfig
from normhpc.sweep.matching import OPERATORS
from normhpc.sweep.paths import Node, Path, tree

Schema = dict[str, Any]
Form = Callable[[Schema], Schema]
"""Turns the schema of a value into that of what a section writes for it: a list, a distribution, a condition."""

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NUMBER = {"type": "number"}
_SECTION_DOCS = {
    "base": "Where every run starts; the fields it leaves out have their defaults.",
    "matrix": "All combinations of the listed values; the first key changes slowest.",
    "zip": "Groups of lists that advance together; each group multiplies the rest.",
    "random": "Independent random draws, the same on every machine.",
    "ablate": "Extra runs: each value alone on top of base.",
    "include": "Extra runs: each entry on top of base.",
    "exclude": "Runs to leave out: those that match any entry in all its keys.",
    "when": "Changes for the runs that match, applied in order.",
    "seeds": "A number N for the seeds 0 to N-1, or a list of seeds.",
    "resources": "What each run gets of the cluster or the machine.",
}


def run_schema() -> Schema:
    """The schema of ``config`` in ``run.json``, and of what ``RunConfig.model_validate`` takes."""
    return {"$schema": _DRAFT, **RunConfig.model_json_schema()}


def sweep_schema() -> Schema:
    """The schema of a sweep file: every section, with nested and dotted paths."""
    _, document = models_json_schema([(RunConfig, "validation"), (Resources, "validation")])
    parts = document["$defs"]
    values = {f"value {'.'.join(path)}": _value(node, path, parts) for path, node in _paths(tree()) if path}
    forms = {
        "layer": _section(tree(), _as_is),
        "lists": _section(tree(), _listed) | {"minProperties": 1},
        "condition": _section(tree(), _compared) | {"minProperties": 1},
    }
    base = {key: item for key, item in forms["layer"]["properties"].items() if key.split(".")[0] != "resources"}
    layer, lists, condition = ({"$ref": f"#/$defs/{form}"} for form in forms)
    sections: Schema = {
        "name": {
            "type": "string",
            "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
            "description": "Folder of the records.",
        },
        "description": {"type": "string", "description": "One line on what is asked."},
        "base": _closed(base),
        "matrix": lists,
        "zip": {"type": "array", "items": lists},
        "random": _random(),
        "ablate": lists,
        "include": {"type": "array", "items": layer},
        "exclude": {"type": "array", "items": condition},
        "when": {"type": "array", "items": _closed({"match": condition, "set": layer}, required=["match", "set"])},
        "seeds": {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
            ]
        },
        "resources": {"$ref": "#/$defs/Resources"},
    }
    described = {
        name: {"description": _SECTION_DOCS[name], **schema} if name in _SECTION_DOCS else schema
        for name, schema in sections.items()
    }
    return {"$schema": _DRAFT, "title": "normhpc sweep", **_closed(described), "$defs": {**parts, **values, **forms}}


def _random() -> Schema:
    section = _section(tree(), _drawn)
    draws = {"type": "integer", "minimum": 1, "maximum": 1_000_000, "description": "Number of draws."}
    seed = {"type": "integer", "default": 0, "description": "Seed of the draws."}
    return section | {"properties": {**section["properties"], "draws": draws, "seed": seed}, "required": ["draws"]}


def _section(node: Node, form: Form, path: Path = ()) -> Schema:
    """An object whose keys are the paths below ``node``, nested or dotted, and whose values have the ``form``."""
    keys: Schema = {}
    for below, child in _paths(node):
        if below:
            whole = form({"$ref": f"#/$defs/value {'.'.join((*path, *below))}"})
            nested = [_section(child, form, (*path, *below))] if child.children and form is not _as_is else []
            keys[".".join(below)] = {"anyOf": [whole, *nested]} if nested else whole
    return _closed(keys)


def _paths(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    yield path, node
    for key, child in node.children.items():
        yield from _paths(child, (*path, key))


def _value(node: Node, path: Path, parts: Schema) -> Schema:
    """The schema of a value at ``path``: a plain one, the name of a part, or a mapping of some of its fields."""
    if not node.children:
        *above, field = path
        kinds = tree() if not above else _node(tuple(above))
        found = [_property(kind.__name__, field, parts) for kind in kinds.kinds if field in kind.model_fields]
        distinct = [schema for at, schema in enumerate(found) if schema not in found[:at]]
        return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}
    fields = {key: {"$ref": f"#/$defs/value {'.'.join((*path, key))}"} for key in node.children}
    mapping = _closed(fields)
    return {"anyOf": [{"$ref": f"#/$defs/value {'.'.join(path)}.name"}, mapping]} if node.named else mapping


def _property(kind: str, field: str, parts: Schema) -> Schema:
    found: Schema = parts[kind]["properties"][field]
    return {key: item for key, item in found.items() if key != "title"}


def _node(path: Path) -> Node:
    node = tree()
    for step in path:
        node = node.children[step]
    return node


def _closed(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _as_is(value: Schema) -> Schema:
    return value


def _listed(value: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": value}


def _drawn(value: Schema) -> Schema:
    pair = {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}
    kinds = {
        "uniform": pair,
        "log_uniform": pair,
        "int": {**pair, "items": {"type": "integer"}},
        "choice": _listed(value),
    }
    return {"oneOf": [_closed({kind: schema}, required=[kind]) for kind, schema in kinds.items()]}


def _compared(value: Schema) -> Schema:
    # What `not` and `in` hold may itself be a comparison or a partial match; editors need not go deeper.
    operators: Schema = dict.fromkeys(OPERATORS, _NUMBER) | {"in": {"type": "array"}, "not": True}
    return {"anyOf": [value, _closed(operators, minProperties=1)]}
