"""A second, slow expansion of a sweep, written from the language's description and sharing no code with it but YAML,
the random draws and the configuration types. It knows valid sweeps only."""

import itertools
from copy import deepcopy
from typing import Any

from normhpc.config import Resources, RunConfig
from normhpc.config.base import OneOf
from normhpc.sweep.sampling import Distribution

PARTS = {
    name for name, field in RunConfig.model_fields.items() if any(isinstance(item, OneOf) for item in field.metadata)
}


def expand(sweep: dict[str, Any]) -> list[tuple[RunConfig, Resources]]:
    """Every run and its resources, in order, equal runs once."""
    base = on_top({}, sweep.get("base", {}))
    if "resources" in sweep:
        base = on_top(base, {"resources": sweep["resources"]})
    settings = [on_top(base, layer) for layer in combinations(sweep)]
    for path, values in flat_lists(sweep.get("ablate", {})):
        settings += [on_top(base, {path: value}) for value in values]
    settings += [on_top(base, layer) for layer in sweep.get("include", [])]
    found: dict[str, tuple[RunConfig, Resources]] = {}
    for setting in settings:
        for rule in sweep.get("when", []):
            if matches(rule["match"], fields_of(setting)):
                setting = on_top(setting, rule["set"])
        if any(matches(condition, fields_of(setting)) for condition in sweep.get("exclude", [])):
            continue
        seeds = sweep.get("seeds", [None])
        for seed in range(seeds) if isinstance(seeds, int) else seeds:
            config, resources = resolved(setting if seed is None else on_top(setting, {"seed": seed}))
            found.setdefault(config.run_id, (config, resources))
    return list(found.values())


def combinations(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    axes = [[{path: value} for value in values] for path, values in flat_lists(sweep.get("matrix", {}))]
    for group in sweep.get("zip", []):
        columns = flat_lists(group)
        axes.append(
            [
                dict(zip([path for path, _ in columns], row, strict=True))
                for row in zip(*[values for _, values in columns], strict=True)
            ]
        )
    if "random" in sweep:
        axes.append(draws(sweep["random"]))
    return [{path: value for layer in layers for path, value in layer.items()} for layers in itertools.product(*axes)]


def draws(random: dict[str, Any]) -> list[dict[str, Any]]:
    ranges = dict(flat_distributions({key: item for key, item in random.items() if key not in ("draws", "seed")}))
    return [
        {
            path: Distribution(tuple(path.split(".")), kind, tuple(bounds), ()).draw(random.get("seed", 0), at).value
            for path, (kind, bounds) in ranges.items()
        }
        for at in range(random["draws"])
    ]


def flat_lists(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, list[Any]]]:
    found = []
    for key, item in mapping.items():
        found += flat_lists(item, f"{prefix}{key}.") if isinstance(item, dict) else [(prefix + key, item)]
    return found


def flat_distributions(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, tuple[str, Any]]]:
    found = []
    for key, item in mapping.items():
        kind = next(iter(item))
        if kind in ("uniform", "log_uniform", "int", "choice"):
            found.append((prefix + key, (kind, item[kind])))
        else:
            found += flat_distributions(item, f"{prefix}{key}.")
    return found


def nested(layer: dict[str, Any]) -> dict[str, Any]:
    """``layer`` without dotted keys and bare names."""
    result: dict[str, Any] = {}
    for key, item in layer.items():
        first, _, rest = key.partition(".")
        value = {rest: item} if rest else item
        if first in PARTS and isinstance(value, str):
            value = {"name": value}
        if isinstance(value, dict):
            result.setdefault(first, {}).update(nested(value))
        else:
            result[first] = value
    return result


def on_top(setting: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    result = deepcopy(setting)
    for field, value in nested(layer).items():
        keeps = isinstance(value, dict) and not (field in PARTS and "name" in value)
        result[field] = {**result.get(field, {}), **value} if keeps else value
    return result


def resolved(setting: dict[str, Any]) -> tuple[RunConfig, Resources]:
    setting = deepcopy(setting)
    resources = Resources.model_validate(setting.pop("resources", {}))
    return RunConfig.model_validate(setting), resources


def fields_of(setting: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration as plain values, also where its fields contradict each other."""
    known = {}
    for name, value in setting.items():
        if name == "resources":
            continue
        alone = {name: value, "epochs": 10**6, "batch_size": 10**6} | ({name: value} if name in setting else {})
        known[name] = RunConfig.model_validate(alone).to_json()[name]
    resources = Resources.model_validate(setting.get("resources", {})).model_dump()
    return RunConfig().to_json() | known | {"resources": resources}


def matches(condition: dict[str, Any], fields: dict[str, Any]) -> bool:
    return verdict(condition, fields) is True


def verdict(wanted: Any, given: Any, field: str = "") -> bool | None:
    if isinstance(wanted, dict) and set(wanted) <= {"in", "not", "lt", "le", "gt", "ge"}:
        return every(compared(word, operand, given, field) for word, operand in wanted.items())
    if field in PARTS and isinstance(wanted, str):
        return given["name"] == wanted
    if isinstance(wanted, dict):
        return every(looked_up(key.split("."), item, given) for key, item in wanted.items())
    return type_of(wanted) == type_of(given) and wanted == given


def looked_up(steps: list[str], wanted: Any, given: Any) -> bool | None:
    for step in steps:
        if step not in given:
            return None
        given = given[step]
    return verdict(wanted, given, steps[-1])


def compared(word: str, operand: Any, given: Any, field: str) -> bool | None:
    if word == "in":
        return some(verdict(item, given, field) for item in operand)
    if word == "not":
        inner = verdict(operand, given, field)
        return None if inner is None else not inner
    if type_of(given) != "number":
        return False
    return {"lt": given < operand, "le": given <= operand, "gt": given > operand, "ge": given >= operand}[word]


def type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def every(verdicts: Any) -> bool | None:
    verdicts = list(verdicts)
    return False if False in verdicts else None if None in verdicts else True


def some(verdicts: Any) -> bool | None:
    verdicts = list(verdicts)
    return True if True in verdicts else None if None in verdicts else False
