"""How busy a local launch keeps its slots: the share of the wall time in which each slot has a run on it.

    python benchmarks/local_slots.py [--runs 40] [--seconds 10] [--slots 2]

The runs are real trainings on digits, their epochs chosen so that one takes about as long as asked, start included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

NORMHPC = str(Path(sys.executable).with_name("normhpc"))

SWEEP = """
name: busy
description: runs of a known length
base: {{data: digits, epochs: {epochs}, batch_size: 64}}
seeds: {runs}
"""


def launch(folder: Path, runs: int, epochs: int, slots: int) -> tuple[float, list[float]]:
    """Wall time of the launch and of each run, from its submission to its last event."""
    sweep = folder / "busy.yaml"
    sweep.write_text(SWEEP.format(epochs=epochs, runs=runs))
    began = time.perf_counter()
    subprocess.run(
        [NORMHPC, "sweep", str(sweep), "--local", "--slots", str(slots), "--runs", str(folder)],
        check=True,
        capture_output=True,
    )
    wall = time.perf_counter() - began
    lengths = []
    for events in folder.glob("busy/*/events.jsonl"):
        times = [datetime.fromisoformat(json.loads(line)["time"]) for line in events.read_text().splitlines()]
        lengths.append((times[-1] - times[0]).total_seconds())
    return wall, lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        trial = Path(place) / "trial"
        trial.mkdir()
        _, (start,) = launch(trial, 1, 20, 1)
        (summary,) = (json.loads(path.read_text()) for path in trial.glob("busy/*/summary.json"))
        # of the trial's length, what is not training is the start, which every run pays as well
        training = summary["seconds"]
        epochs = max(1, round((arguments.seconds - (start - training)) / (training / 20)))
        full = Path(place) / "full"
        full.mkdir()
        wall, lengths = launch(full, arguments.runs, epochs, arguments.slots)
    print(
        json.dumps(
            {
                "runs": len(lengths),
                "slots": arguments.slots,
                "epochs": epochs,
                "mean_run_s": round(sum(lengths) / len(lengths), 2),
                "wall_s": round(wall, 1),
                "busy": round(sum(lengths) / (wall * arguments.slots), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
