"""Images per second of runs trained together in one process against the same runs one after another in one process.

    python benchmarks/fused.py [--runs 4] [--pairs 7] [--case CASE]

Both take turns, an epoch of all runs each, on the device that a run would take: the ratio is taken pair by pair. The
first epochs are left out. Operations are those of one step of all runs that torch hands to the device, views left out:
where a GPU waits for launches they are what counts, also on a machine without one.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from normhpc.config import Resources, RunConfig
from normhpc.record import RecordWriter, RunFolder
from normhpc.train.fused import gradients_together, refusal
from normhpc.train.loop import epoch_steps, step_alone, train_epoch
from normhpc.train.stack import Stack
from normhpc.train.startup import prepare_torch
from normhpc.train.state import EpochSums
from normhpc.train.step import end_update
from normhpc.train.stop import StopRequest
from normhpc.train.training import Training, prepare
from normhpc.train.world import joined_world

IMAGES = {"name": "synthetic", "images": 256, "test_images": 16, "val_fraction": 0.0}
NEVER = {"every_epochs": None, "every_minutes": None}
CASES = {
    "convnet": {"data": "digits", "model": "convnet", "batch_size": 64},
    "convnet_batch_16": {"data": "digits", "model": {"name": "convnet", "widths": [4, 8]}, "batch_size": 16},
    "resnet20": {"data": IMAGES, "model": "resnet20", "batch_size": 128},
    "resnet20_batch_16": {"data": IMAGES, "model": "resnet20", "batch_size": 16},
}
OF_NO_KERNEL = {
    *(
        "view",
        "_unsafe_view",
        "t",
        "transpose",
        "permute",
        "expand",
        "select",
        "slice",
        "split",
        "unbind",
        "as_strided",
    ),
    *(
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty_strided",
        "lift_fresh",
    ),
    *("_record_function_enter_new", "_record_function_exit"),
}


@contextmanager
def trainings(case: str, count: int, epochs: int) -> Iterator[list[Training]]:
    """Runs of the case with seeds 0 to ``count`` - 1, ready to start."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as opened, joined_world() as world:
        made: list[Training] = []
        for seed in range(count):
            config = RunConfig.model_validate(CASES[case] | {"epochs": epochs, "seed": seed, "checkpoint": NEVER})
            prepare_torch(config, Resources())
            folder = RunFolder(Path(place) / str(seed))
            folder.create(config, sweep="benchmark", swept={}, resources=Resources(), code={})
            writer = RecordWriter(folder)
            opened.callback(writer.close)
            made.append(prepare(folder, folder.read_run(), world, StopRequest(), writer))
        yield made


def epoch_alone(runs: list[Training]) -> None:
    """An epoch of one run after another."""
    for training in runs:
        train_epoch(training)


def step_together(stack: Stack, runs: list[Training], rows: Sequence[NDArray[np.int64]]) -> None:
    """One step of all at once."""
    gradients_together(stack, runs, rows)
    for training in runs:
        end_update(training.state)


def epoch_together(runs: list[Training], stack: Stack) -> None:
    """An epoch of all at once."""
    for rows in zip(*map(epoch_steps, runs), strict=True):
        step_together(stack, runs, rows)


class Operations(TorchDispatchMode):
    """Counts what torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation.overloadpacket.__name__ not in OF_NO_KERNEL
        return operation(*args, **(kwargs or {}))


def operations(case: str, count: int) -> tuple[int, int]:
    """Those of one step of all runs, one after another and together; their first steps make more."""
    with trainings(case, count, 1) as runs:
        rows = [training.rows(0)[: training.config.batch_size] for training in runs]
        for _ in range(2):
            with Operations() as alone:
                for training, batch in zip(runs, rows, strict=True):
                    step_alone(training, batch)
        stack = Stack([training.state.model for training in runs])
        for _ in range(2):
            with Operations() as together:
                step_together(stack, runs, rows)
    return alone.count, together.count


def rate(runs: list[Training], epoch: Callable[[], None]) -> float:
    """Images of all runs per second of one epoch."""
    began = time.perf_counter()
    epoch()
    seconds = time.perf_counter() - began
    images = sum(training.state.position.step * training.config.batch_size for training in runs)
    for training in runs:
        position = training.state.position
        position.epoch, position.step, training.state.sums = position.epoch + 1, 0, EpochSums()
    return images / seconds


def measure(case: str, count: int, pairs: int) -> dict[str, object]:
    """Both ways, taking turns; which one goes first changes from pair to pair."""
    alone: list[float] = []
    together: list[float] = []
    with trainings(case, count, pairs + 1) as lone, trainings(case, count, pairs + 1) as company:
        why_not = refusal(company)
        stack = Stack([training.state.model for training in company])
        turns = [
            (alone, lone, lambda: epoch_alone(lone)),
            (together, company, lambda: epoch_together(company, stack)),
        ]
        for _ in range(pairs + 1):
            for rates, runs, epoch in turns:
                rates.append(rate(runs, epoch))
            turns.reverse()
        device = lone[0].world.device
    operations_alone, operations_together = operations(case, count)
    ratios = [ours / theirs for ours, theirs in zip(together[1:], alone[1:], strict=True)]
    return {
        "case": case,
        "runs": count,
        "pairs": pairs,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "refused": why_not,
        "alone_images_per_second": round(statistics.median(alone[1:]), 1),
        "together_images_per_second": round(statistics.median(together[1:]), 1),
        "operations_alone": operations_alone,
        "operations_together": operations_together,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(part, 3) for part in statistics.quantiles(ratios, n=4)[::2]],
    }


def main() -> None:
    """Print a JSON line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--case", choices=CASES)
    arguments = parser.parse_args()
    for case in [arguments.case] if arguments.case else CASES:
        print(json.dumps(measure(case, arguments.runs, arguments.pairs)), flush=True)


if __name__ == "__main__":
    main()
