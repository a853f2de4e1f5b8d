"""Functions run by several processes that form one gloo process group."""

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(world: int, work: Callable[[int, int], Any], folder: Path) -> list[Any]:
    """``work(rank, world)`` on every rank; what each returned, by rank. ``work`` lies in an importable module.

    Ranks are forked from a server that has imported torch and ``work`` and nothing else has run in, since the
    import takes longer than most work.
    """
    multiprocessing.set_forkserver_preload(["torch", work.__module__])
    mp.start_processes(_rank, (world, work, str(folder)), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _rank(rank: int, world: int, work: Callable[[int, int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(f"{folder}/store", world),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(work(rank, world), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
