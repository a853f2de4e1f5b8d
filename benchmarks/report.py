"""Seconds and bytes of the report of a large study: ``python benchmarks/report.py``.

1,000 records (20 norms, 2 data sets by 5 learning rates, 5 seeds) of 100 epochs are made in a temporary folder, each
with lines of train and val, every thirtieth diverged. Timed are ``normhpc report`` and ``--verify``, each as a
command of its own with its imports. The bounds are 20 s and 5 MB; the peer is the same picture by hand: matplotlib's SVG of
the learning curves alone, where it is installed.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from normhpc.config import SCHEMA_VERSION, RunConfig

_NORMS = (
    *("none", "batch", "layer", "instance", "group", "rms", "frn", "evonorm_b0", "evonorm_s0", "dyt"),
    *("layer_pixel", "variance", "mean_centering", "batch_renorm", "ghost_batch", "switchable", "derf", "lean"),
    *("evonorm_s1", "evonorm_b1", "evonorm_b2", "local_response", "pointwise"),
)
_BOUND_SECONDS, _BOUND_MB = 20.0, 5.0


def main() -> None:
    """Make the records and print a line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="make the records there and leave them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = given.keep or Path(folder)
        count = write_records(place, given.epochs, given.seeds)
        page = place.parent / f"{place.name}.html"
        seconds = timed("report", str(place), "--out", str(page))
        size = page.stat().st_size / 1e6
        print(f"{count} runs of {given.epochs} epochs: {seconds:.1f} s, {size:.2f} MB")
        print(f"--verify: {timed('report', str(place), '--out', str(page), '--verify'):.1f} s")
        print(f"peer, curves alone by matplotlib: {matplotlib_megabytes(given.epochs)}")
        if not given.keep:
            page.unlink()
        if seconds > _BOUND_SECONDS or size > _BOUND_MB:
            sys.exit(f"more than {_BOUND_SECONDS:g} s or {_BOUND_MB:g} MB")


def timed(*arguments: str) -> float:
    """Seconds of a command."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "normhpc", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def write_records(folder: Path, epochs: int, seeds: int) -> int:
    """Records of one sweep, not through the writers, which sync every line to disk. Returns how many."""
    source = random.Random(0)
    count = 0
    for data in ("cifar10", "cifar100"):
        for rate in (0.003, 0.01, 0.03, 0.1, 0.3):
            for number, norm in enumerate(_known_norms()):
                for seed in range(seeds):
                    swept = {"data": data, "optim.lr": rate, "norm": norm}
                    config = RunConfig.model_validate({"data": data, "optim": {"lr": rate}, "norm": norm, "seed": seed})
                    level = 0.6 + 0.012 * number - 0.1 * (data == "cifar100") + source.gauss(0, 0.004)
                    write_run(folder / "bench", config, swept, level, epochs, count, source)
                    count += 1
    return count


def _known_norms() -> list[str]:
    from normhpc.sweep.catalogue import list_parts

    there = {entry["name"] for entry in list_parts("norms")}
    return [norm for norm in _NORMS if norm in there][:20]


def write_run(
    folder: Path,
    config: RunConfig,
    swept: dict[str, object],
    level: float,
    epochs: int,
    number: int,
    source: random.Random,
) -> None:
    """One sealed record."""
    run = folder / config.run_id
    run.mkdir(parents=True)
    diverged = number % 30 == 29
    asked = {"run_id": config.run_id, "schema_version": SCHEMA_VERSION, "sweep": "bench", "swept": swept}
    created = f"2026-01-01T00:00:00.{number:06d}Z"
    code = {"version": "0.1.0", "commit": "0" * 40, "dirty": False}
    content = asked | {"config": config.to_json(), "resources": {}, "created": created, "code": code}
    (run / "run.json").write_text(json.dumps(content))
    lines = []
    for epoch in range(1, epochs // (2 if diverged else 1) + 1):
        top1 = level * (1 - 0.8 * 0.95**epoch) + source.gauss(0, 0.003)
        place = {"time": created, "attempt": 1, "epoch": epoch, "step": 391 * epoch}
        train = {"split": "train", "loss": 2 - 2 * top1, "top1": top1, "lr": 0.1, "seconds": 9 + source.random()}
        lines += [place | train, place | {"split": "val", "loss": 2.1 - 2 * top1, "top1": top1 - 0.02, "top5": 0.9}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
    started = {"time": created, "attempt": 1, "event": "started", "host": f"node{number % 8}", "torch": "2.15.0"}
    (run / "events.jsonl").write_text(json.dumps(started | {"device": "NVIDIA H100", "ranks": 1}) + "\n")
    final = {"train_loss": 0.4, "train_top1": level + 0.05, "val_top1": level, "test_loss": 0.5, "test_top1": level}
    summary = {
        "state": "diverged" if diverged else "finished",
        "final": {"train_loss": None} if diverged else final,
        "best": {},
        "seconds": 900 + source.random() * 90,
        "seconds_per_epoch": 9 + source.random(),
        "images_per_second": 5000 + 100 * source.random(),
        "peak_memory_mb": 900 + 10 * source.random(),
        "parameters": 272474,
        "ranks": 1,
        "device": "NVIDIA H100",
        "images_per_statistic": [128],
        "data_digest": f"digest of {config.data.name}",
        "diverged_at_step": 391 * epochs // 2 if diverged else None,
        "metrics": {"rows": len(lines), "bytes": len(text), "sha256": "0" * 64},
    }
    (run / "summary.json").write_text(json.dumps(summary))


def matplotlib_megabytes(epochs: int) -> str:
    """What 40 drawings of 20 lines with bands weigh as matplotlib writes them, from one such drawing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not installed"
    source = random.Random(0)
    figure = Figure()
    axes = figure.add_subplot()
    xs = list(range(1, epochs + 1))
    for _ in range(20):
        ys = [1 - 0.9**x + source.gauss(0, 0.003) for x in xs]
        axes.plot(xs, ys)
        axes.fill_between(xs, [y - 0.01 for y in ys], [y + 0.01 for y in ys], alpha=0.2)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    return f"{40 * len(drawn.getvalue()) / 1e6:.2f} MB"


if __name__ == "__main__":
    main()
