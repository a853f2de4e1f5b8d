"""Every declared sweep can be planned, says what it asks and costs, and carries its schema."""

import json
from pathlib import Path

import pytest

from normhpc.sweep import load
from normhpc.sweep.plan import make_plan
from normhpc.sweep.schema import sweep_schema

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))

RUNS = {
    "quickstart": 15,
    "full_grid": 570,
    "batch_size": 135,
    "norm_as_activation": 72,
    "catalogue": 66,
    "formula_search": 24,
}
"""Number of runs of every sweep that ships."""


def test_every_sweep_is_counted():
    assert {load(path).name: load(path).count() for path in SWEEPS} == RUNS


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_can_be_planned(path: Path, tmp_path: Path) -> None:
    plan = make_plan(load(path), tmp_path)
    assert len(plan.launch) == RUNS[plan.sweep.name]
    assert plan.counts["new"] == RUNS[plan.sweep.name]
    assert plan.sweep.description
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_says_what_it_asks_and_costs(path: Path) -> None:
    schema, *lines = path.read_text().splitlines()
    assert schema.startswith("# yaml-language-server: $schema=")
    assert (path.parent / schema.partition("=")[2]).resolve() == ROOT / "docs" / "schema" / "sweep.json"
    head = " ".join(line for line in lines if line.startswith("#"))
    for word in ("Question:", "Cost:", "Expected:"):
        assert word in head, f"{path}: its head comment has no {word!r}"


def test_the_schema_for_editors_is_up_to_date():
    shipped = json.loads((ROOT / "docs" / "schema" / "sweep.json").read_text())
    assert shipped == sweep_schema(), "write it again: normhpc schema sweep > docs/schema/sweep.json"
