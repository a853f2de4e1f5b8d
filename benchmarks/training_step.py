"""Steps per second of a normhpc run against a bare PyTorch loop of the same network, batch and images.

    python benchmarks/training_step.py [--pairs 5] [--case resnet20|convnet]

Each pair trains both, one after the other, in fresh processes with one thread; the ratio is taken pair by pair, so
that a machine that drifts slows both. Both skip their first epoch. The bare loop keeps its images as a normalized
float tensor and gathers batches by index: the fastest simple loop there is for images in memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = {
    "resnet20": {
        "data": {"name": "synthetic", "images": 1280, "test_images": 16, "val_fraction": 0.0},
        "model": "resnet20",
        "batch_size": 128,
        "epochs": 4,
    },
    "convnet": {"data": "digits", "model": "convnet", "batch_size": 64, "epochs": 40},
}


def normhpc_rate(config: dict[str, object]) -> float:
    """Images per second that a run reports, evaluation left out."""
    from normhpc.config import Resources, RunConfig
    from normhpc.record import RunFolder
    from normhpc.train import run

    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        never = {"checkpoint": {"every_epochs": None, "every_minutes": None}}
        run_config = RunConfig.model_validate(config | never)
        folder.create(run_config, sweep="benchmark", swept={}, resources=Resources(), code={})
        return float(run(folder.path)["images_per_second"])


def bare_rate(config: dict[str, object]) -> float:
    """Images per second of the loop one would write by hand."""
    import torch
    import torch.nn.functional as F

    from normhpc import data, models
    from normhpc.config import RunConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    run_config = RunConfig.model_validate(config)
    images = data.load(run_config.data)
    mean = torch.tensor(images.mean).view(1, -1, 1, 1)
    std = torch.tensor(images.std).view(1, -1, 1, 1)
    pixels = images.train.images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    x = (pixels.float() / 255 - mean) / std
    y = images.train.labels
    model = models.build(run_config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run_config.epochs * (len(x) // 128))
    batch_size, seen, seconds = run_config.batch_size, 0, 0.0
    for epoch in range(run_config.epochs):
        began = time.perf_counter()
        order = torch.randperm(len(x))
        total = 0.0
        for step in range(len(x) // batch_size):
            rows = order[step * batch_size : (step + 1) * batch_size]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
        if epoch:
            seen += (len(x) // batch_size) * batch_size
            seconds += time.perf_counter() - began
    return seen / seconds


def measured(kind: str, case: str) -> float:
    """One rate, from a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", kind, "--case", case], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--one", choices=["normhpc", "bare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        rate = normhpc_rate if arguments.one == "normhpc" else bare_rate
        print(rate(CASES[arguments.case]))
        return
    for case in [arguments.case] if arguments.case else CASES:
        pairs = [(measured("normhpc", case), measured("bare", case)) for _ in range(arguments.pairs)]
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        print(
            json.dumps(
                {
                    "case": case,
                    "pairs": len(pairs),
                    "normhpc_images_per_second": statistics.median(ours for ours, _ in pairs),
                    "bare_images_per_second": statistics.median(theirs for _, theirs in pairs),
                    "ratio_median": statistics.median(ratios),
                    "ratio_min": ratios[0],
                    "ratio_max": ratios[-1],
                }
            )
        )


if __name__ == "__main__":
    main()
