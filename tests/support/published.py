"""The published results of BeyondBatchNorm's successor (gxh2932/Thesis, results/results.csv) as records of runs.

One sealed run a line, with the configurations of ``sweeps/reproduce/beyond_batchnorm.yaml``. VGG's runs labelled with
and without skipinit, which it does not have, are two seeds; runs that the table calls failed are diverged ones; what
it has no unit for is named ``published_*``. For tests alone: these records have the ids of runs that can be trained.
"""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.samples import REPOSITORY

from normhpc.config import Resources, RunConfig
from normhpc.record import RecordWriter, RunFolder

SWEEP = "published_beyond_batchnorm"
CODE = {"version": "gxh2932/Thesis"}
NORMS: dict[str, dict[str, Any]] = {
    "Plain": {"name": "none"},
    "BatchNorm": {"name": "batch", "running": "biased_from_one"},
    "LayerNorm": {"name": "layer"},
    "Instance_Normalization": {"name": "instance"},
    "Filter_Response_Normalization": {"name": "frn_tlu", "eps": 1e-5, "learn_eps": True},
    "EvoNormSO": {"name": "evonorm_s0", "groups": 32},
    "EvoNormBO": {"name": "evonorm_b0", "running": "biased"},
    "Variance_Normalization": {"name": "variance", "running": "biased"},
    "GroupNorm": {"name": "group", "unbiased": True},
}
MODELS: dict[str, dict[str, Any]] = {
    "VGG": {"name": "vgg", "cfg": "cfg_10", "conv_bias": False},
    "ResNet-56": {"name": "bbn_resnet56", "joint_slot": "after_sum", "conv_bias": False},
    "ViT": {"name": "vit", "norm_act": True, "head_classes": 1000},
}
RECIPE: dict[str, Any] = {
    "augment": {"name": "standard", "flip": True, "crop_padding": 0},
    "schedule": {"name": "two_level", "drop_at": 0.75, "factor": 0.1},
}
MEASURED = {"Trace": "trace", "Eigen Mean": "eigenvalue_mean", "Eigen Variance": "eigenvalue_variance"}
MEASURED |= {"Max Eigen": "max_eigenvalue", "Class Similarity": "class_similarity"}


def published_table() -> Path:
    """The table in ``$NORMHPC_REFERENCE``, by default ``../shared/reference``; skips when it is absent."""
    folder = Path(os.environ.get("NORMHPC_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    file = folder / "seed_results_001.csv"
    if not file.exists():
        pytest.skip(f"no published results at {file}; NORMHPC_REFERENCE names the folder that has them")
    return file


def import_table(file: Path, runs: Path) -> int:
    """Write the lines of ``file`` as sealed runs below ``runs``, and return how many; written again they are the same."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        given = config_of(row)
        config = RunConfig.model_validate(given)
        folder = RunFolder(runs / SWEEP / config.run_id)
        recipe = {f"optim.{name}": given["optim"][name] for name in ("momentum", "weight_decay")}
        swept = {name: given[name] for name in ("model", "norm", "data", "batch_size")} | recipe
        folder.create(config, sweep=SWEEP, swept=swept, resources=Resources(), code=CODE)
        if not folder.summary.exists():
            writer = RecordWriter(folder)
            final = final_of(row)
            if final:
                writer.metrics(epoch=config.epochs, step=1, split="test", values={"top1": final["test_top1"]})
            writer.seal({"state": "finished" if final else "diverged", "final": final, "best": {}})
            writer.close()
    return len(rows)


def config_of(row: Mapping[str, str]) -> dict[str, Any]:
    """The configuration of a line, as a sweep file would nest it."""
    model, norm, skipinit = dict(MODELS[row["Model"]]), dict(NORMS[row["Norm"]]), row["SkipInit"] == "True"
    if row["Model"] == "ResNet-56":
        model["residual"] = "skipinit" if skipinit else "plain"
    if row["Norm"] == "GroupNorm":
        norm["p_grouping"] = float(row["P Grouping"])
    data = {
        "name": row["Dataset"].replace("-", "").lower(),
        "val_fraction": 0.0,
        "normalize": "half",
        "order": "stored",
    }
    momentum, decay = (0.9, 1e-4) if row["Mom & WD"] == "True" else (0.0, 0.0)
    optim = {
        "name": "sgd",
        "lr": 0.1,
        "lr_batch_size": 512,
        "decay": "all",
        "momentum": momentum,
        "weight_decay": decay,
    }
    size = {"batch_size": 2 * int(row["Batch Size"]), "epochs": 60 if row["Batch Size"] == "256" else 10}
    seed = int(row["Model"] == "VGG" and skipinit)
    return RECIPE | size | {"model": model, "norm": norm, "data": data, "optim": optim, "seed": seed}


def final_of(row: Mapping[str, str]) -> dict[str, float]:
    """What the line measured, shares of 1 instead of percent; nothing of a run that failed."""
    if row["Success"] != "True":
        return {}
    shares = {"train_top1": float(row["Train Accuracy"]) / 100, "test_top1": float(row["Test Accuracy"]) / 100}
    others = {f"published_{name}": float(row[column]) for column, name in MEASURED.items()}
    return shares | {"generalization_ratio": float(row["Gen. Ratio"])} | others
