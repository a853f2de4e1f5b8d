"""The schemas accept what the language accepts and refuse what is obviously wrong."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from sweep.golden_text import GOLDEN

from normhpc.config import RunConfig
from normhpc.sweep.schema import run_schema, sweep_schema
from normhpc.sweep.yaml12 import parse

SWEEP = Draft202012Validator(sweep_schema())
RUN = Draft202012Validator(run_schema())
HERE = Path(__file__).parent


def test_both_are_schemas():
    Draft202012Validator.check_schema(sweep_schema())
    Draft202012Validator.check_schema(run_schema())


# `epochs: true` can never match, which the language allows and tells in a note; an editor may well mark it.
FILES = [file for file in sorted(GOLDEN.glob("*.yaml")) if file.stem != "exclude_true_is_not_one"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden_sweeps_are_valid(file):
    assert [error.message for error in SWEEP.iter_errors(parse(file.read_text()).value)] == []


REFUSED = [
    "unknown_section", "field_at_top", "unknown_first_key", "unknown_field", "unknown_name", "wrong_type", "bounds",
    "literal", "null_part", "matrix_scalar", "matrix_empty", "matrix_empty_list", "matrix_null", "zip_mapping",
    "random_draws_missing", "random_mistakes", "when_shape", "condition_paths", "seeds_zero", "seeds_list",
    "resources_in_base", "bad_name", "not_a_mapping", "many_at_once",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_sweeps_are_refused(name):
    assert not SWEEP.is_valid(parse((HERE / "bad" / f"{name}.yaml").read_text()).value)


@pytest.mark.parametrize("text", ["optim.lr: 1", "random: {draws: x, optim.lr: {uniform: [0, 1]}}", "base: {a.b: 1}"])
def test_obvious_mistakes_are_refused(text):
    assert not SWEEP.is_valid(parse(text).value)


@pytest.mark.parametrize(
    "text",
    [
        "matrix: {optim: {lr: [1]}, norm: [batch]}",
        "exclude: [{norm: {in: [batch, layer]}, optim: {lr: {lt: 2}}, epochs: {not: {in: [3]}}}]",
        "random: {draws: 3, optim: {lr: {log_uniform: [1e-3, 1]}}, norm: {choice: [batch, {name: group, groups: 8}]}}",
        "when: [{match: {norm.name: batch}, set: {resources.minutes: 3, norm: {momentum: 0.5}}}]",
    ],
)
def test_nested_and_dotted_forms_are_accepted(text):
    assert SWEEP.is_valid(parse(text).value)


def test_every_run_is_valid_and_nonsense_is_not():
    assert RUN.is_valid(RunConfig().to_json())
    assert RUN.is_valid({"norm": "layer", "model": {"name": "resnet8"}})
    assert not RUN.is_valid({"norm": "lyer"})
    assert not RUN.is_valid({"epoch": 3})


def test_fields_bring_their_documentation():
    defs = sweep_schema()["$defs"]
    assert defs["value optim.accumulate"]["description"].startswith("Micro-batches a rank splits its share")
