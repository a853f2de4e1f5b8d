"""An interrupted run that goes on ends with the same weights and metrics as the uninterrupted one, to the last bit."""

import os
import random
import signal
import time

import pytest
import torch
from support.trainings import (
    SMALL,
    TINY,
    StopAfter,
    events,
    exit_codes,
    metrics,
    new_run,
    outcome,
    start_ranks,
    train_in_pieces,
    train_on_ranks,
)
from torch import nn

from normhpc import models
from normhpc.launch.worker import INTERRUPTED
from normhpc.record.journal import read_journal
from normhpc.train import Interrupted, run

AUGMENTED = {"augment": {"name": "standard", "crop_padding": 2}}
CASES = {
    "sgd_batch": AUGMENTED,
    "adamw_group": {
        **AUGMENTED,
        "norm": {"name": "group", "groups": 2},
        "optim": {"name": "adamw"},
        "schedule": {"name": "cosine", "warmup_epochs": 0.7},
    },
    "nesterov_accumulate": {
        **AUGMENTED,
        "optim": {"lr": 0.1, "nesterov": True, "accumulate": 2},
        "schedule": {"name": "multistep", "milestones": [1]},
        "loss": {"label_smoothing": 0.1},
    },
    "stored_mixed_bce": {
        "data": {**TINY["data"], "order": "stored", "normalize": "half"},
        "augment": {
            "name": "standard",
            "crop_padding": 1,
            "rotation_degrees": 15,
            "perspective_probability": 0.5,
            "mixup_alpha": 0.2,
            "cutmix_alpha": 1.0,
            "mix_probability": 0.8,
        },
        "loss": {"name": "bce", "label_smoothing": 0.1},
    },
    "adam_layer_bf16": {"optim": {"name": "adam"}, "precision": "bf16", "norm": "layer"},
    "sgd_batch_fp16": {"precision": "fp16"},
    "muon_average": {
        **AUGMENTED,
        "optim": {
            "name": "muon",
            "ema_decay": 0.7,
            "weight_decay": 0.01,
            "lr_factors": [{"parameters": "head.*", "factor": 0.5}],
        },
        "schedule": {"name": "two_level", "drop_at": 0.4, "warmup_epochs": 0.5},
    },
    "clipped_plateau": {
        "optim": {"lr": 0.5, "l1": 1e-3, "clip_norm": 1.0, "clip_adaptive": 0.05, "lr_batch_size": 18},
        "schedule": {"name": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.3},
    },
    "adamw_fp16_clipped_average": {
        "optim": {"name": "adamw", "ema_decay": 0.9, "clip_norm": 0.1, "l1": 1e-4},
        "precision": "fp16",
    },
    "muon_fp16_average": {"optim": {"name": "muon", "ema_decay": 0.9}, "precision": "fp16"},
    "resnet_nchw": {"model": {"name": "resnet8", "width": 4, "channels_last": False}, **AUGMENTED},
    "muon_nchw": {
        "model": {"name": "resnet8", "width": 4, "channels_last": False},
        "optim": {"name": "muon", "ema_decay": 0.9},
    },
}


def pieces(seed, total):
    """Cut ``total`` steps after 2 to 4 random ones: the steps of each attempt but the last."""
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(1, total), chance.randint(2, 4)))
    return [after - before for before, after in zip([0, *cuts], cuts, strict=False)]


@pytest.mark.parametrize("name", CASES)
def test_stopped_at_random_steps(tmp_path, name):
    changes = {**CASES[name], "epochs": 3, "seed": 5}
    whole = new_run(tmp_path / "whole", TINY, changes)
    expected = run(whole.path)
    steps = expected["steps"]
    assert steps == 12
    for seed in range(3):
        parts = pieces(f"{name}{seed}", steps)
        cut = new_run(tmp_path / f"cut{seed}", TINY, changes)
        summary = train_in_pieces(cut, parts)
        assert outcome(cut) == outcome(whole), parts
        for key in ("state", "final", "best", "epochs", "steps", "parameters", "norm_plan", "data_digest"):
            assert summary[key] == expected[key], key
        starts = [event for event in events(cut) if event in ("started", "resumed")]
        assert starts == ["started"] + ["resumed"] * len(parts)


def test_stopped_after_every_single_step(tmp_path):
    whole, cut = new_run(tmp_path / "whole", TINY, AUGMENTED), new_run(tmp_path / "cut", TINY, AUGMENTED)
    run(whole.path)
    train_in_pieces(cut, [1] * 7)
    assert outcome(cut) == outcome(whole)
    assert events(cut).count("preempted") == 7


