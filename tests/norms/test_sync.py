"""Synchronized norms on 2 and 3 ranks with unequal shares against one process with all images."""

import pytest
import torch
from support.ranks import run_on_ranks
from support.sync_steps import (
    COMPILED,
    DTYPES,
    LAYOUTS,
    NORMS,
    SHARES,
    all_cases,
    all_second_derivatives,
    compiled_and_eager,
    second_derivatives,
    two_steps,
)

from normhpc import norms
from normhpc.config import norm as configs
from normhpc.norms import build

CASES = [
    (world, norm, f"{shares} {dtype} {layout}")
    for world, names in SHARES.items()
    for shares in names
    for dtype in DTYPES
    for layout in LAYOUTS
    for norm in (NORMS if layout == "nchw" else ("batch", "evonorm_b0"))
]
PER_IMAGE = ("y0", "y1", "grad_x0", "grad_x1", "evaluated")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return {world: run_on_ranks(world, all_cases, tmp_path_factory.mktemp(f"{world}_ranks")) for world in SHARES}


def test_these_tests_see_every_norm_over_the_batch():
    assert set(NORMS) == {
        kind.model_fields["name"].default
        for kind in norms.NORMS
        if issubclass(kind, configs.BatchStatistics) and kind is not configs.GhostBatchNorm
    }


@pytest.mark.parametrize(("world", "norm", "case"), CASES)
def test_ranks_together_are_one_process(ranks, world, norm, case):
    found = [rank[f"{norm} {case}"] for rank in ranks[world]]
    # In float64 also where the ranks computed in fp32, so that all of the difference is theirs.
    expected = two_steps(norm, slice(0, 6), torch.float64, torch.contiguous_format)
    assert {*PER_IMAGE, "grad_weight", "grad_bias", "running_mean", "running_var"} <= set(expected)
    tolerance = 2e-6 if "float32" in case else 1e-12
    for name, value in expected.items():
        parts = [rank[name].double() for rank in found]
        if name in PER_IMAGE:
            together = torch.cat(parts)
        elif name.startswith("grad_"):
            together = torch.stack(parts).sum(0)
        else:
            assert all(torch.equal(part, parts[0]) for part in parts), name
            together = parts[0]
        error = (together - value).abs().max() / value.abs().max()
        assert error <= tolerance, f"{name}: {error:.1e} of its largest value"


@pytest.mark.parametrize("world", SHARES)
def test_one_value_over_all_ranks_is_refused_on_all(ranks, world):
    for rank in ranks[world]:
        assert rank["too few"].startswith("norm: batch norm over one value per channel is always 0")


def test_states_of_plain_and_synchronized_are_the_same():
    plain, sync = build("batch", 4), build({"name": "batch", "sync": True}, 4)
    assert plain.state_dict().keys() == sync.state_dict().keys()
    sync.load_state_dict(plain.state_dict())


def test_compiled_in_one_graph_with_the_collectives(tmp_path):
    for rank in run_on_ranks(2, compiled_and_eager, tmp_path):
        assert set(rank) == set(COMPILED)
        assert max(rank.values()) <= 2e-5, rank


def test_second_derivatives_go_through_the_statistics_of_all_ranks(tmp_path):
    ranks = run_on_ranks(2, all_second_derivatives, tmp_path)
    for norm in NORMS:
        together = torch.cat([rank[norm] for rank in ranks])
        expected = second_derivatives(norm, slice(0, 6))
        torch.testing.assert_close(together, expected, rtol=1e-9, atol=1e-9, msg=norm)
