"""What a loaded sweep tells of itself."""

import time

import pytest

from normhpc.config import Resources
from normhpc.sweep import load

GRID = """\
description: every section
base: {optim.lr: 0.2, data: {name: mnist, path: /m}}
matrix:
  norm: [batch, {name: group, groups: 8}]
  precision: [fp32]
zip:
  - {batch_size: [32, 64], epochs: [5, 10]}
random: {draws: 2, optim.momentum: {uniform: [0, 0.5]}}
ablate: {augment: [standard], checkpoint.keep_best: [true]}
include: [{model: {name: resnet8, residual: skipinit}}]
when: [{match: {norm: group}, set: {schedule.warmup_epochs: 2, resources.minutes: 9}}]
seeds: 2
"""


def test_names(sweep_of, tmp_path):
    sweep = sweep_of(GRID)
    assert (sweep.name, sweep.description, sweep.file) == ("x", "every section", str(tmp_path / "x.yaml"))
    assert sweep_of("name: other").name == "other"


def test_axes(sweep_of):
    assert [tuple(row) for row in sweep_of(GRID).axes] == [
        ("norm", 2, "batch, group(groups=8)"),
        ("precision", 1, "fp32"),
        ("batch_size + epochs", 2, "32 with 5, 64 with 10"),
        ("random", 2, "optim.momentum uniform [0, 0.5]"),
        ("ablate", 2, "one at a time on top of base"),
        ("include", 1, "extra runs on top of base"),
        ("seeds", 2, "0, 1"),
    ]


def test_long_axes_are_cut(sweep_of):
    (row,) = sweep_of(f"matrix: {{epochs: {list(range(1, 100))}}}").axes
    assert (row.label, row.size, len(row.description), row.description[-6:]) == ("epochs", 99, 80, " 22...")


def test_swept_paths_are_what_varies(sweep_of):
    assert sweep_of(GRID).swept_paths == (
        "data.name", "model.name", "norm.name", "norm.groups", "precision", "batch_size", "epochs",
        "optim.momentum", "augment.name", "model.residual", "schedule.warmup_epochs",
    )  # fmt: skip
    assert sweep_of("base: {epochs: 3}\nseeds: 3").swept_paths == ("data.name", "model.name", "norm.name")
    assert sweep_of("matrix: {seed: [1, 2], resources.minutes: [1, 2], data.val_fraction: [0, 0.1]}").swept_paths == (
        "data.name", "model.name", "norm.name", "data.val_fraction",
    )  # fmt: skip


def test_swept_values(sweep_of):
    runs = list(sweep_of(GRID).runs())
    assert runs[0].swept == {
        "data.name": "mnist", "model.name": "convnet", "norm.name": "batch", "norm.groups": None, "precision": "fp32",
        "batch_size": 32,
        "epochs": 5, "optim.momentum": runs[0].swept["optim.momentum"], "augment.name": "none", "model.residual": None,
        "schedule.warmup_epochs": 0.0,
    }  # fmt: skip
    assert runs[8].swept["norm.groups"] == 8
    assert runs[8].resources == Resources(minutes=9)


def test_notes_of_rules_and_base_values_without_effect(sweep_of):
    sweep = sweep_of(
        "base: {optim.lr: 0.5, norm: layer}\nmatrix: {optim: [sgd, adam]}\n"
        "exclude: [{epochs: 3}]\nwhen: [{match: {act: gelu}, set: {epochs: 3}}]"
    )
    assert sweep.notes == []
    assert sweep.merged is None
    list(sweep.runs())
    assert sweep.merged == 0
    assert sweep.notes == [
        "when[0].match matches no run",
        "exclude[0] matches no run",
        "base.optim.lr is in no run; every run replaces it",
    ]


def test_merged_runs_are_told(sweep_of):
    sweep = sweep_of("matrix: {optim.lr: [1, 1.0, 2]}\ninclude: [{optim.lr: 2}]\nseeds: 2")
    assert sweep.count() == 4
    assert sweep.merged == 4
    assert sweep.notes == ["4 runs equal an earlier one and were merged with it"]


def test_expansion_is_lazy_and_counting_is_arithmetic(sweep_of):
    started = time.perf_counter()
    sweep = sweep_of(
        "random: {draws: 3, optim.momentum: {uniform: [0, 0.5]}}\nmatrix: {act: [relu, gelu]}\nseeds: 1000000"
    )
    assert sweep.count() == 6_000_000
    assert [run.seed for run, _ in zip(sweep.runs(), range(3), strict=False)] == [0, 1, 2]
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "text",
    [
        "matrix: {norm: [batch, {name: batch, eps: 1e-5}]}",
        "matrix: {data.path: [/a, /b]}\nbase: {data: mnist}",
        "matrix: {resources.minutes: [1, 2]}",
        "matrix: {epochs: [1, 1]}",
    ],
)
def test_values_that_differ_in_spelling_only_are_not_counted_twice(sweep_of, text):
    assert sweep_of(text).count() == 1


def test_fractions_and_runs_can_be_loaded_again(sweep_of, tmp_path):
    first = [run.run_id for run in sweep_of(GRID).runs()]
    assert [run.run_id for run in load(tmp_path / "x.yaml").runs()] == first
    assert len(first) == len(set(first)) == 22
