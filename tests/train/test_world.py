"""Who this process is among its peers."""

import pytest
import torch
import torch.distributed as dist
from support.ranks import run_on_ranks
from support.worlds import together

from normhpc.train.world import World, is_peer_failure, joined_world


def test_alone_without_an_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined_world() as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)
        assert not dist.is_initialized()
        value = torch.tensor([1.5, 2.0])
        assert world.sum(value) is value
        assert value.tolist() == [1.5, 2.0]
        assert world.gather({"a": 1}) == [{"a": 1}]
        assert world.broadcast("x") == "x"


def test_three_ranks(tmp_path):
    found = run_on_ranks(3, together, tmp_path)
    assert [rank["sum"].tolist() for rank in found] == [[0.0 + 1 + 2, 1.0 + 2 + 3]] * 3
    assert [rank["gathered"] for rank in found] == [["rank 0", "rank 1", "rank 2"], None, None]
    assert [rank["broadcast"] for rank in found] == [{"from": 0}] * 3
    assert [rank["leads"] for rank in found] == [True, False, False]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("Connection reset by peer [10.0.0.1]:1234"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Broken pipe"), False),
        (dist.DistNetworkError("the other side is gone"), True),
        (dist.DistBackendError("NCCL error"), True),
        (FloatingPointError("gloo"), False),
        (MemoryError(), False),
    ],
)
def test_which_errors_are_the_peers(error, expected):
    assert is_peer_failure(error) is expected


def test_rank_zero_leads():
    assert World(0, 2, torch.device("cpu")).leads
    assert not World(1, 2, torch.device("cpu")).leads
