import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from results.fabricate import diverged_run, failed_run, new_run, norm_config, sealed_run, small_study

from normhpc.config import SCHEMA_VERSION
from normhpc.errors import InputError
from normhpc.results import load_runs, summarize


def test_a_row_a_cell_with_mean_spread_and_interval(tmp_path):
    small_study(tmp_path)
    table = summarize(load_runs(tmp_path))
    counts = ["n", "ok", "total", "failed", "diverged", "other"]
    metrics = ["test_top1", "test_loss", "seconds_per_epoch", "images_per_second", "peak_memory_mb"]
    statistics = [f"{metric}_{name}" for metric in metrics for name in ("mean", "std", "low", "high")]
    assert list(table.columns) == ["data.name", "model.name", "norm.name", *counts, *statistics]
    assert table["norm.name"].tolist() == ["batch", "layer"]
    assert table[counts].values.tolist() == [[3, 3, 3, 0, 0, 0], [1, 1, 3, 1, 1, 0]]
    batch = table.iloc[0]
    values = np.array([0.90, 0.92, 0.97])
    low, high = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert batch["test_top1_mean"] == pytest.approx(0.93, rel=1e-12)
    assert batch["test_top1_std"] == pytest.approx(math.sqrt(0.0013), rel=1e-12)
    assert (batch["test_top1_low"], batch["test_top1_high"]) == pytest.approx((low, high), rel=1e-12)


def test_one_value_has_a_mean_and_nothing_else(tmp_path):
    sealed_run(tmp_path, {"seed": 0}, 0.8)
    row = summarize(load_runs(tmp_path)).iloc[0]
    assert (row["n"], row["test_top1_mean"]) == (1, 0.8)
    assert row[["test_top1_std", "test_top1_low", "test_top1_high"]].isna().all()


def test_a_diverged_run_counts_but_enters_no_mean_it_has_no_quality_for(tmp_path):
    small_study(tmp_path)
    runs = load_runs(tmp_path)
    layer = summarize(runs).iloc[1]
    assert (layer["total"], layer["diverged"], layer["images_per_second_mean"]) == (3, 1, 700.0)
    # asked for the cost alone, every run that has one is in it
    layer = summarize(runs, metrics=["images_per_second"]).iloc[1]
    assert (layer["n"], layer["images_per_second_mean"]) == (2, 4850.0)


def test_a_cell_of_failures_stays_in_the_table(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0))
    failed_run(tmp_path, norm_config("layer", 0))
    new_run(tmp_path, norm_config("instance", 0))
    table = summarize(load_runs(tmp_path)).set_index("norm.name")
    assert table.loc["layer", ["n", "ok", "total", "failed", "other"]].tolist() == [0, 0, 1, 1, 0]
    assert table.loc["instance", ["n", "ok", "total", "failed", "other"]].tolist() == [0, 0, 1, 0, 1]
    assert table.loc[["layer", "instance"], "test_top1_mean"].isna().all()
    assert table.attrs["notes"] == [
        "failed: 1 of 3 runs (norm.name=layer); normhpc status names the errors",
        "not finished yet: 1 of 3 runs (1 new)",
    ]


def test_cells_by_chosen_fields(tmp_path):
    for act in ("relu", "gelu"):
        for norm, top1 in (("batch", 0.8), ("layer", 0.6)):
            for seed in (0, 1):
                swept = {"norm": norm, "act": act}
                sealed_run(tmp_path, norm_config(norm, seed, act=act), top1 + seed / 10, swept=swept)
    runs = load_runs(tmp_path)
    assert summarize(runs)[["act", "norm.name", "n"]].values.tolist() == [
        ["relu", "batch", 2],
        ["gelu", "batch", 2],
        ["relu", "layer", 2],
        ["gelu", "layer", 2],
    ]
    table = summarize(runs, by=["norm.name"], metrics=["test_top1"])
    assert table[["norm.name", "n"]].values.tolist() == [["batch", 4], ["layer", 4]]
    assert table["test_top1_mean"].tolist() == pytest.approx([0.85, 0.65])
    assert summarize(runs, by=["act", "seed"])["n"].tolist() == [2, 2, 2, 2]
    assert summarize(runs, by=["sweep"])["n"].tolist() == [8]


