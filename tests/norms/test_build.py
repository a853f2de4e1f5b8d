import re
from typing import get_args

import pytest
from support.norm_formulas import owns_activation
from torch import nn

from normhpc.config.model import Activation
from normhpc.config.norm import FormulaNorm, GroupNorm
from normhpc.config.norm.base import Scope
from normhpc.errors import InputError
from normhpc.norms import NORMS, Norm, build
from normhpc.norms.activation import ACTIVATIONS


def test_activations_are_those_of_the_configuration():
    assert set(ACTIVATIONS) == set(get_args(Activation))


def test_a_name_a_mapping_and_a_part_build_the_same_layer():
    built = [build(spec, 32) for spec in ("group", {"name": "group"}, {"name": "group", "groups": 32}, GroupNorm())]
    assert {str(slot) for slot in built} == {"Group(32, act=relu, groups=32, eps=1e-05)"}


def test_relu_is_the_default_activation():
    assert build("layer", 4).act == "relu"


BY_NAME = [config for config in NORMS if config is not FormulaNorm]  # which needs its formula


@pytest.mark.parametrize("config", BY_NAME, ids=lambda config: config.__name__)
def test_every_norm_is_built_by_name(config):
    slot = build(config.model_fields["name"].default, 32, "none")
    assert isinstance(slot, nn.Module)
    assert isinstance(slot, Norm)
    assert slot.num_features == 32
    assert slot.scope in get_args(Scope)
    assert not slot.owns_act  # there is none
    assert build(config(), 32, "relu").owns_act == owns_activation(config())


@pytest.mark.parametrize(
    ("spec", "channels", "act", "message"),
    [
        (
            "grop",
            8,
            "relu",
            "norm.name: no norm is called 'grop', did you mean 'group'? There are: none, batch, ghost_batch",
        ),
        (
            {"name": "group", "groups": 3},
            8,
            "relu",
            "norm.groups: groups 3 does not divide 8 channels; what does: 1, 2, 4, 8; indivisible: shrink takes",
        ),
        ({"name": "group"}, 48, "relu", "norm.groups: groups 32 does not divide 48 channels"),
        (
            {"name": "group", "group_size": 5},
            8,
            "relu",
            "norm.group_size: group_size 5 does not divide 8 channels; what does: 1, 2, 4, 8",
        ),
        (
            {"name": "batch", "epps": 1.0},
            8,
            "relu",
            "norm.epps: unknown key 'epps', did you mean 'eps'? allowed: name, eps, momentum, sync, running",
        ),
        (
            {"name": "group", "grups": 3},
            8,
            "relu",
            "norm.grups: unknown key 'grups', did you mean 'groups'? allowed: name, groups, group_size, p_grouping, "
            "indivisible, eps, unbiased",
        ),
        ({"name": "batch", "eps": -1.0}, 8, "relu", "norm.eps: expected a positive number, got -1.0"),
        ("formula", 8, "relu", "norm.expr: a value is needed, there is no default"),
        ({"name": "formula", "expr": "x y"}, 8, "relu", "norm.expr: column 3: cannot be read as a formula from here"),
        (3, 8, "relu", "norm: expected the name of a norm or a mapping with its fields, got 3"),
        (
            "batch",
            8,
            "rellu",
            "act: expected one of relu, leaky_relu, silu, gelu, tanh, none, got 'rellu', did you mean",
        ),
        ("batch", 0, "relu", "num_features: expected a positive number of channels, got 0"),
    ],
)
def test_mistakes_name_the_field_and_the_way_out(spec, channels, act, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        build(spec, channels, act)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InputError) as caught:
        build({"name": "batch", "eps": -1.0, "momentum": 2.0}, 8)
    assert [problem.path for problem in caught.value.problems] == ["norm.eps", "norm.momentum"]
