"""Ranks in processes of their own: the same numbers as one process, and stops that lose nothing.

The ranks are started as the local launcher starts them: RANK, WORLD_SIZE, LOCAL_RANK and NORMHPC_RENDEZVOUS.
"""

import os
import signal
import time

import pytest
import torch
from support.trainings import (
    events,
    exit_codes,
    metrics,
    new_run,
    outcome,
    start_ranks,
    train_on_ranks,
    wait_for_progress,
    warnings_told,
)

from normhpc.launch.worker import INTERRUPTED
from normhpc.record import read_summary
from normhpc.record.journal import read_journal
from normhpc.train import run

UNEVEN = {
    "model": {"name": "resnet8", "width": 8},
    "act": "silu",
    "batch_size": 65,
    "epochs": 3,
    "optim": {"lr": 0.1},
    "augment": {"name": "standard", "crop_padding": 1, "rotation_degrees": 10, "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
}
"""65 images a step: 32 and 33 on two ranks.

A network without kinks. With relu or max pooling a value within rounding of the kink may fall on either side of it,
which happens in about every second training of this length and changes the loss by 1e-5 to 1e-2 at once; rounding the
start of a single process differently does the same.
"""
SYNC = {"name": "batch", "sync": True}
PLAIN = {"name": "batch"}

LONG = {"batch_size": 65, "epochs": 10, "checkpoint": {"every_steps": 5}, "augment": "standard"}
"""190 steps with plain batch norm, whose running statistics differ between ranks: a few seconds."""


@pytest.mark.parametrize(
    ("norm", "images"),
    [({"name": "group", "groups": 4}, None), (SYNC, [65])],
    ids=["group", "sync"],
)
def test_two_ranks_learn_what_one_does(tmp_path, norm, images):
    one, two = new_run(tmp_path / "one", UNEVEN, {"norm": norm}), new_run(tmp_path / "two", UNEVEN, {"norm": norm})
    alone = run(one.path)
    train_on_ranks(two, 2)
    together = read_summary(two)
    assert (together["ranks"], together["images_per_rank"], together["images_per_statistic"]) == (2, [32, 33], images)
    assert alone["images_per_rank"] == [65]
    started = read_journal(two.events).rows[0]
    assert (started["images_per_rank"], started["images_per_statistic"]) == ([32, 33], images)
    rows, others = metrics(one), metrics(two)
    assert set(rows) == set(others) == {(e, 19 * e, s) for e in (1, 2, 3) for s in ("train", "val")} | {(3, 57, "test")}
    for place, row in rows.items():
        assert abs(row["loss"] - others[place]["loss"]) < 1e-5, place
        if place[2] != "train":
            assert (row["top1"], row["top5"]) == (others[place]["top1"], others[place]["top5"]), place
    assert rows[3, 57, "train"]["loss"] < rows[1, 19, "train"]["loss"] - 0.05
    assert events(two) == ["started", "finished"]


def test_without_synchronization_ranks_learn_something_else(tmp_path):
    """What the test above must be able to see."""
    sync, plain = new_run(tmp_path / "sync", UNEVEN, {"norm": SYNC}), new_run(tmp_path / "plain", UNEVEN)
    run(sync.path)
    train_on_ranks(plain, 2)
    assert abs(metrics(sync)[3, 57, "train"]["loss"] - metrics(plain)[3, 57, "train"]["loss"]) > 1e-3
    assert read_summary(plain)["images_per_statistic"] == [33, 32]


def test_accumulation_on_ranks(tmp_path):
    changes = {"norm": {"name": "group", "groups": 4}, "optim": {"lr": 0.1, "accumulate": 3}}
    one, two = new_run(tmp_path / "one", UNEVEN, changes), new_run(tmp_path / "two", UNEVEN, changes)
    run(one.path)
    train_on_ranks(two, 2)
    for place, row in metrics(one).items():
        assert abs(row["loss"] - metrics(two)[place]["loss"]) < 1e-5, place


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The two ranks that nobody stops, with plain batch norm."""
    folder = new_run(tmp_path_factory.mktemp("undisturbed") / "run", LONG, {"norm": PLAIN})
    train_on_ranks(folder, 2)
    return outcome(folder)


@pytest.mark.parametrize("stopped", [[0, 1], [1], [0]], ids=["both", "the_second", "the_first"])
def test_stopped_by_sigterm_and_resumed(tmp_path, undisturbed, stopped):
    folder = new_run(tmp_path / "run", LONG, {"norm": PLAIN})
    ranks = start_ranks(folder, 2)
    wait_for_progress(folder, ranks[0])
    time.sleep(0.1)
    for rank in stopped:
        os.kill(ranks[rank].pid, signal.SIGTERM)
    assert exit_codes(ranks) == [INTERRUPTED, INTERRUPTED], folder.log.read_text()
    assert events(folder) == ["started", "preempted"]
    told = read_journal(folder.events).rows[-1]
    assert told["reason"] == ("SIGTERM" if 0 in stopped else "another rank was asked to stop")
    saved = torch.load(folder.checkpoint, weights_only=True)["content"]
    position = saved["shared"]["position"]
    assert (position["epoch"], position["step"]) == (told["epoch"], told["step"])
    # ranks disagree on their running statistics, and each gets its own back
    own, other = (part["statistics"]["layers.0.slot.running_mean"] for part in saved["by_rank"])
    assert not torch.equal(own, other)
    train_on_ranks(folder, 2)
    assert outcome(folder) == undisturbed


def test_a_recipe_stopped_and_resumed(tmp_path):
    """Momentum in bf16 products, an average, a schedule with a memory: each rank takes them from the one checkpoint."""
    recipe = {
        "optim": {"name": "muon", "ema_decay": 0.9, "clip_norm": 0.5, "l1": 1e-5},
        "schedule": {"name": "plateau", "patience": 0, "threshold": 0.2, "factor": 0.5},
        "epochs": 6,
    }
    whole, cut = new_run(tmp_path / "whole", LONG, recipe), new_run(tmp_path / "cut", LONG, recipe)
    train_on_ranks(whole, 2)
    ranks = start_ranks(cut, 2)
    wait_for_progress(cut, ranks[0])
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert exit_codes(ranks) == [INTERRUPTED, INTERRUPTED], cut.log.read_text()
    train_on_ranks(cut, 2)
    assert outcome(cut) == outcome(whole)
    assert len({row["lr"] for place, row in metrics(whole).items() if place[2] == "train"}) > 1


def test_a_killed_rank_takes_the_other_down_within_a_minute(tmp_path, undisturbed):
    for victim in (1, 0):
        folder = new_run(tmp_path / f"run{victim}", LONG, {"norm": PLAIN})
        ranks = start_ranks(folder, 2)
        wait_for_progress(folder, ranks[0])
        os.kill(ranks[victim].pid, signal.SIGKILL)
        began = time.monotonic()
        codes = exit_codes(ranks)
        assert time.monotonic() - began < 30
        assert codes[victim] == -signal.SIGKILL
        assert codes[1 - victim] == 1
        assert events(folder) == ["started", "warning"]
        assert warnings_told(folder) == [f"rank {1 - victim} lost contact with another rank"]
        train_on_ranks(folder, 2)
        assert outcome(folder) == undisturbed


def test_goes_on_with_another_number_of_ranks(tmp_path):
    """Not bit for bit any more, but the same training: stopped on two ranks, finished on one."""
    changes = {"norm": SYNC, **UNEVEN, "epochs": 6, "checkpoint": {"every_steps": 5}}
    whole, cut = new_run(tmp_path / "whole", changes), new_run(tmp_path / "cut", changes)
    run(whole.path)
    ranks = start_ranks(cut, 2)
    wait_for_progress(cut, ranks[0])
    os.kill(ranks[0].pid, signal.SIGTERM)
    assert exit_codes(ranks) == [INTERRUPTED, INTERRUPTED]
    summary = run(cut.path)
    assert summary["images_per_rank"] == [65]
    for place, row in metrics(whole).items():
        assert abs(row["loss"] - metrics(cut)[place]["loss"]) < 1e-4, place


def test_best_weights_have_the_statistics_they_were_measured_with(tmp_path):
    folder = new_run(tmp_path / "run", UNEVEN, {"norm": PLAIN, "epochs": 1, "checkpoint": {"keep_best": True}})
    train_on_ranks(folder, 2)
    best = torch.load(folder.best, weights_only=True)
    content = torch.load(folder.checkpoint, weights_only=True)["content"]
    means = torch.stack([part["statistics"]["stem.slot.running_mean"] for part in content["by_rank"]])
    pooled = torch.tensor([32.0, 33.0]) @ means / 65
    torch.testing.assert_close(best["stem.slot.running_mean"], pooled, rtol=1e-6, atol=1e-7)


def test_a_batch_too_small_for_the_ranks(tmp_path):
    folder = new_run(tmp_path / "run", {"batch_size": 5, "optim": {"accumulate": 3}})
    assert exit_codes(start_ranks(folder, 2)) == [2, 2]
    message = (
        f"{folder.run_json}: batch_size: expected at least 6 images, one for each of 3 micro-batches on 2 ranks, got 5"
    )
    rows = read_journal(folder.events).rows
    assert [(row["event"], row["class"], row["message"]) for row in rows] == [("failed", "InputError", message)] * 2
    assert {row["rank"] for row in rows} == {0, 1}


def test_a_diverged_run_on_two_ranks(tmp_path):
    wild = {"norm": "none", "optim": {"lr": 1e30}, "schedule": "constant"}
    folder = new_run(tmp_path / "run", wild, {"batch_size": 65})
    train_on_ranks(folder, 2)
    summary = read_summary(folder)
    assert (summary["state"], summary["diverged_at_step"]) == ("diverged", 1)
    assert events(folder) == ["started", "warning", "diverged"]


def test_a_run_that_is_held_is_left_alone_by_all_ranks(tmp_path):
    folder = new_run(tmp_path / "run")
    with folder.held_for_training():
        before = {file: file.read_bytes() for file in folder.path.iterdir()}
        codes = exit_codes(start_ranks(folder, 2), seconds=30)
        assert codes[0] == 1
        assert codes[1] not in (0, None)
        assert "this run is being trained by another process" in folder.log.read_text()
        assert {file: file.read_bytes() for file in before} == before