def test_cells_with_a_field_that_others_lack_are_kept(tmp_path):
    for norm in ("batch", {"name": "group", "groups": 4}, {"name": "group", "groups": 8}):
        for seed in (0, 1):
            sealed_run(tmp_path, norm_config(norm, seed), swept={"norm": norm})
    table = summarize(load_runs(tmp_path))
    assert table["norm.groups"].tolist() == [pd.NA, 4, 8]
    assert table["n"].tolist() == [2, 2, 2]


def test_two_sweeps_with_different_bases_never_share_a_cell(tmp_path):
    for seed in (0, 1):
        sealed_run(tmp_path, norm_config("batch", seed, epochs=2), 0.5, sweep="short")
        sealed_run(tmp_path, norm_config("batch", seed, epochs=9), 0.9, sweep="long")
    table = summarize(load_runs(tmp_path), metrics=["test_top1"])
    assert table[["epochs", "n", "test_top1_mean"]].values.tolist() == [[9, 2, 0.9], [2, 2, 0.5]]


def test_seeds_of_one_configuration_in_two_sweeps_share_a_cell(tmp_path):
    for seed in (0, 1):
        sealed_run(tmp_path, norm_config("batch", seed), sweep="a")
    for seed in (0, 1, 2):
        sealed_run(tmp_path, norm_config("batch", seed), sweep="b")
    table = summarize(load_runs(tmp_path))
    assert table["n"].tolist() == [3]
    assert len(table.attrs["notes"]) == 1
    assert table.attrs["notes"][0].startswith("in more than one folder")


def test_the_default_metrics_of_multi_label_runs(tmp_path):
    final = {"test_loss": 0.1, "test_map_macro": 0.5, "test_map_micro": 0.6, "test_f1_macro": 0.3, "test_cf1": 0.4}
    sealed_run(tmp_path, {"seed": 0}, final=final)
    means = [name for name in summarize(load_runs(tmp_path)).columns if name.endswith("_mean")]
    assert means[:3] == ["test_map_macro_mean", "test_map_micro_mean", "test_loss_mean"]


def test_a_metric_of_one_label_of_runs_with_several_says_what_there_is(tmp_path):
    final = {"test_loss": 0.1, "test_map_macro": 0.5, "test_cf1": 0.4, "test_cf1_3": 0.3}
    best = {"epoch": 2, "val_map_macro": 0.45, "val_loss": 0.2}
    sealed_run(tmp_path, {"seed": 0}, final=final, best=best)
    there = "test_loss, test_map_macro, test_cf1, test_cf1_3, best_epoch, best_val_map_macro, best_val_loss, seconds, "
    there += "seconds_per_epoch, images_per_second, peak_memory_mb, parameters"
    for name in ("top1", "test_top1"):
        with pytest.raises(InputError) as caught:
            summarize(load_runs(tmp_path), metrics=[name])
        assert str(caught.value) == f"no metric of these runs is called {name!r}. There are: {there}"


def test_unknown_metrics_and_fields_say_what_there_is(tmp_path):
    sealed_run(tmp_path, {"seed": 0}, swept={"act": "relu"}, final={"test_top1": 0.5})
    runs = load_runs(tmp_path)
    with pytest.raises(InputError) as caught:
        summarize(runs, metrics=["test_top", "zebra"])
    there = "test_top1, best_epoch, best_val_top1, best_val_loss, seconds, seconds_per_epoch, images_per_second, "
    there += "peak_memory_mb, parameters"
    assert str(caught.value) == (
        f"no metric of these runs is called 'test_top', did you mean 'test_top1'? There are: {there}\n"
        f"no metric of these runs is called 'zebra'. There are: {there}"
    )
    with pytest.raises(InputError) as caught:
        summarize(runs, by=["norm"])
    assert str(caught.value) == (
        "no field of these runs is called 'norm', did you mean 'norm.name'? "
        "There are: data.name, model.name, norm.name, act, sweep, seed"
    )


def notes_of(tmp_path, **changes):
    return summarize(load_runs(tmp_path), **changes).attrs["notes"]


