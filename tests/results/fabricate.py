"""Records made through the writers the training uses."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.config import Resources, RunConfig
from normhpc.record import RecordWriter, RunFolder, append_event

CODE = {"version": "0.1.0", "commit": "abc123", "dirty": False}


def new_run(
    runs: Path,
    config: Mapping[str, Any],
    *,
    sweep: str = "demo",
    swept: Mapping[str, Any] | None = None,
    code: Mapping[str, Any] = CODE,
) -> RunFolder:
    """A run that nobody has started. ``config`` is nested; ``swept`` is told as the sweep would tell it."""
    run = RunConfig.model_validate(config)
    folder = RunFolder(runs / sweep / run.run_id)
    folder.create(run, sweep=sweep, swept=swept or {}, resources=Resources(), code=code)
    # two runs made in the same millisecond have no order of creation
    time.sleep(0.001)
    return folder


def sealed_run(
    runs: Path,
    config: Mapping[str, Any],
    top1: float = 0.9,
    *,
    sweep: str = "demo",
    swept: Mapping[str, Any] | None = None,
    code: Mapping[str, Any] = CODE,
    **changes: Any,
) -> RunFolder:
    """A run of two epochs that finished with ``top1`` on test; ``changes`` go over its summary."""
    folder = new_run(runs, config, sweep=sweep, swept=swept, code=code)
    writer = RecordWriter(folder)
    writer.event("started", host="here")
    write_epochs(writer, 2)
    writer.metrics(epoch=2, step=10, split="test", values={"loss": 1 - top1, "top1": top1, "top5": 1.0})
    writer.seal(summary_with(top1) | changes)
    writer.close()
    return folder


def write_epochs(writer: RecordWriter, epochs: int, first: int = 1) -> None:
    """Train and val lines of the epochs ``first`` to ``epochs``, five steps each."""
    for epoch in range(first, epochs + 1):
        step = 5 * epoch
        trained = {"loss": 1 / epoch, "top1": 0.5, "lr": 0.1, "seconds": 2.0, "images_per_second": 700.0}
        writer.metrics(epoch=epoch, step=step, split="train", values=trained)
        writer.metrics(epoch=epoch, step=step, split="val", values={"loss": 2 / epoch, "top1": 0.4, "top5": 0.8})


def summary_with(top1: float) -> dict[str, Any]:
    """``summary.json`` without its seal."""
    return {
        "state": "finished",
        "final": {
            "train_loss": 0.5,
            "train_top1": 0.5,
            "val_loss": 1.0,
            "val_top1": 0.4,
            "val_top5": 0.8,
            "test_loss": 1 - top1,
            "test_top1": top1,
            "test_top5": 1.0,
        },
        "best": {"epoch": 1, "val_top1": 0.45, "val_loss": 0.9},
        "epochs": 2,
        "steps": 10,
        "seconds": 5.0,
        "seconds_per_epoch": 2.0,
        "images_per_second": 700.0,
        "peak_memory_mb": 100.0,
        "parameters": 1234,
        "norm_plan": "00ff",
        "ranks": 1,
        "images_per_rank": [128],
        "images_per_statistic": [128],
        "trained_together": 1,
        "device": "cpu",
        "data_digest": "d1",
    }


def started_run(runs: Path, config: Mapping[str, Any], *, host: str = "elsewhere", **asked: Any) -> RunFolder:
    """A run in its second epoch: on another host it is running, on this one it is lost."""
    folder = new_run(runs, config, **asked)
    writer = RecordWriter(folder)
    writer.event("started", host=host)
    write_epochs(writer, 1)
    writer.close()
    return folder


def failed_run(runs: Path, config: Mapping[str, Any], **asked: Any) -> RunFolder:
    """A run that broke off in its second epoch."""
    folder = started_run(runs, config, **asked)
    append_event(
        folder, "failed", **{"class": "OutOfMemory", "message": "2 GiB more than there are", "traceback": "..."}
    )
    return folder


def diverged_run(runs: Path, config: Mapping[str, Any], **asked: Any) -> RunFolder:
    """A run whose loss stopped being a number; it was fast."""
    changes = {"state": "diverged", "final": {"train_loss": None}, "best": {}, "diverged_at_step": 3}
    return sealed_run(runs, config, images_per_second=9000.0, **asked, **changes)


def norm_config(norm: str, seed: int, **fields: Any) -> dict[str, Any]:
    """A configuration that names its norm and seed."""
    return {"norm": norm, "seed": seed, **fields}


def small_study(runs: Path) -> None:
    """Two norms, three seeds: batch is complete, of layer one failed and one diverged."""
    for seed, top1 in enumerate((0.90, 0.92, 0.97)):
        sealed_run(runs, norm_config("batch", seed), top1, swept={"norm": "batch", "seed": seed})
    layer = {"norm": "layer"}
    sealed_run(runs, norm_config("layer", 0), 0.8, swept=layer, images_per_statistic=None)
    failed_run(runs, norm_config("layer", 1), swept=layer)
    diverged_run(runs, norm_config("layer", 2), swept=layer, images_per_statistic=None)


def keep_predictions(
    folder: RunFolder, logits: ArrayLike, labels: ArrayLike, rows: ArrayLike | None = None, *, weights: str = "best.pt"
) -> None:
    """What ``normhpc analyze --what predictions`` leaves behind."""
    place = folder.path / "posthoc"
    place.mkdir(exist_ok=True)
    there = np.arange(len(np.asarray(labels))) if rows is None else np.asarray(rows)
    document = {"what": "predictions", "values": {}, "method": "logits", "weights": {"file": weights}}
    np.savez(place / "predictions.npz", logits=np.asarray(logits, np.float32), labels=np.asarray(labels), rows=there)
    (place / "predictions.json").write_text(json.dumps(document))


def keep_pictures(folder: RunFolder, rows: ArrayLike, images: NDArray[np.uint8]) -> None:
    """What ``normhpc analyze --what misclassified`` keeps of images."""
    (folder.path / "posthoc").mkdir(exist_ok=True)
    np.savez(folder.path / "posthoc" / "misclassified.npz", rows=np.asarray(rows), images=images)
