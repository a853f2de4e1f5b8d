"""What can be named: complete, and true to the configuration."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from normhpc.config import RunConfig
from normhpc.sweep.catalogue import list_parts, list_sweeps, show_catalogue


def shown(what: str, entries: list[dict], width: int = 10_000) -> list[str]:
    file = io.StringIO()
    show_catalogue(what, entries, Console(file=file, width=width, markup=False, emoji=False, highlight=False))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("norms", ["none", "batch", "layer", "instance", "group"]),
        ("models", ["convnet", "resnet{6n+2}"]),
        ("data", ["digits", "mnist", "cifar10", "cifar100", "synthetic"]),
    ],
)
def test_parts(what: str, names: list[str]) -> None:
    entries = list_parts(what)
    assert [name for name in names if name not in [entry["name"] for entry in entries]] == []
    assert all(entry["summary"] for entry in entries)
    assert [field["name"] for entry in entries for field in entry["fields"] if not field["meaning"]] == []


def test_fields_have_the_defaults_of_the_configuration() -> None:
    for entry in list_parts("norms"):
        needed = {"expr": "x"} if entry["name"] == "formula" else {}
        norm = RunConfig.model_validate({"norm": {"name": entry["name"], **needed}}).norm
        told = {field["name"]: field["default"] for field in entry["fields"] if field["name"] not in needed}
        assert told == {name: getattr(norm, name) for name in told}


def test_norms_say_what_they_are() -> None:
    entries = {entry["name"]: entry for entry in list_parts("norms")}
    batch = entries["batch"]
    assert {key: batch[key] for key in ("family", "scope", "formula", "reference")} == {
        "family": "hand-crafted",
        "scope": "batch",
        "formula": "(x - mean(x, 'batch')) / std(x, 'batch') * weight + bias",
        "reference": "Ioffe and Szegedy 2015, arXiv:1502.03167",
    }
    assert all(entry[key] for entry in entries.values() for key in ("family", "scope", "formula", "reference"))
    assert "family" not in list_parts("models")[0]
    assert [line.split(maxsplit=1) for line in shown("norms", [entries["rms"]])][1:5] == [
        ["family", "hand-crafted"],
        ["scope", "pixel"],
        ["formula", "x / rms(x, 'pixel') * weight"],
        ["reference", "Zhang and Sennrich 2019, arXiv:1910.07467"],
    ]


def test_table_of_parts() -> None:
    field = {"name": "widths", "default": (32, 64), "required": False, "meaning": "Output [channels] :100: each."}
    other = field | {"name": "path", "default": None}
    switch = field | {"name": "sync", "default": False}
    need = field | {"name": "size", "required": True}
    entry = {"name": "net", "summary": "A [red]network[/].", "fields": [field, other, switch, need]}
    assert shown("models", [entry]) == [
        "net                     A [red]network[/].",
        "     widths = [32, 64]  Output [channels] :100: each.",
        "     path = null        Output [channels] :100: each.",
        "     sync = false       Output [channels] :100: each.",
        "     size required      Output [channels] :100: each.",
    ]


def test_sweeps_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "one.yaml").write_text("name: one\ndescription: A single run\n")
    (tmp_path / "deep" / "many.yaml").write_text("name: many\nseeds: 1234\n")
    (tmp_path / "bad.yaml").write_text("name: bad\nseeds: none\nmatrics: {}\n")
    entries = list_sweeps(tmp_path)
    assert [(entry["name"], entry["runs"]) for entry in entries] == [
        (f"{tmp_path}/bad.yaml", 0),
        (f"{tmp_path}/deep/many.yaml", 1234),
        (f"{tmp_path}/one.yaml", 1),
    ]
    lines = shown("sweeps", entries)
    assert lines[0].split(maxsplit=1)[1].startswith(f"error: {tmp_path}/bad.yaml:2:8: seeds: ")
    assert [line.split(maxsplit=1)[1] for line in lines if "1" in line.split()[-1] or "run" in line][-2:] == [
        "1,234 runs",
        "1 run       A single run",
    ]


def test_no_sweeps(tmp_path: Path) -> None:
    assert list_sweeps(tmp_path / "nowhere") == []
    assert shown("sweeps", []) == ["no sweeps here"]
