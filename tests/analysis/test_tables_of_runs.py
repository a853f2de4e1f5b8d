"""Figures of tables of runs: what is drawn, on records made for it."""

import math
from pathlib import Path

import numpy as np
import pytest
from results.fabricate import diverged_run, failed_run, sealed_run, small_study, started_run
from scipy import stats


def interval(values: list[float], most: float = 1.0) -> list[float]:
    """Mean and both ends of the 95 % t interval, of shares within 0 and 1."""
    mean = float(np.mean(values))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return [mean, max(float(low), 0.0), min(float(high), most)]


def test_accuracy_by_norm(tmp_path: Path, drawn) -> None:
    small_study(tmp_path / "runs")
    failed_run(tmp_path / "runs", {"norm": "instance"}, swept={"norm": "instance"})
    table = drawn("accuracy_by_norm", tmp_path / "runs").set_index("norm")
    # from the bottom up: without a value, then worst to best
    assert table.index.tolist() == ["instance", "layer", "batch"]
    assert table.loc["batch", ["mean", "low", "high"]].tolist() == pytest.approx(
        interval([0.90, 0.92, 0.97]), rel=1e-12
    )
    assert table[["n", "total", "failed", "diverged"]].to_numpy().tolist() == [[0, 1, 1, 0], [1, 3, 1, 1], [3, 3, 0, 0]]
    assert table.loc["layer", "mean"] == 0.8
    assert math.isnan(table.loc["layer", "low"])
    assert set(table["metric"]) == {"test_top1"}


def test_accuracy_has_a_panel_for_each_network_and_setting(tmp_path: Path, drawn) -> None:
    for model in ("convnet", "resnet8"):
        for epochs in (1, 2):
            for seed in range(2):
                config = {"norm": "batch", "model": model, "epochs": epochs, "seed": seed}
                sealed_run(tmp_path, config, 0.5 + 0.1 * epochs + 0.01 * seed, swept={"model": model, "epochs": epochs})
    table = drawn("accuracy_by_norm", tmp_path)
    assert table["panel"].tolist() == [
        *("digits, convnet, epochs=1", "digits, convnet, epochs=2", "digits, resnet8, epochs=1"),
        "digits, resnet8, epochs=2",
    ]
    assert table["mean"].tolist() == pytest.approx([0.605, 0.705, 0.605, 0.705], rel=1e-12)
    only = drawn("accuracy_by_norm", tmp_path, "--only", "model.name=resnet8", "--only", "epochs=2")
    assert only["panel"].tolist() == ["digits, resnet8"]
    assert only["mean"].tolist() == pytest.approx([0.705], rel=1e-12)


def test_a_loss_is_sorted_the_other_way(tmp_path: Path, drawn) -> None:
    sealed_run(tmp_path, {"norm": "batch"}, 0.9, swept={"norm": "batch"})
    sealed_run(tmp_path, {"norm": {"name": "group", "groups": 8}}, 0.7, swept={"norm": {"name": "group", "groups": 8}})
    table = drawn("accuracy_by_norm", tmp_path, "--metric", "test_loss")
    assert table["norm"].tolist() == ["group groups=8", "batch"]
    assert table["mean"].tolist() == pytest.approx([0.3, 0.1], rel=1e-12)


def test_nothing_measured_yet(tmp_path: Path, refused) -> None:
    started_run(tmp_path, {"norm": "batch"})
    assert refused("accuracy_by_norm", tmp_path) == (
        f"none of the 1 runs in {tmp_path} has test_top1 (1 running); normhpc status {tmp_path} says how far they are, "
        "normhpc sweep SWEEP.yaml --local trains"
    )
    assert "there is no such folder" in refused("accuracy_by_norm", tmp_path / "nothing")
    assert "--only: no field of these runs is called 'norm.nam', did you mean 'norm.name'?" in refused(
        "accuracy_by_norm", tmp_path, "--only", "norm.nam=batch"
    )
    assert refused("accuracy_by_norm", tmp_path, "--only", "norm.name=x") == (
        "--only: no run has norm.name=x, there are batch"
    )


def test_training_time(tmp_path: Path, drawn) -> None:
    seconds = {"batch": [2.0, 2.2, 2.1], "layer": [3.0, 3.3, 3.6]}
    for norm, values in seconds.items():
        for seed, value in enumerate(values):
            cost = {"seconds_per_epoch": value, "images_per_second": 1400 / value, "peak_memory_mb": 100.0 + value}
            sealed_run(tmp_path, {"norm": norm, "seed": seed}, swept={"norm": norm}, **cost)
    diverged_run(tmp_path, {"norm": "layer", "seed": 3}, swept={"norm": "layer"})
    table = drawn("training_time", tmp_path).set_index(["norm", "measure"])
    logs = [np.log(values) for values in (seconds["layer"], seconds["batch"])]
    welch = stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    ratio = math.exp(logs[0].mean() - logs[1].mean())
    for measure, expected in (
        ("seconds_per_epoch", [ratio, math.exp(welch.low), math.exp(welch.high)]),
        ("images_per_second", [1 / ratio, math.exp(-welch.high), math.exp(-welch.low)]),
        ("peak_memory_mb", interval([103.0, 103.3, 103.6], math.inf)),
    ):
        row = table.loc[("layer", measure)]
        assert row[["shown", "low", "high"]].tolist() == pytest.approx(expected, rel=1e-9), measure
        assert row["n"] == 3
    assert table.loc[("batch", "seconds_per_epoch"), "shown"] == 1
    assert table.loc[("batch", "seconds_per_epoch"), "method"] == "reference"
    assert table.loc[("layer", "seconds_per_epoch"), "method"] == "Welch t of logarithms"


