"""Seconds to read the status and the table of many sealed runs: ``python benchmarks/status.py [RUNS]``."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from normhpc.config import SCHEMA_VERSION, RunConfig
from normhpc.results.status import sweep_statuses

_SUMMARY = {
    "state": "finished",
    "final": {f"{split}_{name}": 0.9 for split in ("train", "val", "test") for name in ("loss", "top1", "top5")},
    "best": {"epoch": 7, "val_top1": 0.9, "val_loss": 0.4},
    "seconds": 60.0,
    "seconds_per_epoch": 6.0,
    "images_per_second": 8000.0,
    "peak_memory_mb": 900.0,
    "parameters": 272474,
    "images_per_statistic": [128],
    "data_digest": "0" * 64,
    "norm_plan": "0" * 64,
}


def main() -> None:
    """Write the records, read them, print a line a reader."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        write_records(runs, count)
        print(f"{count} sealed runs, files in the page cache")
        timed("status", lambda: sweep_statuses([runs]))
        started = time.perf_counter()
        from normhpc.results import collect, load_runs

        load_runs(next((runs / "bench").iterdir()))
        print(f"{'imports of collect':<20}{time.perf_counter() - started:6.2f} s")
        timed("load_runs", lambda: load_runs(runs))
        timed("collect", lambda: collect([runs]))


def write_records(runs: Path, count: int) -> None:
    """``count`` runs of one sweep over 20 learning rates; not through the writers, which sync every file to disk."""
    line = json.dumps({"time": "t", "attempt": 1, "epoch": 1, "step": 1, "split": "val", "loss": 0.5}) + "\n"
    for index in range(count):
        rate = (index % 20 + 1) / 100
        config = RunConfig.model_validate({"optim": {"lr": rate}, "seed": index // 20})
        run = runs / "bench" / config.run_id
        run.mkdir(parents=True)
        asked = {
            "run_id": config.run_id,
            "schema_version": SCHEMA_VERSION,
            "sweep": "bench",
            "swept": {"optim.lr": rate},
        }
        created = f"2026-01-01T00:00:00.{index:06d}Z"
        code = {"version": "0.1.0", "commit": "0" * 40, "dirty": False}
        content = asked | {"config": config.to_json(), "resources": {}, "created": created, "code": code}
        (run / "run.json").write_text(json.dumps(content, indent=2))
        (run / "metrics.jsonl").write_text(line * 20)
        (run / "events.jsonl").write_text(json.dumps({"time": "t", "event": "started", "host": "h"}) + "\n")
        sealed = {"rows": 20, "bytes": 20 * len(line), "sha256": "0" * 64}
        (run / "summary.json").write_text(json.dumps(_SUMMARY | {"metrics": sealed}, indent=2))


def timed(name: str, call: Callable[[], object]) -> None:
    """Print the best of three."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    print(f"{name:<20}{min(seconds):6.2f} s")


if __name__ == "__main__":
    main()
