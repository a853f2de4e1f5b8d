"""Seconds to collect many records, cold and from the cache, beside the limit and peers: ``python benchmarks/collect.py``.

``--runs 10000`` records of ``--epochs 200`` lines (a line of train, one of val, in turn; ~440 MB) are made in a temporary
folder. The limit is to read the bytes of every ``metrics.jsonl`` and count the lines, in one process; a cold collect takes
all processors. The peer is ``pandas.read_json`` file by file, on a sample, scaled up; polars where it is installed. Files
are in the page cache. Each measurement is the median of five processes of their own, and the imports are not in its
seconds; the whole command is timed as well.
"""

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from normhpc.config import SCHEMA_VERSION, RunConfig

_SAMPLE = 100
_ROUNDS = 5
_NORMS = ("batch", "layer", "instance", "group", "frn", "evonorm_s0", "rms", "none")


def main() -> None:
    """Make the records and print a line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--measure", choices=sorted(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(MEASURES[given.measure](given.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), given.runs, given.epochs)


def compare(folder: Path, runs: int, epochs: int) -> None:
    """Every measurement in turn; ratios to the limit and to pandas."""
    size = write_records(folder, runs, epochs)
    os.sync()  # or the system writes them to disk while they are read
    print(f"{runs} sealed runs, {runs * epochs} lines, {size / 1e6:.0f} MB of metrics.jsonl")
    limit = shown(folder, "read the bytes")["seconds"]
    pandas = shown(folder, "pandas.read_json per file", factor=runs / min(runs, _SAMPLE))["seconds"]
    shown(folder, "polars.read_ndjson per file", factor=runs / min(runs, _SAMPLE))
    cold = shown(folder, "lines, cold")["seconds"]
    print(f"{'':34}= {cold / limit:.1f} x the limit, pandas takes {pandas / cold:.0f} x as long")
    shown(folder, "lines, unchanged")
    grown = itertools.count(epochs + 1)
    shown(folder, "lines, 100 runs changed", before=lambda: grow(folder, 100, next(grown)))
    for name in ("load_metrics, cold", "load_metrics, unchanged", "load_runs, cold", "load_runs, unchanged"):
        shown(folder, name)
    shown(folder, "load_runs, 100 runs changed", before=lambda: grow(folder, 100, next(grown)))
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "normhpc", "collect", str(folder)], check=True, capture_output=True)
    print(f"{'the command, unchanged':34}{time.perf_counter() - started:7.3f} s")


def shown(
    folder: Path, name: str, *, factor: float = 1.0, before: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Measure a few times, each in a process of its own after ``before``, and print the median and the extremes."""
    command = [sys.executable, __file__, "--folder", str(folder), "--measure", name]
    rounds = []
    for _ in range(_ROUNDS):
        before()
        rounds.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    if not rounds[0]:
        return {}
    seconds = sorted(found["seconds"] * factor for found in rounds)
    found = {"seconds": statistics.median(seconds), "peak_mb": max(found["peak_mb"] for found in rounds)}
    extremes = f"({seconds[0]:.3f} to {seconds[-1]:.3f})"
    print(f"{name:34}{found['seconds']:7.3f} s {extremes:20}{found['peak_mb']:6.0f} MB", flush=True)
    return found


