"""What ranks say to each other."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from normhpc.train.world import World, joined_world


def together(rank: int, size: int) -> dict[str, Any]:
    """One of each exchange."""
    world = World(rank, size, torch.device("cpu"), control=dist.new_group(backend="gloo"))
    return {
        "sum": world.sum(torch.tensor([float(rank), rank + 1.0])),
        "gathered": world.gather(f"rank {rank}"),
        "broadcast": world.broadcast({"from": rank}),
        "leads": world.leads,
    }


def meet(place: str, run: int, rank: int) -> None:
    """Join the other rank of ``run`` and write down what the two have added up."""
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": "2", "NORMHPC_RENDEZVOUS": f"{place}/{run}"})
    os.environ.update({"MASTER_ADDR": "nowhere", "MASTER_PORT": "1"})
    with joined_world() as world:
        total = world.sum(torch.tensor([run + rank]))
    Path(f"{place}/{run}.{rank}").write_text(str(int(total)))
