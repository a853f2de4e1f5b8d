"""Recipes on two ranks with unequal shares: equal weights on both, those that one process learns."""

import pytest
import torch
from support.ranks import run_on_ranks
from support.recipe_steps import RECIPES, six_steps


@pytest.fixture(scope="module")
def alone():
    return six_steps(0, 1)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_on_ranks(2, six_steps, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_ranks_hold_the_same_bits(ranks, recipe):
    first, second = (rank[recipe] for rank in ranks)
    assert first.keys() == second.keys()
    assert any(name.startswith("average.") for name in first) == ("ema_decay" in RECIPES[recipe])
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_learn_what_one_does(alone, ranks, recipe):
    # Muon computes in bf16, in which rounding of the gradients may show as 2^-8 of a step of 0.02
    tolerance = 0.02 * 2**-6 if recipe == "muon" else 2e-6
    for name, value in alone[recipe].items():
        torch.testing.assert_close(ranks[0][recipe][name], value, rtol=1e-5, atol=tolerance)
