import json
import math

import pandas as pd
import pytest
from results.fabricate import diverged_run, failed_run, new_run, norm_config, sealed_run, small_study, started_run

from normhpc.config import SCHEMA_VERSION
from normhpc.errors import InputError
from normhpc.record import append_event
from normhpc.results import load_runs

METRICS = [
    *("train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "test_loss", "test_top1", "test_top5"),
    *("best_epoch", "best_val_top1", "best_val_loss"),
    *("seconds", "seconds_per_epoch", "images_per_second", "peak_memory_mb", "parameters"),
]
PROVENANCE = ["images_per_statistic", "trained_together", "data_digest", "code"]


def test_one_row_a_run_with_columns_in_the_contract_order(tmp_path):
    small_study(tmp_path)
    runs = load_runs(tmp_path)
    fields = ["data.name", "model.name", "norm.name"]
    assert list(runs.columns) == ["run_id", "sweep", "state", "seed", *fields, *METRICS, *PROVENANCE]
    assert list(zip(runs["norm.name"], runs["seed"], runs["state"], strict=True)) == [
        ("batch", 0, "finished"),
        ("batch", 1, "finished"),
        ("batch", 2, "finished"),
        ("layer", 0, "finished"),
        ("layer", 1, "failed"),
        ("layer", 2, "diverged"),
    ]
    assert runs["test_top1"][:4].tolist() == [0.90, 0.92, 0.97, 0.8]
    assert runs["test_top1"][4:].isna().all()
    first = runs.iloc[0]
    assert (first["sweep"], first["data.name"], first["model.name"]) == ("demo", "digits", "convnet")
    assert (first["best_epoch"], first["best_val_top1"], first["parameters"]) == (1.0, 0.45, 1234.0)
    assert (first["seconds"], first["seconds_per_epoch"], first["images_per_second"]) == (5.0, 2.0, 700.0)
    assert (first["images_per_statistic"], first["trained_together"]) == ("128", "1")
    assert runs["trained_together"].isna().tolist() == [False] * 4 + [True, False]
    assert first["code"] == f"schema={SCHEMA_VERSION} commit=abc123 dirty=False version=0.1.0"
    assert runs["images_per_second"][5] == 9000.0
    assert runs.attrs["notes"] == []


def test_runs_with_one_label_and_with_several_in_one_table(tmp_path):
    final = {
        "test_of1_3": 0.2,
        "test_of1": 0.3,
        "generalization_ratio": 0.9,
        "test_map_macro": 0.5,
        "val_map_macro": 0.4,
    }
    sealed_run(tmp_path, {"seed": 0})
    sealed_run(tmp_path, {"seed": 1}, final=final, best={"epoch": 2, "val_map_macro": 0.4, "val_loss": 0.1})
    runs = load_runs(tmp_path)
    names = list(runs.columns)
    quality = names[names.index("train_loss") : names.index("seconds")]
    assert quality == [
        *("train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "val_map_macro"),
        *("test_loss", "test_top1", "test_top5", "test_map_macro", "test_of1", "test_of1_3", "generalization_ratio"),
        *("best_epoch", "best_val_top1", "best_val_loss", "best_val_map_macro"),
    ]
    first, second = (runs.iloc[row] for row in range(2))
    assert (first["best_val_top1"], second["best_val_map_macro"], second["generalization_ratio"]) == (0.45, 0.4, 0.9)
    assert math.isnan(first["best_val_map_macro"])
    assert math.isnan(second["best_val_top1"])


def test_runs_are_found_from_root_sweep_and_run_and_count_once(tmp_path):
    small_study(tmp_path)
    everything = load_runs(tmp_path)
    pd.testing.assert_frame_equal(load_runs(tmp_path / "demo"), everything)
    pd.testing.assert_frame_equal(load_runs(tmp_path, tmp_path / "demo", str(tmp_path)), everything)
    one = load_runs(tmp_path / "demo" / everything["run_id"][2])
    assert one["run_id"].tolist() == [everything["run_id"][2]]
    assert one["test_top1"].tolist() == [0.97]


def test_every_state_that_a_record_alone_tells(tmp_path):
    new_run(tmp_path, {"seed": 0})
    append_event(new_run(tmp_path, {"seed": 1}), "submitted")
    started_run(tmp_path, {"seed": 2})
    append_event(started_run(tmp_path, {"seed": 3}), "cancelled")
    failed_run(tmp_path, {"seed": 4})
    diverged_run(tmp_path, {"seed": 5})
    sealed_run(tmp_path, {"seed": 6})
    runs = load_runs(tmp_path)
    assert runs["state"].tolist() == ["new", "lost", "running", "cancelled", "failed", "diverged", "finished"]


def test_the_frame_has_metric_columns_before_anything_is_sealed(tmp_path):
    new_run(tmp_path, {"seed": 0})
    runs = load_runs(tmp_path)
    assert [name for name in METRICS if name not in runs.columns] == ["best_val_loss"]
    assert runs[["test_top1", "seconds", "best_epoch"]].isna().all(axis=None)


def test_swept_parts_become_columns_and_runs_without_the_field_are_empty(tmp_path):
    sealed_run(tmp_path, {"norm": "batch"}, swept={"norm": "batch", "batch_size": 64})
    groups = {"name": "group", "groups": 4}
    sealed_run(tmp_path, {"norm": groups, "batch_size": 64}, swept={"norm": groups, "batch_size": 64})
    runs = load_runs(tmp_path)
    assert list(runs.columns[4:9]) == ["data.name", "model.name", "norm.name", "batch_size", "norm.groups"]
    assert runs["norm.name"].tolist() == ["batch", "group"]
    assert runs["batch_size"].tolist() == [128, 64]
    assert runs["norm.groups"].tolist() == [pd.NA, 4]


@pytest.mark.parametrize(
    ("field", "values", "dtype", "column"),
    [
        ("epochs", [2, 5], "Int64", [2, 5]),
        ("precision", ["fp32", "bf16"], "str", ["fp32", "bf16"]),
        ("norm.sync", [False, True], "boolean", [False, True]),
        ("optim.lr", [1, 0.5], "float64", [1.0, 0.5]),
        ("model.widths", [[8], [8, 16]], "str", ["[8]", "[8,16]"]),
    ],
)
def test_fields_keep_their_type(tmp_path, field, values, dtype, column):
    for value in values:
        part, _, name = field.partition(".")
        sealed_run(tmp_path, {part: {name: value} if name else value}, swept={field: value})
    runs = load_runs(tmp_path)
    assert str(runs[field].dtype) == dtype
    assert runs[field].tolist() == column


def test_fields_of_several_sweeps_are_merged_and_unswept_differences_told_apart(tmp_path):
    sealed_run(tmp_path, {"epochs": 2}, sweep="short", swept={"act": "relu"})
    sealed_run(tmp_path, {"epochs": 9, "checkpoint": {"every_epochs": 3}}, sweep="long", swept={"optim.lr": 0.1})
    runs = load_runs(tmp_path)
    assert list(runs.columns[4:10]) == ["data.name", "model.name", "norm.name", "act", "optim.lr", "epochs"]
    assert runs["sweep"].tolist() == ["long", "short"]
    assert runs["epochs"].tolist() == [9, 2]
    assert "checkpoint.every_epochs" not in runs.columns


def test_rows_follow_the_order_of_creation_of_the_values_not_their_names(tmp_path):
    for norm in ("layer", "batch"):
        for seed in (10, 2):
            sealed_run(tmp_path, norm_config(norm, seed))
    folders = sorted((tmp_path / "demo").iterdir())
    for folder in folders:
        content = json.loads((folder / "run.json").read_text())
        order = ["layer", "batch"].index(content["config"]["norm"]["name"])
        content["created"] = f"2026-01-0{order + 1}T00:00:00.000Z"
        (folder / "run.json").write_text(json.dumps(content))
    runs = load_runs(tmp_path)
    assert list(zip(runs["norm.name"], runs["seed"], strict=True)) == [
        ("layer", 2),
        ("layer", 10),
        ("batch", 2),
        ("batch", 10),
    ]


def test_of_two_copies_the_sealed_one_is_kept_and_told(tmp_path):
    new_run(tmp_path, {"seed": 0}, sweep="first")
    sealed = sealed_run(tmp_path, {"seed": 0}, 0.7, sweep="second")
    runs = load_runs(tmp_path)
    assert runs[["sweep", "state", "test_top1"]].values.tolist() == [["second", "finished", 0.7]]
    told = f"in more than one folder, the sealed or first one is kept: {sealed.path.name} (kept: {sealed.path})"
    assert runs.attrs["notes"] == [told]


def test_copies_trained_on_other_images_are_told(tmp_path):
    first, second = (sealed_run(tmp_path, {"seed": 0}, sweep=name, data_digest=name) for name in ("d1", "d2"))
    sealed_run(tmp_path, {"seed": 1}, sweep="d1")
    sealed_run(tmp_path, {"seed": 1}, sweep="d2")
    assert load_runs(tmp_path).attrs["notes"][1:] == [
        f"one run id, but trained on different images (data_digest): {first.path.name} in {first.path} and in {second.path}"
    ]


def test_foreign_folders_and_files_are_passed_over(tmp_path):
    sealed_run(tmp_path, {"seed": 0})
    (tmp_path / "notes").mkdir()
    (tmp_path / "demo" / "slurm").mkdir()
    (tmp_path / "demo" / "README").write_text("mine")
    (tmp_path / "demo" / "odd" / "run.json").mkdir(parents=True)
    runs = load_runs(tmp_path)
    assert len(runs) == 1
    assert runs.attrs["notes"] == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not readable (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("", "not readable (Expecting value: line 1 column 1 (char 0))"),
        ("[]", "has no run_id, sweep, config"),
        ('{"run_id": "a", "sweep": "s", "config": {}}', "has no config.seed"),
        ('{"run_id": 3, "sweep": "s"}', "has no run_id, config"),
        ('{"run_id": "a", "sweep": "s", "config": {"seed": 1}, "swept": [1]}', "has no swept"),
    ],
)
def test_a_damaged_run_json_leaves_the_run_out_and_says_so(tmp_path, content, what):
    sealed_run(tmp_path, {"seed": 0})
    damaged = sealed_run(tmp_path, {"seed": 1})
    damaged.run_json.write_text(content)
    runs = load_runs(tmp_path)
    assert runs["seed"].tolist() == [0]
    advice = "the run is left out, delete its folder and launch the sweep again"
    assert runs.attrs["notes"] == [f"{damaged.run_json}: {what}; {advice}"]


def test_nothing_but_damaged_runs_is_an_empty_table(tmp_path):
    damaged = sealed_run(tmp_path, {"seed": 1})
    damaged.run_json.write_text("{")
    runs = load_runs(tmp_path)
    assert runs.empty
    assert list(runs.columns[:7]) == ["run_id", "sweep", "state", "seed", "data.name", "model.name", "norm.name"]
    assert len(runs.attrs["notes"]) == 1


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            '{"state": "fin',
            "not JSON (Unterminated string starting at: line 1 column 11 (char 10)); "
            "delete it, the run will write it again",
        ),
        ("[1]", "says neither finished nor diverged; delete it, the run will write it again"),
        ('{"state": "great"}', "says neither finished nor diverged; delete it, the run will write it again"),
    ],
)
def test_a_damaged_summary_makes_the_run_lost_and_says_so(tmp_path, content, what):
    folder = sealed_run(tmp_path, {"seed": 1})
    folder.summary.write_text(content)
    runs = load_runs(tmp_path)
    assert runs["state"].tolist() == ["lost"]
    assert runs["test_top1"].isna().all()
    assert runs.attrs["notes"] == [f"{folder.summary}: {what}"]


