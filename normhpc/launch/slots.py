"""The places on this machine where a rank can run: GPUs, or shares of the processor."""

import os
import subprocess
from dataclasses import dataclass

from normhpc.config import Resources
from normhpc.errors import InputError


@dataclass(frozen=True, slots=True)
class Slot:
    """One place. ``gpu`` is what CUDA_VISIBLE_DEVICES calls its device; None on a processor."""

    number: int
    gpu: str | None = None


def available_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs a run may be given, as CUDA_VISIBLE_DEVICES names them; empty without a driver. Loads no torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def make_slots(count: int | None, needs: list[Resources]) -> list[Slot]:
    """The slots of this machine for runs with these ``needs``.

    On GPUs: ``runs_per_gpu`` slots for each (the smallest over the runs). Otherwise as many as the cores hold ranks
    of ``cpus_per_gpu`` threads. ``count`` overrides the number; GPUs are then shared in turn.

    Raises :class:`InputError` when a run needs more GPUs than there are, or than ``count`` slots reach.
    """
    gpus = visible_gpus() if any(need.gpus_per_node for need in needs) else []
    most_ranks = max((need.ranks for need in needs), default=1)
    if gpus and most_ranks > len(gpus):
        raise InputError(
            f"a run of {most_ranks} ranks (resources nodes x gpus_per_node) needs as many GPUs, this machine shows "
            f"{len(gpus)}; set resources.gpus_per_node to at most {len(gpus)}"
        )
    if count is None:
        per_gpu = min((need.runs_per_gpu for need in needs), default=1)
        threads = max((need.cpus_per_gpu for need in needs), default=1)
        count = len(gpus) * per_gpu if gpus else max(1, available_cores() // threads)
    elif gpus and count < most_ranks:
        raise InputError(
            f"a run of {most_ranks} ranks (resources nodes x gpus_per_node) needs as many GPUs, --slots {count} reaches "
            f"only {count}; give at least --slots {most_ranks}"
        )
    return [Slot(number, gpus[number % len(gpus)] if gpus else None) for number in range(count)]
