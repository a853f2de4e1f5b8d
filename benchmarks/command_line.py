"""How long the commands of a login node take, as whole processes, beside a bare Python and the import of torch.

python benchmarks/command_line.py [--repeats 7]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """
name: ten_thousand
description: as many runs as a large study has
base: {data: digits, model: {name: convnet, widths: [32, 64]}}
matrix:
  norm: [none, batch, layer, instance, {name: group, groups: 8}]
  act: [relu, silu]
  optim.lr: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
  optim.weight_decay: [0.0, 1e-5, 1e-4, 5e-4, 1e-3]
  batch_size: [16, 32, 64, 128]
seeds: 5
"""


def seconds(command: list[str], repeats: int) -> dict[str, float]:
    """Median and smallest wall time of ``command``, its output thrown away."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - began)
    return {"median_s": round(statistics.median(times), 3), "min_s": round(min(times), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    normhpc = [str(Path(sys.executable).with_name("normhpc"))]
    with tempfile.TemporaryDirectory() as place:
        sweep = Path(place) / "ten_thousand.yaml"
        sweep.write_text(SWEEP)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "normhpc --help": [*normhpc, "--help"],
            "sweep --dry-run of 10,000 runs": [*normhpc, "sweep", str(sweep), "--dry-run", "--runs", place],
            "expand of 10,000 runs": [*normhpc, "expand", str(sweep)],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        }
        for name, command in commands.items():
            print(json.dumps({"command": name, **seconds(command, repeats)}))


if __name__ == "__main__":
    main()
