"""Every declared sweep can be planned, says what it asks and costs, and carries its schema."""

import json
from pathlib import Path

import pytest

from normhpc.errors import InputError
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
    "thesis_cifar100": 12,
    "beyond_batchnorm": 512,
    "era_cifar10": 9,
    "eva_mnist": 18,
    "harman_resnet": 21,
    "multilabel": 72,
    "multilabel_samples": 8,
    "probes": 2,
}
"""Number of runs of every sweep that ships."""

PRETRAINED = {"thesis_cifar100": "resnet50-0676ba61.pth"}
"""Sweeps that are refused until they are given weights, and what their file says in the place of it."""


def test_every_sweep_is_counted():
    assert {load(path).name: load(path).count() for path in SWEEPS} == RUNS


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """What a sweep of pretrained networks is to be given, here an empty file."""
    file = tmp_path / "weights.pth"
    file.touch()
    return f"model.weights={file}"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_can_be_planned(path: Path, tmp_path: Path, weights: str) -> None:
    runs = tmp_path / "runs"
    plan = make_plan(load(path, [weights] if path.stem in PRETRAINED else []), runs)
    assert len(plan.launch) == RUNS[plan.sweep.name]
    assert plan.counts["new"] == RUNS[plan.sweep.name]
    assert plan.sweep.description
    assert not runs.exists()


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretrained_network_is_refused_without_its_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = load(next(path for path in SWEEPS if path.stem == name))
    with pytest.raises(InputError) as caught:
        make_plan(sweep, tmp_path)
    assert caught.value.exit_code == 2
    [problem] = caught.value.problems
    assert problem.path == "base.model.weights"
    assert problem.message.startswith(
        f"expected the file of a state dict, got {PRETRAINED[name]}, where there is none; give a path"
    )


def test_lines_of_sweeps_fit_a_screen():
    long = [
        (path.name, at)
        for path in SWEEPS
        for at, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 120
    ]
    assert long == []


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
