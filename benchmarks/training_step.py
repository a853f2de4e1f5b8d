"""Steps per second of a normhpc run against a bare PyTorch loop of the same network, batch and images.

    python benchmarks/training_step.py [--pairs 20] [--case resnet20|convnet]

Both train in one process with one thread and take turns, an epoch each: the ratio is taken pair by pair, so that a
machine that drifts slows both. The first epoch of each is left out. The bare loop keeps its images as a normalized
float tensor and gathers batches by index: the fastest simple loop there is for images in memory.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

from normhpc import data, models
from normhpc.config import Resources, RunConfig
from normhpc.record import RecordWriter, RunFolder
from normhpc.train.loop import train_epoch
from normhpc.train.startup import prepare_torch
from normhpc.train.state import EpochSums
from normhpc.train.stop import StopRequest
from normhpc.train.training import prepare
from normhpc.train.world import joined_world

CASES = {
    "resnet20": {
        "data": {"name": "synthetic", "images": 1280, "test_images": 16, "val_fraction": 0.0},
        "model": "resnet20",
        "batch_size": 128,
    },
    "convnet": {"data": "digits", "model": "convnet", "batch_size": 64},
}


@contextmanager
def normhpc_epochs(config: RunConfig) -> Iterator[Callable[[], int]]:
    """A function that trains one epoch as ``normhpc train`` does and returns its images."""
    never = config.checkpoint.model_copy(update={"every_epochs": None, "every_minutes": None})
    with tempfile.TemporaryDirectory() as place, joined_world() as world:
        folder = RunFolder(Path(place) / "run")
        endless = config.model_copy(update={"checkpoint": never})
        folder.create(endless, sweep="benchmark", swept={}, resources=Resources(), code={})
        writer = RecordWriter(folder)
        training = prepare(folder, folder.read_run(), world, StopRequest(), writer)

        def epoch() -> int:
            train_epoch(training)
            position = training.state.position
            images = position.step * config.batch_size
            position.epoch, position.step, training.state.sums = position.epoch + 1, 0, EpochSums()
            return images

        yield epoch
        writer.close()


def bare_epochs(config: RunConfig) -> Callable[[], int]:
    """A function that trains one epoch with the loop one would write by hand and returns its images."""
    images = data.load(config.data)
    mean = torch.tensor(images.mean).view(1, -1, 1, 1)
    std = torch.tensor(images.std).view(1, -1, 1, 1)
    pixels = images.train.images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    x = (pixels.float() / 255 - mean) / std
    y = images.train.labels
    model = models.build(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = len(x) // config.batch_size
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps)

    def epoch() -> int:
        order = torch.randperm(len(x))
        total = 0.0
        for step in range(steps):
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
        return steps * config.batch_size

    return epoch


def rate(epoch: Callable[[], int], *, deterministic: bool) -> float:
    """Images per second of one epoch."""
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    began = time.perf_counter()
    images = epoch()
    return images / (time.perf_counter() - began)


def measure(case: str, pairs: int) -> dict[str, object]:
    """Both loops, taking turns; which one goes first changes from pair to pair."""
    config = RunConfig.model_validate(CASES[case] | {"epochs": pairs + 1})
    prepare_torch(config, Resources())
    ours: list[float] = []
    bare: list[float] = []
    with normhpc_epochs(config) as normhpc_epoch:
        turns = [(ours, normhpc_epoch, config.model.deterministic), (bare, bare_epochs(config), False)]
        for _ in range(pairs + 1):
            for rates, epoch, deterministic in turns:
                rates.append(rate(epoch, deterministic=deterministic))
            turns.reverse()
    ratios = sorted(mine / theirs for mine, theirs in zip(ours[1:], bare[1:], strict=True))
    return {
        "case": case,
        "pairs": pairs,
        "normhpc_images_per_second": round(statistics.median(ours[1:]), 1),
        "bare_images_per_second": round(statistics.median(bare[1:]), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(part, 4) for part in statistics.quantiles(ratios, n=4)[::2]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--case", choices=CASES)
    arguments = parser.parse_args()
    for case in [arguments.case] if arguments.case else CASES:
        print(json.dumps(measure(case, arguments.pairs)))


if __name__ == "__main__":
    main()
