"""How fast a sweep expands: seconds, runs per second and peak memory, each case in a process of its own.

    python benchmarks/expand.py            all cases
    python benchmarks/expand.py product    one case, in this process; prints its figures as JSON

``product`` and ``seeds`` are 1,000,000 runs printed as the ``expand`` command prints them; ``rules`` adds ``when`` and
``exclude`` to the same product, ``random`` is 100,000 draws of two parameters, ``plan`` is 10,000 runs gone through
without printing, and ``count`` is the arithmetic count of the million. Targets: 10 s and 400 MB for a million
printed runs, 0.3 s for 10,000.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from normhpc.sweep import load

_PRODUCT = """
matrix:
  norm: [batch, layer, none, instance]
  optim.lr: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
  optim.momentum: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
  model: [resnet20, convnet, resnet56, resnet110, resnet32]
  batch_size: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
  loss.label_smoothing: [0, 0.01, 0.02, 0.03, 0.04]
"""
_EPOCHS = "  epochs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n"
_RULES = """
when:
  - {match: {norm: instance, model: resnet20}, set: {optim.weight_decay: 0}}
  - {match: {epochs: {ge: 7}}, set: {schedule.warmup_epochs: 2}}
exclude: [{epochs: 3, norm: batch}, {model: resnet56, epochs: 2}]
"""
_RANDOM = "random: {draws: 100000, optim.lr: {log_uniform: [1e-4, 1]}, loss.label_smoothing: {uniform: [0, 0.5]}}\n"
_CASES = {
    "product": _PRODUCT + _EPOCHS,
    "seeds": _PRODUCT + "seeds: 10\n",
    "rules": _PRODUCT + _EPOCHS + _RULES,
    "random": _RANDOM,
    "plan": _PRODUCT.replace("[batch, layer, none, instance]", "[batch]").replace(
        "[0, 0.01, 0.02, 0.03, 0.04]", "[0, 0.1]"
    )
    + "seeds: 1\n",
    "count": _PRODUCT + _EPOCHS,
}


def measure(case: str) -> dict[str, float]:
    """Figures of one case, with the time of loading the file and without that of importing."""
    with tempfile.TemporaryDirectory() as folder, Path("/dev/null").open("w") as out:
        file = Path(folder) / f"{case}.yaml"
        file.write_text(_CASES[case])
        started = time.perf_counter()
        sweep = load(file)
        if case == "count":
            runs = sweep.count()
        elif case == "plan":
            runs = sum(1 for _ in sweep.runs())
        else:
            runs = 0
            for run in sweep.runs():
                out.write(f'{{"run_id": "{run.run_id}", "config": {run.config_json}}}\n')
                runs += 1
        seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"runs": runs, "seconds": round(seconds, 3), "peak_mb": round(peak_mb)}


def main() -> None:
    """One case by name, or a table of all."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    print(f"{'case':<10}{'runs':>12}{'seconds':>10}{'runs/s':>12}{'peak MB':>10}")
    for case in _CASES:
        answer = subprocess.run([sys.executable, __file__, case], check=True, capture_output=True, text=True)
        found = json.loads(answer.stdout)
        speed = found["runs"] / found["seconds"]
        print(
            f"{case:<10}{found['runs']:>12,}{found['seconds']:>10.3f}{speed:>12,.0f}{found['peak_mb']:>10,}", flush=True
        )


if __name__ == "__main__":
    main()
