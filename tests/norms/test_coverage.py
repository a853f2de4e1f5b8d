"""No norm gets into the catalogue untested."""

from pathlib import Path

import pytest
from support.norm_cases import ELSEWHERE, SPECS
from support.norm_formulas import FORMULAS
from support.norm_identities import IDENTITIES
from support.norm_others import OTHERS

from normhpc.norms import NORMS

HERE = Path(__file__).parent
OF_ONE_FORMULA = [config for config in NORMS if config not in ELSEWHERE]


@pytest.mark.parametrize("config", OF_ONE_FORMULA, ids=lambda config: config.__name__)
def test_every_norm_has_a_formula_cases_and_something_to_compare_with(config):
    assert config in FORMULAS
    assert any(type(spec) is config for spec in SPECS)
    assert config() in SPECS or hasattr(config(), "groups"), "the settings a user gets by its name"
    compared = {type(other.config) for other in OTHERS}
    related = {about for _, configs in IDENTITIES for about in configs}
    assert config in compared | related


def owner(config, name):
    """The class that a setting comes from: what norms share is tested with one of them."""
    return next(base for base in reversed(config.__mro__) if name in getattr(base, "model_fields", {}))


@pytest.mark.parametrize("config", OF_ONE_FORMULA, ids=lambda config: config.__name__)
def test_every_setting_of_a_norm_has_a_case_that_is_not_the_default(config):
    untested = {
        name
        for name, field in config.model_fields.items()
        if name not in ("name", "sync", "momentum", "eps")
        and all(getattr(spec, name) == field.default for spec in SPECS if isinstance(spec, owner(config, name)))
    }
    assert not untested


def test_there_is_nothing_for_norms_that_do_not_exist():
    assert set(FORMULAS) == set(OF_ONE_FORMULA)
    assert all((HERE / file).is_file() for file in ELSEWHERE.values())
