"""A run from its folder to its sealed record."""

import dataclasses
import hashlib
import json
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, recall_score
from support.trainings import (
    TINY,
    StopAfter,
    events,
    metrics,
    new_run,
    outcome,
    train_in_pieces,
    warnings_told,
    weights,
)

from normhpc import data as image_data
from normhpc import models
from normhpc.data import Batches, ImageSplit, order
from normhpc.errors import BusyError, DataError, InputError
from normhpc.record import read_status
from normhpc.record.journal import read_journal
from normhpc.results import load_runs
from normhpc.train import Interrupted, StopRequest, loop, run, step
from normhpc.train.evaluate import evaluate
from normhpc.train.setup import build_batches
from normhpc.train.world import World

ALONE = World(0, 1, torch.device("cpu"))
WILD = {"norm": "none", "optim": {"lr": 1e30}, "schedule": "constant"}
SUMMARY_KEYS = {
    *("run_id", "state", "final", "best", "epochs", "steps", "seconds", "seconds_per_epoch", "images_per_second"),
    *("share_seconds", "trained_together"),
    *("peak_memory_mb", "parameters", "norm_plan", "norm_sites", "norm_policies", "norms_kept"),
    *("ranks", "images_per_rank"),
    *("images_per_statistic", "device", "data_digest", "weights_sha256", "pixel_mean", "pixel_std", "classes"),
    *("metrics", "class_accuracy", "absent_classes", "confusion"),
}
MEASURES = ("loss", "top1", "top5", "f1_macro", "f1_micro")
OF_SEVERAL_LABELS = (
    *("loss", "map_macro", "map_micro", "f1_macro", "f1_micro", "cp", "cr", "cf1", "op", "or", "of1"),
    *("cp_3", "cr_3", "cf1_3", "op_3", "or_3", "of1_3"),
)