class WithDropout(nn.Module):
    """The network behind a layer that draws random numbers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.network(self.drop(x))
        return y


def test_randomness_inside_the_network(tmp_path, monkeypatch):
    plain = new_run(tmp_path / "plain", TINY)
    run(plain.path)
    build = models.build
    monkeypatch.setattr(models, "build", lambda config: WithDropout(build(config)))
    whole, cut = new_run(tmp_path / "whole", TINY), new_run(tmp_path / "cut", TINY)
    run(whole.path)
    train_in_pieces(cut, [2, 3])
    assert outcome(cut) == outcome(whole)
    assert outcome(whole)["metrics"] != outcome(plain)["metrics"]


def test_three_ranks_stopped_again_and_again(tmp_path):
    """More than two addends make the order of a sum matter, and DDP would choose it anew in each process."""
    changes = {"epochs": 80, "batch_size": 12, "checkpoint": {"every_epochs": 10_000}}
    whole, cut = new_run(tmp_path / "whole", TINY, changes), new_run(tmp_path / "cut", TINY, changes)
    train_on_ranks(whole, 3)
    for rank, size in enumerate((1_000, 5_000, 15_000)):
        ranks = start_ranks(cut, 3)
        while all(process.is_alive() for process in ranks) and not (
            cut.metrics.exists() and cut.metrics.stat().st_size > size
        ):
            time.sleep(0.01)
        os.kill(ranks[rank].pid, signal.SIGUSR2)
        assert exit_codes(ranks) == [INTERRUPTED] * 3
    train_on_ranks(cut, 3)
    assert [event for event in events(cut) if event in ("started", "resumed")] == ["started"] + ["resumed"] * 3
    assert outcome(cut) == outcome(whole)


def test_checkpoints_more_often_change_nothing(tmp_path):
    rare = new_run(tmp_path / "rare", {"checkpoint": {"every_epochs": None, "every_minutes": None}})
    often = new_run(tmp_path / "often", {"checkpoint": {"every_steps": 1, "every_minutes": 1e-9}})
    assert run(rare.path)["run_id"] == run(often.path)["run_id"]
    assert outcome(rare) == outcome(often)


def test_torn_journals_are_healed(tmp_path):
    whole, cut = new_run(tmp_path / "whole", TINY), new_run(tmp_path / "cut", TINY)
    run(whole.path)
    with pytest.raises(Interrupted):
        run(cut.path, StopAfter(5))
    for journal in (cut.metrics, cut.events):
        with journal.open("ab") as file:
            file.write(b'{"time":"2026-01-01T00:00:00.000Z","attempt":1,"epo')
    summary = run(cut.path)
    assert outcome(cut) == outcome(whole)
    for journal in (cut.metrics, cut.events):
        rows, torn = read_journal(journal)
        assert torn == 1
        assert {row["attempt"] for row in rows} == {1, 2}
    assert summary["final"] == read_summary_final(whole)


def read_summary_final(folder):
    return run(folder.path)["final"]


def test_killed_between_metrics_and_checkpoint(tmp_path):
    """The lines of the epoch are written twice then, with the same numbers; the last of each holds."""
    whole = new_run(tmp_path / "whole", TINY, {"checkpoint": {"every_epochs": None}})
    cut = new_run(tmp_path / "cut", TINY, {"checkpoint": {"every_epochs": None}})
    run(whole.path)
    with pytest.raises(Interrupted):
        run(cut.path, StopAfter(3))
    saved = cut.checkpoint.read_bytes()
    with pytest.raises(Interrupted):
        run(cut.path, StopAfter(4))
    assert (1, 4, "train") in metrics(cut)
    cut.checkpoint.write_bytes(saved)
    run(cut.path)
    assert outcome(cut) == outcome(whole)
    rows = read_journal(cut.metrics).rows
    twice = [row for row in rows if (row["epoch"], row["split"]) == (1, "train")]
    assert [row["attempt"] for row in twice] == [2, 3]
    assert twice[0]["loss"] == twice[1]["loss"]


def test_real_images_and_momentum(tmp_path):
    changes = {**SMALL, **AUGMENTED, "norm": "batch", "epochs": 3}
    whole, cut = new_run(tmp_path / "whole", changes), new_run(tmp_path / "cut", changes)
    run(whole.path)
    train_in_pieces(cut, [3, 6])
    assert outcome(cut) == outcome(whole)
