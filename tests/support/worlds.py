"""What ranks say to each other."""

from typing import Any

import torch
import torch.distributed as dist

from normhpc.train.world import World


def together(rank: int, size: int) -> dict[str, Any]:
    """One of each exchange."""
    world = World(rank, size, torch.device("cpu"), control=dist.new_group(backend="gloo"))
    return {
        "sum": world.sum(torch.tensor([float(rank), rank + 1.0])),
        "gathered": world.gather(f"rank {rank}"),
        "broadcast": world.broadcast({"from": rank}),
        "leads": world.leads,
    }