def test_training_time_of_runs_in_company_has_a_panel_of_its_own(tmp_path: Path, drawn) -> None:
    seconds = {("batch", 1): 2.0, ("layer", 1): 3.0, ("batch", 3): 5.0, ("layer", 3): 6.0}
    for (norm, together), value in seconds.items():
        config = {"norm": norm, "seed": together}
        sealed_run(tmp_path, config, swept={"norm": norm}, seconds_per_epoch=value, trained_together=together)
    table = drawn("training_time", tmp_path).set_index(["panel", "norm", "measure"])["shown"]
    measure = "seconds_per_epoch"
    panels = ["digits, convnet, alone", "digits, convnet, 3 in one process"]
    assert list(dict.fromkeys(table.index.get_level_values("panel"))) == panels
    assert [table[panel, "layer", measure] for panel in panels] == pytest.approx([1.5, 1.2], rel=1e-12)
    assert [table[panel, "batch", measure] for panel in panels] == [1, 1]


def test_training_time_without_batch_norm(tmp_path: Path, refused) -> None:
    sealed_run(tmp_path, {"norm": "layer"})
    assert refused("training_time", tmp_path) == (
        f"no finished runs of batch norm in {tmp_path} to compare with; normhpc sweep SWEEP.yaml --local trains the runs "
        "of a sweep, --only norm=batch those of its batch norm"
    )


def test_batch_size_effect(tmp_path: Path, drawn, refused) -> None:
    scores = {("batch", 4): [0.5, 0.6], ("batch", 64): [0.9, 0.92], ("layer", 4): [0.8, 0.84], ("layer", 64): [0.7]}
    for (norm, size), values in scores.items():
        for seed, value in enumerate(values):
            # the rate goes with the batch size: no panels of its own
            config = {"norm": norm, "batch_size": size, "optim": {"lr": size / 640}, "seed": seed}
            swept = {"norm": norm, "batch_size": size, "optim.lr": size / 640}
            sealed_run(tmp_path / "runs", config, value, swept=swept)
    table = drawn("batch_size_effect", tmp_path / "runs").set_index(["norm", "batch_size"])
    assert len(table) == 4
    for cell, values in scores.items():
        assert table.loc[cell, "n"] == len(values)
        if len(values) > 1:
            assert table.loc[cell, ["mean", "low", "high"]].tolist() == pytest.approx(interval(values), rel=1e-9)
    sealed_run(tmp_path / "one", {"norm": "batch"})
    (tmp_path / "figures").rename(tmp_path / "before")
    assert refused("batch_size_effect", tmp_path / "one") == (
        f"expected runs of several batch sizes in {tmp_path / 'one'}, got one; "
        "normhpc sweep sweeps/batch_size.yaml makes such runs"
    )


def test_norm_vs_activation(tmp_path: Path, drawn, refused) -> None:
    scores = {("batch", "relu"): [0.9, 0.94], ("batch", "tanh"): [0.8], ("dyt", "relu"): [0.7, 0.72]}
    for (norm, act), values in scores.items():
        for seed, value in enumerate(values):
            swept = {"norm": norm, "act": act}
            sealed_run(tmp_path / "runs", {"norm": norm, "act": act, "seed": seed}, value, swept=swept)
    diverged_run(tmp_path / "runs", {"norm": "dyt", "act": "tanh"}, swept={"norm": "dyt", "act": "tanh"})
    table = drawn("norm_vs_activation", tmp_path / "runs").set_index(["norm", "act"])
    assert table.loc[("batch", "relu"), ["mean", "low", "high"]].tolist() == pytest.approx(
        interval([0.9, 0.94]), rel=1e-9
    )
    assert table["n"].to_dict() == {("batch", "relu"): 2, ("batch", "tanh"): 1, ("dyt", "relu"): 2, ("dyt", "tanh"): 0}
    assert math.isnan(table.loc[("dyt", "tanh"), "mean"])
    sealed_run(tmp_path / "one", {"norm": "batch"})
    (tmp_path / "figures").rename(tmp_path / "before")
    assert "normhpc sweep sweeps/norm_as_activation.yaml makes such runs" in refused(
        "norm_vs_activation", tmp_path / "one"
    )
