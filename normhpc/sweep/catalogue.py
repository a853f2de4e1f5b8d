"""What a sweep can name: read off the configuration types, so that it cannot be out of date."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from normhpc.config import RunConfig
from normhpc.config.base import Part, shown_name
from normhpc.config.model import TorchvisionModel
from normhpc.config.model.zoo import torchvision_sites
from normhpc.config.norm import NormPart
from normhpc.errors import NormhpcError
from normhpc.sweep.runs import Run

_FACTS = ("family", "scope", "formula", "reference")
"""What a norm has beside its fields."""
_FIELD_OF = {"norms": "norm", "models": "model", "data": "data"}


def list_parts(what: str) -> list[dict[str, Any]]:
    """``norms``, ``models`` or ``data``: name, summary and fields (name, default, meaning) of each.

    Of norms also family, scope, formula (in the language of ``formula`` norms) and reference.
    """
    annotation = RunConfig.model_fields[_FIELD_OF[what]].annotation
    kinds: tuple[type[BaseModel], ...] = get_args(annotation)
    entries: list[dict[str, Any]] = [
        {
            "name": shown_name(kind),  # type: ignore[arg-type]
            "summary": " ".join((kind.__doc__ or "").split()),
            **({fact: getattr(kind, fact) for fact in _FACTS} if issubclass(kind, NormPart) else {}),
            "fields": [
                {
                    "name": name,
                    "default": None if field.is_required() else _plain(field.default),
                    "required": field.is_required(),
                    "meaning": " ".join((field.description or "").split()),
                }
                for name, field in kind.model_fields.items()
                if name != "name"
            ],
        }
        for kind in kinds
    ]
    if what == "models":
        named = next(entry for entry, kind in zip(entries, kinds, strict=True) if kind is TorchvisionModel)
        named["norm_sites"] = _torchvision_names()
    return entries


def sites_of_networks(runs: Iterable[Run]) -> list[str]:
    """A line for each distinct network of torchvision among ``runs`` whose norms are replaced: how many, by kind."""
    replaced = dict.fromkeys(run.at(("model", "name")) for run in runs if run.at(("model", "replace_norms")))
    return [f"{name}: {_counted(sites)}" for name, sites in _torchvision_names().items() if name in replaced]


def _plain(value: Any) -> Any:
    """A default as JSON has it: a part by its name."""
    return value.model_dump(mode="json")["name"] if isinstance(value, Part) else value


def _torchvision_names() -> dict[str, dict[str, int]]:
    return {f"torchvision/{name}": sites for name, sites in torchvision_sites().items()}


def _counted(sites: dict[str, int]) -> str:
    """``9 norm_act, 11 lone``."""
    return ", ".join(f"{count} {kind}" for kind, count in sites.items()) or "no norm"


def list_sweeps(folder: Path) -> list[dict[str, Any]]:
    """Every sweep file below ``folder``: its path, what it says of itself and how many runs it declares."""
    from normhpc.sweep import load

    entries: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*.yaml")):
        try:
            sweep = load(path)
            entries.append({"name": str(path), "summary": sweep.description, "runs": sweep.count(), "fields": []})
        except NormhpcError as error:
            entries.append({"name": str(path), "summary": f"error: {error}", "runs": 0, "fields": []})
    return entries


def show_catalogue(what: str, entries: list[dict[str, Any]], console: Console) -> None:
    """Print ``entries`` as a table."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for entry in entries:
        runs = entry.get("runs", 0)
        table.add_row(entry["name"], f"{runs:,} run{'s' * (runs != 1)}" if runs else "", entry["summary"])
        for fact in _FACTS:
            if fact in entry:
                table.add_row("", fact, entry[fact])
        for name, sites in entry.get("norm_sites", {}).items():
            table.add_row("", name, _counted(sites))
        for field in entry["fields"]:
            default = "required" if field["required"] else f"= {as_yaml(field['default'])}"
            table.add_row("", f"{field['name']} {default}", field["meaning"])
    console.print(table if entries else f"no {what} here")


def as_yaml(value: Any) -> str:
    """A default as a sweep file has it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(str, value))}]"
    return str(value)