def write_records(folder: Path, runs: int, epochs: int) -> int:
    """``runs`` records of one sweep; not through the writers, which sync every line to disk. Bytes of their metrics."""
    source = random.Random(0)
    total = 0
    for index in range(runs):
        norm = _NORMS[index % len(_NORMS)]
        config = RunConfig.model_validate({"norm": norm, "seed": index // len(_NORMS)})
        run = folder / "bench" / config.run_id
        run.mkdir(parents=True)
        asked = {"run_id": config.run_id, "schema_version": SCHEMA_VERSION, "sweep": "bench", "swept": {"norm": norm}}
        created = f"2026-01-01T00:00:00.{index:06d}Z"
        code = {"version": "0.1.0", "commit": "0" * 40, "dirty": False}
        content = asked | {"config": config.to_json(), "resources": {}, "created": created, "code": code}
        (run / "run.json").write_text(json.dumps(content, indent=2))
        lines = "".join(line(source, number // 2 + 1, ("train", "val")[number % 2]) for number in range(epochs))
        (run / "metrics.jsonl").write_text(lines)
        seal(run, source, len(lines), epochs)
        total += len(lines)
    return total


def line(source: random.Random, epoch: int, split: str) -> str:
    """A line as training writes it."""
    values = {name: source.random() for name in ("loss", "top1")}
    more = ("lr", "seconds", "images_per_second") if split == "train" else ("top5", "f1_macro", "f1_micro")
    values |= {name: source.random() * 10 for name in more}
    place = {"time": "2026-01-01T00:00:00.000Z", "attempt": 1, "epoch": epoch, "step": 391 * epoch, "split": split}
    return json.dumps(place | values, separators=(",", ":")) + "\n"


def seal(run: Path, source: random.Random, size: int, rows: int) -> None:
    """The run's ``summary.json``, replaced in one step."""
    qualities = [f"{split}_{name}" for split in ("train", "val", "test") for name in ("loss", "top1", "top5")]
    summary = {
        "state": "finished",
        "final": {name: source.random() for name in qualities},
        "best": {"epoch": 7, "val_top1": source.random(), "val_loss": 0.4},
        "seconds": 60.0,
        "seconds_per_epoch": 6.0,
        "images_per_second": 8000.0,
        "peak_memory_mb": 900.0,
        "parameters": 272474,
        "images_per_statistic": [128],
        "data_digest": "0" * 64,
        "norm_plan": "0" * 16,
        "class_accuracy": [source.random() for _ in range(10)],
        "metrics": {"rows": rows, "bytes": size, "sha256": "0" * 64},
    }
    temporary = run / ".summary"
    temporary.write_text(json.dumps(summary, indent=2))
    temporary.replace(run / "summary.json")


def grow(folder: Path, count: int, epoch: int) -> None:
    """One more line, of ``epoch``, in ``count`` runs, which are then sealed again."""
    source = random.Random(1)
    for run in sorted((folder / "bench").iterdir())[:count]:
        with (run / "metrics.jsonl").open("a") as file:
            file.write(line(source, epoch, "train"))
        seal(run, source, (run / "metrics.jsonl").stat().st_size, epoch)


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of one call, and the peak memory of this process in MB."""
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def read_bytes(folder: Path) -> dict[str, float]:
    """The limit."""

    def read() -> int:
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/*/metrics.jsonl"))

    return timed(read)


def pandas_by_file(folder: Path) -> dict[str, float]:
    """The peer, on a sample."""
    import pandas as pd

    paths = sorted(folder.glob("*/*/metrics.jsonl"))[:_SAMPLE]
    return timed(lambda: pd.concat([pd.read_json(path, lines=True) for path in paths]))


def polars_by_file(folder: Path) -> dict[str, float]:
    """Another one, on a sample, where it is installed."""
    try:
        import polars as pl
    except ImportError:
        return {}
    paths = sorted(folder.glob("*/*/metrics.jsonl"))[:_SAMPLE]
    return timed(lambda: pl.concat([pl.read_ndjson(path) for path in paths], how="diagonal_relaxed"))


def lines(folder: Path, *, rebuild: bool = False) -> dict[str, float]:
    """What the cache does for every ``metrics.jsonl``: find it, ask whether it changed, read it if so, all its lines."""
    from normhpc.results.find import name_below, runs_by_directory
    from normhpc.results.store.folder import CacheFolder, remove_cache
    from normhpc.results.store.garbage import without_garbage_collection
    from normhpc.results.store.marks import mark_of
    from normhpc.results.store.metrics import MetricCache, Wanted

    def read() -> None:
        ((directory, paths),) = runs_by_directory([folder]).items()
        with without_garbage_collection():
            files = [(name_below(directory, path), f"{path}/metrics.jsonl") for path in paths]
            wanted = [Wanted(name, path, mark_of(path)) for name, path in files]
            MetricCache(CacheFolder(directory)).measured(wanted, directory)

    if rebuild:
        remove_cache(str(folder))
    return timed(read)


def table(folder: Path, name: str, *, rebuild: bool = False) -> dict[str, float]:
    """A function of the library."""
    from normhpc import results

    load = getattr(results, name)
    return timed(lambda: load(folder, rebuild=rebuild))


MEASURES: dict[str, Callable[[Path], dict[str, float]]] = {
    "read the bytes": read_bytes,
    "pandas.read_json per file": pandas_by_file,
    "polars.read_ndjson per file": polars_by_file,
    "lines, cold": lambda folder: lines(folder, rebuild=True),
    "lines, unchanged": lines,
    "lines, 100 runs changed": lines,
    "load_metrics, cold": lambda folder: table(folder, "load_metrics", rebuild=True),
    "load_metrics, unchanged": lambda folder: table(folder, "load_metrics"),
    "load_runs, cold": lambda folder: table(folder, "load_runs", rebuild=True),
    "load_runs, unchanged": lambda folder: table(folder, "load_runs"),
    "load_runs, 100 runs changed": lambda folder: table(folder, "load_runs"),
}


if __name__ == "__main__":
    main()
