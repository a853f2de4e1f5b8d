"""A run's name never changes by accident: not with spelling, key order, the Python or the pydantic that computes it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from normhpc.config import RunConfig
from normhpc.config.identity import identity_json
from normhpc.config.training import LayerProbes

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_ids.json").read_text())
ROOT = HERE.parent.parent


@pytest.mark.parametrize("entry", GOLDEN, ids=[entry["run_id"] for entry in GOLDEN])
def test_golden_run_ids(entry):
    assert RunConfig.model_validate(entry["config"]).run_id == entry["run_id"]


def test_there_are_enough_golden_ids_and_all_differ():
    assert len({entry["run_id"] for entry in GOLDEN}) == len(GOLDEN) == 20


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"norm": "batch", "seed": 0}),
        ({"norm": "layer"}, {"norm": {"name": "layer"}}),
        ({"optim": {"lr": 1}}, {"optim": {"lr": 1.0}}),
        ({"optim": {"lr": 1, "momentum": 0}}, {"optim": {"momentum": 0.0, "lr": 1.0, "name": "sgd"}}),
        ({"epochs": 3, "seed": 1}, {"seed": 1, "epochs": 3}),
        ({"model": {"widths": [8, 16]}}, {"model": {"name": "convnet", "widths": (8, 16)}}),
        ({"data": {"name": "mnist", "path": "/a"}}, {"data": {"name": "mnist", "path": "/b", "download": True}}),
        ({}, {"checkpoint": {"every_epochs": 7, "keep_best": True}}),
        ({"norm": {"name": "group", "group_size": 4}}, {"norm": {"name": "group", "groups": None, "group_size": 4}}),
        ({"optim": {"weight_decay": 0.0}}, {"optim": {"weight_decay": -0.0}}),
        (
            {"probes": {"name": "layers", "measures": ["conv_std", "norm_mean"], "feature_quantiles": [0.0, 0.2, 0.8]}},
            {
                "probes": {
                    "name": "layers",
                    "measures": ["norm_mean", "conv_std", "norm_mean"],
                    "feature_quantiles": [0.8, 0.2, -0.0, 0.8, 0],
                }
            },
        ),
        (
            {"probes": "layers"},
            {"probes": {"name": "layers", "measures": sorted(LayerProbes().measures)}},
        ),
    ],
)
def test_spelling_and_what_cannot_change_the_result_do_not_matter(one, other):
    assert RunConfig.model_validate(one).run_id == RunConfig.model_validate(other).run_id


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "layer"},
        {"norm": {"eps": 1e-6}},
        {"seed": 1},
        {"epochs": 11},
        {"optim": {"lr": 0.1000001}},
        {"data": {"val_fraction": 0.2}},
        {"model": {"deterministic": False}},
        {"precision": "bf16"},
    ],
)
def test_what_can_change_the_result_changes_the_id(change):
    assert RunConfig.model_validate(change).run_id != RunConfig().run_id


def test_partial_data_is_part_of_the_identity():
    whole, partial = ({"name": "mnist", "allow_partial": partial} for partial in (False, True))
    assert RunConfig.model_validate({"data": whole}).run_id != RunConfig.model_validate({"data": partial}).run_id


def test_identity_json_is_the_whole_resolved_configuration_without_paths_and_checkpoint():
    assert identity_json(RunConfig.model_validate({"data": {"name": "mnist", "path": "/a"}})) == (
        '{"act":"relu","augment":{"name":"none"},"batch_size":128,'
        '"data":{"allow_partial":false,"name":"mnist","normalize":"channel","order":"shuffled","resize":null,'
        '"val_fraction":0.1},"epochs":10,'
        '"loss":{"label_smoothing":0.0,"name":"cross_entropy"},'
        '"model":{"channels_last":"auto","compile":false,"conv":{"name":"plain"},"conv_bias":"auto",'
        '"deterministic":true,"name":"convnet","widths":[32,64]},'
        '"norm":{"eps":1e-05,"momentum":0.1,"name":"batch","running":"unbiased","sync":false},'
        '"optim":{"accumulate":1,"clip_adaptive":null,"clip_norm":null,"decay":"weights","ema_decay":null,'
        '"l1":0.0,"lr":0.1,"lr_batch_size":null,"lr_factors":[],"momentum":0.9,"name":"sgd","nesterov":false,'
        '"weight_decay":0.0005},"precision":"fp32","probes":{"name":"none"},'
        '"schedule":{"final_factor":0.0,"name":"cosine","warmup_epochs":0.0},"schema_version":3,"seed":0}'
    )


def test_a_configuration_survives_json():
    for entry in GOLDEN:
        config = RunConfig.model_validate(entry["config"])
        again = RunConfig.model_validate(json.loads(json.dumps(config.to_json())))
        assert again.run_id == entry["run_id"]
        assert again.to_json() == config.to_json()


def other_pythons() -> list[str]:
    """Interpreters of other versions: on the PATH, and those named in NORMHPC_TEST_PYTHONS, colon between."""
    names = [f"python3.{minor}" for minor in range(11, 16) if minor != sys.version_info.minor]
    found = [path for name in names if (path := shutil.which(name))]
    return found + [path for path in os.environ.get("NORMHPC_TEST_PYTHONS", "").split(":") if path]


def test_golden_run_ids_on_other_pythons():
    script = (
        "import json, sys; from normhpc.config import RunConfig\n"
        "print(json.dumps([RunConfig.model_validate(entry['config']).run_id for entry in json.load(sys.stdin)]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    tried = []
    for python in other_pythons():
        if subprocess.run([python, "-c", "import pydantic, yaml"], capture_output=True, check=False).returncode:
            continue
        answer = subprocess.run(
            [python, "-c", script],
            input=json.dumps(GOLDEN),
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert json.loads(answer.stdout) == [entry["run_id"] for entry in GOLDEN], python
        tried.append(python)
    if not tried:
        pytest.skip("no other Python with pydantic and PyYAML on the PATH or in NORMHPC_TEST_PYTHONS")