def test_odd_values_in_a_summary_are_missing_not_a_crash(tmp_path):
    odd = {"final": {"test_top1": "high", "test_loss": None, "test_top5": True}, "best": 3, "seconds": [1]}
    sealed_run(tmp_path, {"seed": 1}, **odd)
    row = load_runs(tmp_path).iloc[0]
    assert all(math.isnan(row[name]) for name in ("test_top1", "test_loss", "test_top5", "best_epoch", "seconds"))
    assert row["parameters"] == 1234.0


def test_multi_label_metrics_come_in_the_order_of_the_contract(tmp_path):
    final = {"test_of1": 0.3, "test_map_macro": 0.4, "val_loss": 1.0, "test_auc": 0.5, "test_map_micro": 0.6}
    sealed_run(tmp_path, {"seed": 1}, final=final)
    columns = list(load_runs(tmp_path).columns)
    assert columns[7:12] == ["val_loss", "test_map_macro", "test_map_micro", "test_of1", "test_auc"]


def test_torn_lines_of_unsealed_runs_are_counted_by_file(tmp_path):
    folder = failed_run(tmp_path, {"seed": 0})
    with folder.metrics.open("ab") as file:
        file.write(b'{"epoch": 2, "st\x00\x00\n[1, 2]\n')
    with folder.events.open("ab") as file:
        file.write(b'{"event": "fini')
    runs = load_runs(tmp_path)
    assert runs["state"].tolist() == ["failed"]
    assert runs.attrs["notes"] == [f"3 torn lines skipped: {folder.events} (1); {folder.metrics} (2)"]


