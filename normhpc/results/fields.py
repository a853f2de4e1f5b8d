"""Which fields of the configuration tell the runs of a table apart, and what each run has there."""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from normhpc.config import RunConfig
from normhpc.config.identity import fields_outside_identity
from normhpc.results.records import RunRecord

ALWAYS = ("data.name", "model.name", "norm.name")
"""Fields that every table has, swept or not."""


def is_field(column: str) -> bool:
    """Whether a table's column is a field of the configuration (``seed`` has its own place)."""
    return column != "seed" and column.split(".", 1)[0] in RunConfig.model_fields


def image_sets(frame: pd.DataFrame) -> pd.Series:
    """The image set of each row, on which others are its rivals: ``data.name``, of shards ``data.dataset`` as well."""
    named = [frame[name].astype("str").fillna("") for name in ("data.name", "data.dataset") if name in frame.columns]
    sets = pd.Series("", index=frame.index, dtype="str")
    for column in named:
        sets = sets.str.cat(column, sep=" ").str.strip()
    return sets


def field_names(records: Sequence[RunRecord]) -> list[str]:
    """Dotted paths that make the cells of ``records``: :data:`ALWAYS`, then the swept ones by first appearance.

    Where runs agree in all of these and still differ in more than their seed (two sweeps with different
    bases), what they differ in comes last, so that a cell never mixes two configurations.
    """
    names = dict.fromkeys(ALWAYS)
    for record in records:
        for path, value in record.swept.items():
            names.update(dict.fromkeys(_columns_of(path, value, record.config)))
    names.pop("seed", None)
    return [*names, *_unswept_differences(records, list(names))]


def field_values(record: RunRecord, names: Iterable[str]) -> list[Any]:
    """The values of ``record`` under ``names``: the configuration's spelling, else the sweep's, else None."""
    config, swept = record.config, record.swept
    return [_plain(at_path(config, name, swept.get(name))) for name in names]


def at_path(config: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """The value under a dotted ``path`` of a nested mapping."""
    value: Any = config
    for key in _keys(path):
        # read from JSON; a test for Mapping takes ten times as long
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value


@functools.cache
def _keys(path: str) -> list[str]:
    return path.split(".")


def _columns_of(path: str, value: Any, config: Mapping[str, Any]) -> list[str]:
    """``norm: batch`` is about ``norm.name``; ``norm: {name: group, groups: 4}`` about ``norm.name norm.groups``."""
    if not isinstance(at_path(config, path), Mapping):
        return [path]
    given = value if isinstance(value, Mapping) else {}
    return [f"{path}.name", *(f"{path}.{key}" for key in given if key != "name")]


def _plain(value: Any) -> Any:
    """Something that fits a table's cell: a list or mapping becomes its JSON."""
    if type(value) in (list, dict):
        return json.dumps(value, separators=(",", ":"))
    return value


def _unswept_differences(records: Sequence[RunRecord], names: list[str]) -> list[str]:
    firsts: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    differing: dict[str, None] = {}
    for record in records:
        config = {**record.config, "seed": 0}
        first = firsts.setdefault(tuple(field_values(record, names)), config)
        if first != config:
            here, there = leaves(config), leaves(first)
            paths = (path for path in {**here, **there} if here.get(path) != there.get(path))
            differing.update((path, None) for path in paths if path not in differing)
    return [path for path in differing if path not in names and _is_identity(path, records[0].config)]


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a nested mapping that is none itself, under its dotted path."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _is_identity(path: str, config: Mapping[str, Any]) -> bool:
    part, _, field = path.partition(".")
    try:
        value = getattr(RunConfig.model_validate({part: config.get(part, {})}), part)
    except (ValidationError, AttributeError):
        # a part this version does not know: better one column too many than two configurations in one cell
        return True
    return not isinstance(value, BaseModel) or field not in fields_outside_identity(type(value))
