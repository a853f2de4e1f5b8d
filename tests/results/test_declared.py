"""Runs held against declared configurations."""

import json
from pathlib import Path
from typing import Any

import pytest
from results.fabricate import new_run

from normhpc.config import RunConfig
from normhpc.record import RunFolder
from normhpc.results.declared import Place, places
from normhpc.results.records import read_records

NORMS = [{"norm": {"name": "group", "groups": 8}}, {"norm": "batch"}, {"norm": "batch", "epochs": 7}]


def place_of(folder: RunFolder, declared: list[dict[str, Any]] = NORMS) -> Place:
    """The place of the run in ``folder``, alone."""
    found = places(read_records([folder.path]).runs, [RunConfig.model_validate(config) for config in declared])
    assert list(found) == [folder.path.name]
    return found[folder.path.name]


@pytest.mark.parametrize(
    ("config", "nearest", "differing"),
    [
        ({"norm": "batch"}, 1, {}),
        ({"norm": "batch", "seed": 9}, 1, {}),
        ({"norm": "batch", "checkpoint": {"keep_best": True}}, 1, {}),
        ({"norm": "batch", "epochs": 6}, 1, {"epochs": 6}),
        ({"norm": "batch", "epochs": 7}, 2, {}),
        ({"norm": "batch", "epochs": 7, "batch_size": 32}, 2, {"batch_size": 32}),
        ({"norm": {"name": "group", "groups": 4}}, 0, {"norm.groups": 4}),
        ({"norm": {"name": "batch", "running": "biased"}, "epochs": 2}, 1, {"epochs": 2, "norm.running": "biased"}),
    ],
)
def test_the_nearest_declared_and_what_differs(
    tmp_path: Path, config: dict[str, Any], nearest: int, differing: dict[str, Any]
) -> None:
    place = place_of(new_run(tmp_path, config))
    assert place.declared == RunConfig.model_validate(NORMS[nearest]).to_json()
    assert place.differing == differing


def test_settings_on_one_line() -> None:
    assert Place({}, {}).settings == ""
    differing = {"epochs": 2, "model.weights": None, "norm.name": "layer", "optim.lr": 5e-5, "optim.nesterov": True}
    written = "epochs=2 model.weights=null norm.name=layer optim.lr=5e-05 optim.nesterov=true"
    assert Place({}, differing).settings == written


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ("norm.name=group", True),
        ("norm.name=group optim.l1=0 optim.lr=1e-1", True),
        ("optim.nesterov=false", True),
        ("optim.nesterov=true", False),
        ("norm.name=batch", False),
        ("norm.groups=16", False),
        ("norm.name=group norm.sync=false", False),
    ],
)
def test_the_declared_configuration_fits_a_match(match: str, fits: bool) -> None:
    config = {"norm": {"name": "group", "groups": 8}, "optim": {"lr": 0.1}}
    assert Place(RunConfig.model_validate(config).to_json(), {}).fits(match) is fits


WEIGHTS = {"model": {"name": "torchvision/resnet18", "weights": "weights.pth"}}


@pytest.mark.parametrize(("weights", "differing"), [("/a/x.pth", {}), (None, {"model.weights": None})])
def test_of_weights_only_that_there_are_some(tmp_path: Path, weights: str | None, differing: dict[str, Any]) -> None:
    run = new_run(tmp_path, {"model": {"name": "torchvision/resnet18", "weights": weights}})
    assert place_of(run, [WEIGHTS]).differing == differing


def test_weights_that_were_not_declared(tmp_path: Path) -> None:
    run = new_run(tmp_path, WEIGHTS)
    assert place_of(run, [{"model": "torchvision/resnet18"}]).settings == "model.weights=a file"


def test_a_run_of_another_version(tmp_path: Path) -> None:
    """Its fields read alike but gave another id; or this version does not know them."""
    folder = new_run(tmp_path, {"norm": "batch"})
    content = json.loads(folder.run_json.read_text())
    folder.run_json.write_text(json.dumps(content | {"run_id": "0123456789abcdef"}))
    [place] = places(read_records([folder.path]).runs, [RunConfig.model_validate({"norm": "batch"})]).values()
    assert place.differing == {"schema_version": "another"}
    content["config"]["optim"]["magic"] = [1, 2]
    folder.run_json.write_text(json.dumps(content))
    place = place_of(folder)
    assert place.declared["norm"]["name"] == "batch"
    assert (place.differing["optim.magic"], place.differing["schema_version"]) == ("[1, 2]", "another")