def test_metrics_that_changed_after_the_seal_are_told(tmp_path):
    longer, gone = sealed_run(tmp_path, {"seed": 0}), sealed_run(tmp_path, {"seed": 1})
    size = longer.metrics.stat().st_size
    with longer.metrics.open("ab") as file:
        file.write(b"\n")
    gone.metrics.unlink()
    told = {
        f"{longer.metrics}: {size + 1} bytes, but sealed with {size}; "
        "changed or damaged after the run ended, its result is as sealed",
        f"{gone.metrics}: missing, though the run is sealed; its curves are lost, its result is not",
    }
    assert set(load_runs(tmp_path).attrs["notes"]) == told


def test_results_of_another_schema_are_still_read(tmp_path):
    folder = sealed_run(tmp_path, {"seed": 0}, 0.6)
    content = json.loads(folder.run_json.read_text())
    content["schema_version"] = 0
    content["config"]["brand_new_field"] = 7
    folder.run_json.write_text(json.dumps(content))
    runs = load_runs(tmp_path)
    assert runs["test_top1"].tolist() == [0.6]
    assert runs["code"].tolist() == ["schema=0 commit=abc123 dirty=False version=0.1.0"]


def test_missing_and_empty_folders_are_all_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        load_runs(tmp_path / "absent", tmp_path / "empty", tmp_path / "file")
    assert str(caught.value) == (
        f"{tmp_path}/absent: there is no such folder; normhpc sweep SWEEP.yaml makes runs\n"
        f"{tmp_path}/empty: there are no runs in it; normhpc sweep SWEEP.yaml makes runs\n"
        f"{tmp_path}/file: not a folder; give the one of a run, of a sweep or of sweeps, such as runs"
    )


def test_the_name_of_a_sweep_is_no_folder_but_near_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        load_runs("demo")
    assert str(caught.value) == "demo: there is no such folder, did you mean runs/demo?"
    (tmp_path / "demo.yaml").write_text("name: demo")
    with pytest.raises(InputError) as caught:
        load_runs("demo.yaml")
    assert str(caught.value) == (
        "demo.yaml: not a folder; give the one of a run, of a sweep or of sweeps, such as runs/demo"
    )