def literals(folder):
    """Every file of the record but checkpoints and logs, read as strict JSON."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    for file in (folder.run_json, folder.summary):
        json.loads(file.read_text(), parse_constant=refuse)
    for journal in (folder.metrics, folder.events):
        for line in journal.read_text().splitlines():
            json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("stored", [False, True])
def test_images_of_each_epoch(tmp_path, monkeypatch, stored):
    taken = []
    train = Batches.train

    def noted(self, rows, epoch, step, part):
        taken.append((epoch, step, rows.tolist()))
        return train(self, rows, epoch, step, part)

    monkeypatch.setattr(Batches, "train", noted)
    data = {**TINY["data"], "order": "stored" if stored else "shuffled"}
    run(new_run(tmp_path / "run", TINY, {"data": data, "epochs": 2, "seed": 3}).path)
    orders = [np.arange(36) if stored else order(36, 3, epoch) for epoch in range(2)]
    assert taken == [
        (epoch, step, orders[epoch][9 * step : 9 * step + 9].tolist()) for epoch in range(2) for step in range(4)
    ]


def test_record_of_a_finished_run(tmp_path):
    folder = new_run(tmp_path / "run", {"epochs": 3})
    summary = run(folder.path)
    assert {file.name for file in folder.path.iterdir()} == {
        *("run.json", "metrics.jsonl", "events.jsonl", "summary.json", "checkpoint.pt"),
    }
    assert events(folder) == ["started", "finished"]
    assert read_status(folder).state == "finished"

    written = json.loads(folder.summary.read_text())
    assert set(written) == SUMMARY_KEYS
    assert {key: written[key] for key in summary} == summary
    assert written["run_id"] == folder.read_run().run_id
    assert written["state"] == "finished"
    # 1,437 digits, a tenth held out: 5 whole batches of 256 in 1,294
    assert (written["epochs"], written["steps"]) == (3, 15)
    assert (written["ranks"], written["images_per_rank"], written["images_per_statistic"]) == (1, [256], [256])
    assert written["parameters"] == sum(p.numel() for p in models.build(folder.read_run().config).parameters())
    assert written["weights_sha256"] is None
    assert written["data_digest"] == image_data.load(folder.read_run().config.data).digest
    assert 0 < written["seconds_per_epoch"] < written["seconds"]
    assert (written["share_seconds"], written["trained_together"]) == (written["seconds"], 1)
    assert written["images_per_second"] > 100
    assert 50 < written["peak_memory_mb"] < 10_000

    content = folder.metrics.read_bytes()
    rows, torn = read_journal(folder.metrics)
    assert written["metrics"] == {
        "rows": len(rows),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert torn == 0
    assert [(row["epoch"], row["step"], row["split"]) for row in rows] == [
        (1, 5, "train"),
        (1, 5, "val"),
        (2, 10, "train"),
        (2, 10, "val"),
        (3, 15, "train"),
        (3, 15, "val"),
        (3, 15, "test"),
    ]
    for row in rows:
        measures = {"loss", "top1"} if row["split"] == "train" else set(MEASURES)
        speed = {"lr", "seconds", "images_per_second"} if row["split"] == "train" else set()
        assert set(row) == {"time", "attempt", "epoch", "step", "split"} | measures | speed
        assert row["attempt"] == 1
        assert 0 <= row["top1"] <= row.get("top5", 1) <= 1
    newest = {f"{row['split']}_{name}": row[name] for row in rows for name in MEASURES if name in row}
    ratio = newest["test_top1"] / newest["train_top1"]
    assert written["final"] == newest | {"generalization_ratio": ratio}
    best = max((row for row in rows if row["split"] == "val"), key=lambda row: row["top1"])
    assert written["best"] == {"epoch": best["epoch"], "val_top1": best["top1"], "val_loss": best["loss"]}
    literals(folder)


def test_what_the_started_event_says(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    run(folder.path)
    started = read_journal(folder.events).rows[0]
    assert started["event"] == "started"
    assert (started["epoch"], started["step"], started["ranks"], started["attempt"]) == (0, 0, 1, 1)
    assert (started["threads"], started["torch"]) == (1, torch.__version__)
    assert started["host"] == os.uname().nodename
    assert (started["images_per_rank"], started["images_per_statistic"]) == ([9], [9])


def test_train_metrics_are_those_of_the_steps(tmp_path):
    """With one step an epoch: the loss of the first is that of the new network on those images."""
    folder = new_run(tmp_path / "run", TINY, {"batch_size": 36, "norm": "layer", "epochs": 1})
    run(folder.path)
    config = folder.read_run().config
    data = image_data.load(config.data)
    torch.manual_seed(config.seed)
    expected = evaluate(
        models.build(config), build_batches(config, data, data.train, ALONE, train=False), config, ALONE
    )
    row = metrics(folder)[1, 1, "train"]
    assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert row["top1"] == expected["top1"]
    assert row["lr"] == 0.1


def test_test_metrics_are_those_of_the_last_weights(tmp_path):
    folder = new_run(tmp_path / "run")
    final = run(folder.path)["final"]
    config = folder.read_run().config
    model = models.build(config)
    model.load_state_dict(weights(folder))
    data = image_data.load(config.data)
    for split in ("test", "val"):
        batches = build_batches(config, data, getattr(data, split), ALONE, train=False)
        measured = evaluate(model, batches, config, ALONE)
        assert {name: final[f"{split}_{name}"] for name in measured} == measured


def test_results_by_class_are_those_of_the_last_weights(tmp_path):
    folder = new_run(tmp_path / "run")
    summary = run(folder.path)
    config = folder.read_run().config
    model = models.build(config)
    model.load_state_dict(weights(folder))
    data = image_data.load(config.data)
    batches = build_batches(config, data, data.test, ALONE, train=False)
    with torch.no_grad():
        predicted = model.eval()(batches.evaluate(0, 360)[0]).argmax(dim=1)
    assert summary["confusion"] == confusion_matrix(data.test.labels, predicted).tolist()
    recalls = recall_score(data.test.labels, predicted, average=None, zero_division=0)
    assert summary["class_accuracy"] == pytest.approx(recalls.tolist(), rel=1e-12)
    assert summary["absent_classes"] == 0


# ---- images with several labels -----------------------------------------------------------------------------------------


@pytest.fixture
def several_labels(monkeypatch):
    """A tiny run of images with several of four labels: two of them follow from the image, nobody has the last."""

    def loaded(config):
        data = load(config)
        splits = {name: relabelled(getattr(data, name)) for name in ("train", "val", "test")}
        return dataclasses.replace(data, **splits)

    def relabelled(split):
        bright = split.images.float().mean(dim=(1, 2)) > 127.5
        labels = torch.stack((bright[:, 0], bright[:, 1], bright[:, 0] | bright[:, 1], bright[:, 0] & False), dim=1)
        return ImageSplit(split.images, labels.to(torch.uint8))

    def loss_of(logits, labels, _):
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(dim=1).sum()

    load = image_data.load
    monkeypatch.setattr(image_data, "load", loaded)
    monkeypatch.setattr(step, "summed_loss", loss_of)
    data = {**TINY["data"], "num_classes": 4, "images": 200, "multi_label": True}
    return {**TINY, "data": data, "loss": "bce", "epochs": 6, "optim": {"lr": 1.0}, "schedule": "constant"}


def test_record_of_a_run_with_several_labels(tmp_path, several_labels):
    folder = new_run(tmp_path / "run", several_labels)
    summary = run(folder.path)
    rows = [row for row in read_journal(folder.metrics).rows if row["split"] != "train"]
    common = {"time", "attempt", "epoch", "step", "split"}
    assert [set(row) - common for row in rows] == [set(OF_SEVERAL_LABELS)] * 7
    trained = metrics(folder)[1, 20, "train"]
    assert set(trained) - common == {"loss", "lr"}
    newest = {f"{row['split']}_{name}": row[name] for row in rows for name in OF_SEVERAL_LABELS}
    newest["train_loss"] = metrics(folder)[6, 120, "train"]["loss"]
    assert summary["final"] == newest
    values = {row["epoch"]: row["map_macro"] for row in rows if row["split"] == "val"}
    best = max(values, key=values.get)
    val_loss = metrics(folder)[best, 20 * best, "val"]["loss"]
    assert summary["best"] == {"epoch": best, "val_map_macro": values[best], "val_loss": val_loss}
    assert len(set(values.values())) > 1

    assert summary["absent_classes"] == 1
    assert summary["class_ap"][3] is None
    assert math.fsum(summary["class_ap"][:3]) / 3 == summary["final"]["test_map_macro"]
    labels = image_data.load(folder.read_run().config.data).test.labels
    confusion = torch.tensor(summary["confusion"])
    assert confusion.shape == (4, 2, 2)
    assert confusion[:, 1].sum(dim=1).tolist() == labels.sum(dim=0).tolist()
    assert confusion.sum(dim=(1, 2)).tolist() == [12] * 4
    assert set(summary) | {"metrics"} == SUMMARY_KEYS - {"class_accuracy"} | {"class_ap"}
    literals(folder)


def test_several_labels_are_learned_and_resumed_to_the_bit(tmp_path, several_labels):
    whole, parts = new_run(tmp_path / "whole", several_labels), new_run(tmp_path / "parts", several_labels)
    final = run(whole.path)["final"]
    assert final["test_map_macro"] > 0.7
    train_in_pieces(parts, [7, 60])
    assert outcome(parts) == outcome(whole)


def test_the_table_of_runs_with_several_labels(tmp_path, several_labels):
    folder = new_run(tmp_path / "sweep" / "run", several_labels)
    final = run(folder.path)["final"]
    row = load_runs(tmp_path).iloc[0]
    assert row["test_map_macro"] == final["test_map_macro"]
    assert row["best_val_map_macro"] == max(
        line["map_macro"] for place, line in metrics(folder).items() if place[2] == "val"
    )
    assert not [name for name in row.index if "top1" in name]


def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path):
    first, second = new_run(tmp_path / "first"), new_run(tmp_path / "second")
    run(first.path)
    torch.rand(5)  # the state of the process does not matter
    run(second.path)
    assert outcome(first) == outcome(second)
    other = new_run(tmp_path / "other", {"seed": 1})
    run(other.path)
    assert outcome(other)["model"] != outcome(first)["model"]


def test_learns(tmp_path):
    folder = new_run(tmp_path / "run", {"epochs": 8, "batch_size": 64, "augment": "none"})
    assert run(folder.path)["final"]["test_top1"] > 0.8


def test_a_sealed_run_is_left_alone(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    summary = run(folder.path)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.path.iterdir()}
    again = run(folder.path, StopAfter(1))
    assert {key: again[key] for key in summary} == summary
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.path.iterdir()} == before


def test_a_run_sealed_while_this_one_waited_for_it_is_left_alone(tmp_path, monkeypatch):
    """Two trainers start together and the other one seals just before this one gets the lock."""
    folder = new_run(tmp_path / "run", TINY)
    summary = run(folder.path)
    read, asked = loop.read_summary, []

    def first_not_there(given):
        asked.append(given)
        return None if len(asked) == 1 else read(given)

    monkeypatch.setattr(loop, "read_summary", first_not_there)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.path.iterdir()}
    again = run(folder.path)
    assert {key: again[key] for key in summary} == summary
    assert len(asked) == 2
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.path.iterdir()} == before


def test_two_trainers_of_one_run(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    with pytest.raises(Interrupted):
        run(folder.path, StopAfter(3))
    before = {file: file.read_bytes() for file in folder.path.iterdir()}
    with (
        folder.held_for_training(),
        pytest.raises(BusyError, match=f"^{folder.path}: this run is being trained by another process$"),
    ):
        run(folder.path)
    assert {file: file.read_bytes() for file in folder.path.iterdir()} == before
    assert run(folder.path)["state"] == "finished"


# ---- divergence -----------------------------------------------------------------------------------------------------


def test_a_diverged_run_is_a_result(tmp_path):
    folder = new_run(tmp_path / "run", WILD)
    summary = run(folder.path)
    # the first step is taken with sound weights; the second sees what the update left
    assert (summary["state"], summary["diverged_at_step"]) == ("diverged", 1)
    assert summary["epochs"] == 0
    assert summary["steps"] <= 5
    assert summary["final"] == {}
    assert read_status(folder).state == "diverged"
    assert events(folder) == ["started", "warning", "diverged"]
    assert read_journal(folder.events).rows[1]["step"] == 1
    literals(folder)
    before = folder.summary.read_bytes()
    assert run(folder.path)["diverged_at_step"] == 1
    assert folder.summary.read_bytes() == before


def test_the_step_of_divergence_counts_from_the_start(tmp_path):
    """Sound for one epoch of 5 steps, then 1e30 times the learning rate: step 5 spoils the weights, step 6 sees it."""
    wild = {"norm": "none", "optim": {"lr": 1e-3}}
    schedule = {"name": "multistep", "milestones": [1], "factor": 1e34}
    folder = new_run(tmp_path / "run", wild, {"schedule": schedule, "epochs": 3})
    summary = run(folder.path)
    assert (summary["state"], summary["diverged_at_step"], summary["epochs"]) == ("diverged", 6, 1)
    assert set(metrics(folder)) == {(1, 5, "train"), (1, 5, "val")}
    assert summary["best"]["epoch"] == 1


def test_divergence_is_remembered_over_an_interruption(tmp_path):
    folder = new_run(tmp_path / "run", WILD)
    with pytest.raises(Interrupted):
        run(folder.path, StopAfter(2))
    assert run(folder.path)["diverged_at_step"] == 1


def test_divergence_with_the_very_last_update(tmp_path):
    """Every loss was a number, but the network that remains has none: not a finished run with a test of nothing."""
    folder = new_run(tmp_path / "run", TINY, {**WILD, "optim": {"lr": 1e38}, "batch_size": 36, "epochs": 1})
    summary = run(folder.path)
    assert metrics(folder)[1, 1, "train"]["loss"] < 10
    assert (summary["state"], summary["diverged_at_step"], summary["epochs"]) == ("diverged", 1, 1)
    assert json.loads(folder.summary.read_text())["best"]["val_loss"] is None
    assert "val loss not finite" in warnings_told(folder)
    assert metrics(folder)[1, 1, "val"]["loss"] is None
    assert metrics(folder)[1, 1, "val"]["top1"] == 0.0
    literals(folder)


# ---- learning rates ---------------------------------------------------------------------------------------------------


def test_a_plateau_follows_the_recorded_val_loss(tmp_path):
    schedule = {"name": "plateau", "factor": 0.3, "patience": 1, "threshold": 0.05}
    folder = new_run(tmp_path / "run", TINY, {"epochs": 12, "schedule": schedule, "optim": {"lr": 0.5}})
    run(folder.path)
    rows = metrics(folder)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=1, threshold=0.05, eps=0)
    expected = []
    for epoch in range(1, 13):
        expected.append(optimizer.param_groups[0]["lr"])
        plateau.step(rows[epoch, 4 * epoch, "val"]["loss"])
    assert [rows[epoch, 4 * epoch, "train"]["lr"] for epoch in range(1, 13)] == pytest.approx(expected, rel=1e-12)
    assert 3 <= len(set(expected)) <= 6


def test_the_recorded_rate_is_that_of_no_layer_in_particular(tmp_path):
    """Half of 0.2 for half of the batch it is meant for, without the factor of the layers."""
    optim = {"lr": 0.2, "lr_batch_size": 18, "lr_factors": [{"parameters": "*", "factor": 7.0}]}
    folder = new_run(tmp_path / "run", TINY, {"optim": optim, "schedule": "constant", "norm": "layer"})
    run(folder.path)
    assert [row["lr"] for place, row in metrics(folder).items() if place[2] == "train"] == [0.1, 0.1]


# ---- what else a run is told ------------------------------------------------------------------------------------------


def test_without_validation(tmp_path):
    folder = new_run(tmp_path / "run", {"data": {"name": "digits", "val_fraction": 0.0}})
    summary = run(folder.path)
    assert {split for _, _, split in metrics(folder)} == {"train", "test"}
    assert summary["best"] == {}
    assert {name.partition("_")[0] for name in summary["final"]} == {"train", "test", "generalization"}
    assert summary["steps"] == 2 * (1437 // 256)


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    changes = {"epochs": 6, "optim": {"lr": 0.5}, "schedule": "constant"}
    folder = new_run(tmp_path / "run", changes, {"checkpoint": {"keep_best": True}})
    summary = run(folder.path)
    best = summary["best"]
    losses = [row["top1"] for place, row in metrics(folder).items() if place[2] == "val"]
    assert best["epoch"] == 1 + losses.index(max(losses))
    # the same run, stopped at the end of that epoch
    twin = new_run(tmp_path / "twin", changes)
    if best["epoch"] < 6:
        with pytest.raises(Interrupted):
            run(twin.path, StopAfter(best["epoch"] * 5))
    else:
        run(twin.path)
    kept = torch.load(folder.best, weights_only=True)
    assert kept.keys() == weights(twin).keys()
    assert all(torch.equal(kept[name], value) for name, value in weights(twin).items())


def test_an_epoch_without_a_measure_is_never_the_best_for_long(tmp_path, monkeypatch):
    values = iter([math.nan, 0.5, math.nan, 0.7, 0.6, 0.7])
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"loss": 1.0, "top1": next(values), "top5": 1.0})
    folder = new_run(tmp_path / "run", {"epochs": 6})
    assert run(folder.path)["best"] == {"epoch": 4, "val_top1": 0.7, "val_loss": 1.0}


def test_no_best_weights_unless_asked(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    run(folder.path)
    assert not folder.best.exists()


def test_checkpoints_come_when_asked(tmp_path, monkeypatch):
    saved = []
    save = loop.save

    def noted(training):
        position = training.state.position
        saved.append((position.epoch, position.step))
        return save(training)

    monkeypatch.setattr(loop, "save", noted)
    never = {"every_epochs": None, "every_minutes": None}
    cases = [
        (never, [(4, 0)]),
        (never | {"every_epochs": 3}, [(3, 0), (4, 0)]),
        (never | {"every_steps": 3}, [(0, 3), (1, 2), (2, 1), (3, 0), (3, 3), (4, 0)]),
        (never | {"every_minutes": 1e-9}, [(e, s) for e in range(5) for s in range(4)][1:17]),
        (never | {"every_minutes": 60.0}, [(4, 0)]),
    ]
    for number, (asked, expected) in enumerate(cases):
        saved.clear()
        run(new_run(tmp_path / str(number), TINY, {"epochs": 4, "checkpoint": asked}).path)
        assert saved == expected, asked


def test_a_stop_during_the_last_step_lets_the_run_finish(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    assert run(folder.path, StopAfter(8))["state"] == "finished"
    assert events(folder) == ["started", "finished"]


def test_a_stop_says_where(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    request = StopRequest()
    request.reason = "SIGTERM"
    with pytest.raises(Interrupted, match=r"^stopped at epoch 0, step 1 \(SIGTERM\); the run is saved$"):
        run(folder.path, request)
    told = read_journal(folder.events).rows[-1]
    assert (told["event"], told["reason"], told["epoch"], told["step"]) == ("preempted", "SIGTERM", 0, 1)
    assert read_status(folder).state == "lost"


def test_resumed_speed_counts_all_attempts(tmp_path):
    folder = new_run(tmp_path / "run", TINY, {"epochs": 1})
    for _ in range(3):
        with pytest.raises(Interrupted):
            run(folder.path, StopAfter(1))
    summary = run(folder.path)  # one step is all that is left
    assert summary["images_per_second"] > 0
    assert 0 < summary["seconds_per_epoch"] < summary["seconds"]
    first = read_journal(folder.events).rows
    assert [row["attempt"] for row in first if row["event"] in ("started", "resumed")] == [1, 2, 3, 4]


# ---- bad input --------------------------------------------------------------------------------------------------------


def failure(folder):
    rows = read_journal(folder.events).rows
    assert [row["event"] for row in rows] == ["failed"]
    assert read_status(folder).state == "failed"
    assert rows[0]["traceback"].startswith("Traceback (most recent call last):")
    assert rows[0]["rank"] == 0
    return rows[0]["class"], rows[0]["message"]


def test_a_batch_larger_than_the_images(tmp_path):
    folder = new_run(tmp_path / "run", {"batch_size": 1295})
    with pytest.raises(InputError) as caught:
        run(folder.path)
    message = f"{folder.run_json}: batch_size: expected at most the 1294 training images of digits, got 1295; use a smaller batch"
    assert str(caught.value) == message
    assert failure(folder) == ("InputError", message)


def test_a_batch_as_large_as_the_images(tmp_path):
    folder = new_run(tmp_path / "run", {"batch_size": 1294, "epochs": 1})
    assert run(folder.path)["steps"] == 1


def test_a_pattern_that_fits_no_parameter(tmp_path):
    wanted = [{"parameters": "*.bias", "factor": 2.0}, {"parameters": "hed.weight", "factor": 0.1}]
    folder = new_run(tmp_path / "run", {"optim": {"lr_factors": wanted}})
    message = (
        "optim.lr_factors[1].parameters: expected a pattern that fits a parameter of the network, got 'hed.weight'; "
        "near it: head.weight, layers.1.slot.weight, layers.1.conv.weight"
    )
    with pytest.raises(InputError) as caught:
        run(folder.path)
    assert str(caught.value) == message
    assert failure(folder) == ("InputError", message)
    assert folder.metrics.read_bytes() == b""


def test_a_plateau_without_val_images(tmp_path):
    """The share held out of 5 images is none."""
    data = {**TINY["data"], "images": 5, "val_fraction": 0.1}
    folder = new_run(tmp_path / "run", TINY, {"data": data, "batch_size": 5, "schedule": "plateau"})
    message = (
        f"{folder.run_json}: schedule: plateau follows the val loss, but no image of synthetic is held out; "
        "raise data.val_fraction or use another schedule"
    )
    with pytest.raises(InputError) as caught:
        run(folder.path)
    assert str(caught.value) == message
    assert failure(folder) == ("InputError", message)


def test_missing_data(tmp_path):
    folder = new_run(tmp_path / "run", {"data": {"name": "cifar10", "path": str(tmp_path / "nowhere")}})
    with pytest.raises(DataError) as caught:
        run(folder.path)
    assert failure(folder) == ("DataError", str(caught.value))
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert not folder.checkpoint.exists()
    assert folder.metrics.read_bytes() == b""


def test_a_rank_that_does_not_meet_its_peers_says_so(tmp_path, monkeypatch):
    folder = new_run(tmp_path / "run", TINY)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "NORMHPC_RENDEZVOUS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError):
        run(folder.path)
    (lost,) = read_journal(folder.events).rows
    assert lost["rank"] == 1
    assert lost["message"].startswith(f"rank 1 on {lost['host']} did not meet its peers: ")
    assert read_status(folder).state == "lost"


def test_not_a_run(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: not a run: there is no run.json in it"):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_network(tmp_path, monkeypatch):
    folder = new_run(tmp_path / "run", TINY)

    def broken(*_, **__):
        raise RuntimeError("the kernel said no")

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(RuntimeError, match="the kernel said no"):
        run(folder.path)
    assert events(folder) == ["started", "failed"]
    row = read_journal(folder.events).rows[-1]
    assert (row["class"], row["message"]) == ("RuntimeError", "the kernel said no")
    assert "in broken" in row["traceback"]
    monkeypatch.undo()
    # the fault is mended: the same command goes on
    assert run(folder.path)["state"] == "finished"


# ---- layouts and compilers --------------------------------------------------------------------------------------------


def close(first, second, tolerance):
    rows, others = metrics(first), metrics(second)
    assert rows.keys() == others.keys()
    for place, row in rows.items():
        assert math.isclose(row["loss"], others[place]["loss"], rel_tol=tolerance), place


@pytest.mark.parametrize("norm", ["batch", {"name": "group", "groups": 2}])
def test_channels_last_changes_rounding_only(tmp_path, norm):
    model = {"name": "resnet8", "width": 4}
    plain = new_run(tmp_path / "plain", TINY, {"model": model, "norm": norm, "optim": {"lr": 0.01}})
    other = new_run(
        tmp_path / "other", TINY, {"model": {**model, "channels_last": False}, "norm": norm, "optim": {"lr": 0.01}}
    )
    for folder in (plain, other):
        run(folder.path)
    close(plain, other, 1e-4)
    assert plain.read_run().run_id != other.read_run().run_id
