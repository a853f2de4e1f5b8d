"""The processes that train one run together, and what each of them is to compute on."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

RENDEZVOUS_VARIABLE = "NORMHPC_RENDEZVOUS"
"""Environment variable with a fresh file through which the ranks of one machine find each other: no port to clash."""

_TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class World:
    """This process among its peers. ``control`` is a CPU group for decisions, apart from gradient traffic."""

    rank: int
    size: int
    device: torch.device
    control: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the record."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of ``tensor`` over all ranks, in place; order of summation does not depend on timing."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any] | None:
        """``value`` of every rank, on rank 0; None elsewhere. For small things."""
        if self.size == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, gathered, group=self.control)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Rank 0's ``value``, on every rank. For small things."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.control)
        return box[0]


@contextlib.contextmanager
def joined_world() -> Iterator[World]:
    """Join the ranks that the environment names (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, as torchrun sets them).

    Without these variables the world is this process alone. NCCL carries gradients between GPUs, gloo on CPUs.
    """
    rank = int(os.environ.get("RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(0, 1, device)
        return
    rendezvous = os.environ.get(RENDEZVOUS_VARIABLE)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{rendezvous}" if rendezvous else "env://",
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    yield World(rank, size, device, control=dist.new_group(backend="gloo", timeout=_TIMEOUT))
    # reached only when all went well: on an error a peer may be gone, and waiting for it would hold the slot
    dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def is_peer_failure(error: BaseException) -> bool:
    """Whether ``error`` only says that another rank is gone, and not what is wrong with this one."""
    text = str(error)
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or (
        isinstance(error, RuntimeError)
        and any(
            sign in text for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo")
        )
    )
