"""What a sweep can name: read off the configuration types, so that it cannot be out of date."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from normhpc.config import RunConfig
from normhpc.config.base import shown_name
from normhpc.errors import NormhpcError

_FIELD_OF = {"norms": "norm", "models": "model", "data": "data"}


def list_parts(what: str) -> list[dict[str, Any]]:
    """``norms``, ``models`` or ``data``: name, summary and fields (name, default, meaning) of each."""
    annotation = RunConfig.model_fields[_FIELD_OF[what]].annotation
    kinds: tuple[type[BaseModel], ...] = get_args(annotation)
    return [
        {
            "name": shown_name(kind),  # type: ignore[arg-type]
            "summary": " ".join((kind.__doc__ or "").split()),
            "fields": [
                {
                    "name": name,
                    "default": None if field.is_required() else field.default,
                    "required": field.is_required(),
                    "meaning": " ".join((field.description or "").split()),
                }
                for name, field in kind.model_fields.items()
                if name != "name"
            ],
        }
        for kind in kinds
    ]


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
        for field in entry["fields"]:
            default = "required" if field["required"] else f"= {_yaml(field['default'])}"
            table.add_row("", f"{field['name']} {default}", field["meaning"])
    console.print(table if entries else f"no {what} here")


def _yaml(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(str, value))}]"
    return str(value)