def test_missing_seeds_are_told_by_cell(tmp_path):
    for seed in (0, 1, 2):
        sealed_run(tmp_path, norm_config("batch", seed), swept={"norm": "batch"})
    sealed_run(tmp_path, norm_config("layer", 1), images_per_statistic=None)
    sealed_run(tmp_path, norm_config("none", 1), images_per_statistic=None)
    sealed_run(tmp_path, norm_config("instance", 0), images_per_statistic=None, sweep="other")
    assert notes_of(tmp_path) == ["sweep demo: no run with seed 0, 2 for norm.name=layer; norm.name=none"]


def test_long_lists_of_cells_are_cut_short(tmp_path):
    for seed in (0, 1):
        sealed_run(tmp_path, {"seed": seed})
    for size in range(2, 10):
        sealed_run(tmp_path, {"seed": 0, "batch_size": size}, swept={"batch_size": size})
    sizes = "; ".join(f"batch_size={size}" for size in range(2, 7))
    assert notes_of(tmp_path) == [f"sweep demo: no run with seed 1 for {sizes}; and 3 more"]


def test_batch_statistics_over_different_numbers_of_images_are_warned_of(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0), images_per_statistic=[32, 33])
    sealed_run(tmp_path, norm_config({"name": "batch", "sync": True}, 0), images_per_statistic=[65])
    sealed_run(tmp_path, norm_config("layer", 0), images_per_statistic=None)
    assert notes_of(tmp_path) == [
        "batch statistics of these runs are over different numbers of images, which alone changes the result: "
        "33, 32 in norm.name=batch norm.sync=False; 65 in norm.name=batch norm.sync=True"
    ]


def test_equal_shares_in_another_order_of_ranks_are_equal(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0), images_per_statistic=[32, 33])
    sealed_run(tmp_path, norm_config("batch", 1), images_per_statistic=[33, 32])
    assert notes_of(tmp_path) == []


def test_times_of_runs_in_company_and_alone_are_not_compared_silently(tmp_path):
    for seed in range(2):
        sealed_run(tmp_path, norm_config("batch", seed), trained_together=2, share_seconds=2.5)
        sealed_run(tmp_path, norm_config("layer", seed))
    failed_run(tmp_path, norm_config("none", 0), sweep="other")
    notes = [note for note in notes_of(tmp_path) if "process" in note]
    assert notes == [
        "these runs were trained with different numbers of others in one process, so that times, speed and memory do "
        "not compare: 2 together in norm.name=batch; alone in norm.name=layer"
    ]


def test_different_data_under_one_name_is_told(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0), data_digest="d1")
    sealed_run(tmp_path, norm_config("batch", 1), data_digest="d2")
    sealed_run(tmp_path, norm_config("batch", 0, data="synthetic"), data_digest="d3", sweep="more")
    assert notes_of(tmp_path) == ["digits was not the same data in all runs: d1 in 1 run; d2 in 1 run"]


def test_different_code_is_told(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0))
    sealed_run(tmp_path, norm_config("batch", 1), code={"version": "0.1.0", "commit": "abc123", "dirty": True})
    assert notes_of(tmp_path) == [
        f"runs of different code: schema={SCHEMA_VERSION} commit=abc123 dirty=False version=0.1.0 in 1 run; "
        f"schema={SCHEMA_VERSION} commit=abc123 dirty=True version=0.1.0 in 1 run"
    ]


def test_fewer_values_than_n_are_told(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0))
    sealed_run(tmp_path, norm_config("batch", 1), peak_memory_mb=None)
    assert notes_of(tmp_path) == ["fewer values than n: peak_memory_mb (1 of 2)"]


def test_diverged_runs_are_told(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0), images_per_statistic=None)
    diverged_run(tmp_path, norm_config("none", 0), images_per_statistic=None)
    assert notes_of(tmp_path) == ["diverged: 1 of 2 runs (norm.name=none)"]


def test_filtered_frames_can_be_summarized(tmp_path):
    small_study(tmp_path)
    runs = load_runs(tmp_path)
    table = summarize(runs[runs["norm.name"] == "layer"])
    assert table[["norm.name", "n", "total"]].values.tolist() == [["layer", 1, 3]]
    assert table["test_top1_mean"].tolist() == [0.8]
