"""What holds for every sweep, tried on many: generated ones and golden ones with a mistake put in."""

import contextlib
import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep.golden_text import GOLDEN
from sweep.naive import expand

from normhpc.errors import InputError
from normhpc.files import canonical_json
from normhpc.sweep.declaration import read_declaration
from normhpc.sweep.language import Sweep, load
from normhpc.sweep.places import Mistakes
from normhpc.sweep.yaml12 import Document

NORMS = st.sampled_from(
    [
        "batch",
        "layer",
        "none",
        {"name": "batch", "momentum": 0.5},
        {"name": "group", "groups": 8},
        {"name": "group", "group_size": 4},
    ]
)
VALUES = {
    "norm": NORMS,
    "model": st.sampled_from(
        ["convnet", "resnet8", {"name": "resnet8", "residual": "skipinit"}, {"name": "convnet", "widths": [8]}]
    ),
    "optim.lr": st.sampled_from([1, 1.0, 0.1, 0.5]),
    "optim.momentum": st.sampled_from([0, 0.0, 0.9]),
    "optim": st.fixed_dictionaries({"weight_decay": st.sampled_from([0, 0.1])}),
    "epochs": st.integers(4, 6),
    "batch_size": st.sampled_from([32, 64]),
    "schedule.warmup_epochs": st.sampled_from([0, 1, 2.5]),
    "act": st.sampled_from(["relu", "gelu"]),
    "augment": st.sampled_from(["none", "standard", {"name": "standard", "flip": False}]),
    "data.path": st.sampled_from([None, "/a"]),
    "resources.minutes": st.sampled_from([5, 10]),
}
PATHS = [path for path in VALUES if path != "data.path"]
CONDITIONS = st.sampled_from(
    [
        {"norm": "group"},
        {"norm.groups": {"not": 8}},
        {"optim": {"lr": {"ge": 0.5}}},
        {"epochs": {"in": [4, 6]}, "act": {"not": "relu"}},
        {"model": {"not": {"name": "convnet", "widths": [8]}}},
        {"augment.flip": False},
        {"resources.minutes": 5, "batch_size": {"gt": 32, "le": 64}},
    ]
)


def layers(paths):
    """Some of ``paths``, each with a value."""
    some = st.lists(st.sampled_from(paths), max_size=3, unique=True)
    return some.flatmap(lambda chosen: st.fixed_dictionaries({path: VALUES[path] for path in chosen}))


LAYER = layers(PATHS)
BASE = layers([path for path in PATHS if path != "resources.minutes"])


def lists(paths, size=None):
    low, high = (1, 3) if size is None else (size, size)
    return st.fixed_dictionaries({path: st.lists(VALUES[path], min_size=low, max_size=high) for path in paths})


@st.composite
def sweeps(draw):
    """Any valid sweep over a few fields, as the plain value of its YAML."""
    paths = draw(st.permutations(PATHS))[: draw(st.integers(0, 4))]
    split = draw(st.integers(0, len(paths)))
    sweep = {"name": "x", "base": draw(BASE)}
    if paths[:split]:
        sweep["matrix"] = draw(lists(paths[:split]))
    if paths[split:]:
        sweep["zip"] = [draw(lists(paths[split:], draw(st.integers(1, 3))))]
    if draw(st.booleans()):
        sweep["random"] = {"draws": draw(st.integers(1, 3)), "loss.label_smoothing": {"uniform": [0, 0.5]}}
    if draw(st.booleans()):
        sweep["ablate"] = draw(lists(["act", "augment"]))
    sweep["include"] = draw(st.lists(LAYER, max_size=2))
    sweep["when"] = [{"match": draw(CONDITIONS), "set": draw(LAYER)} for _ in range(draw(st.integers(0, 2)))]
    sweep["exclude"] = draw(st.lists(CONDITIONS, max_size=2))
    if draw(st.booleans()):
        sweep["seeds"] = draw(st.one_of(st.integers(1, 3), st.just([5, 0])))
    return sweep


def loaded(value):
    document = Document(value, "x.yaml")
    mistakes = Mistakes(document)
    sweep = Sweep(read_declaration(document, (), (), mistakes))
    mistakes.raise_any()
    return sweep


def reordered(value, shuffle):
    if not isinstance(value, dict):
        return value
    return {key: reordered(value[key], shuffle) for key in shuffle(list(value))}


MANY = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@MANY
@given(sweeps())
def test_fast_path_is_the_naive_expansion(value):
    sweep = loaded(value)
    runs, naive = list(sweep.runs()), expand(value)
    assert [run.run_id for run in runs] == [config.run_id for config, _ in naive]
    assert [run.config_json for run in runs] == [canonical_json(config.to_json()) for config, _ in naive]
    assert [run.resources for run in runs] == [resources for _, resources in naive]
    assert [config.run_id for config in sweep.expand()] == [run.run_id for run in runs]
    assert sweep.count() == loaded(value).count() == len(runs)


@MANY
@given(sweeps(), st.randoms(use_true_random=False))
def test_order_of_keys_never_changes_the_set(value, rng):
    shuffled = reordered(value, lambda keys: rng.sample(keys, len(keys)))
    assert {run.run_id for run in loaded(shuffled).runs()} == {run.run_id for run in loaded(value).runs()}


@MANY
@given(sweeps())
def test_repeated_values_are_merged(value):
    doubled = {**value, "matrix": {path: values * 2 for path, values in value.get("matrix", {"act": ["relu"]}).items()}}
    single = {**value, "matrix": value.get("matrix", {"act": ["relu"]})}
    if "zip" not in value or "act" not in value["zip"][0] or "matrix" in value:
        sweep = loaded(doubled)
        assert [run.run_id for run in sweep.runs()] == [run.run_id for run in loaded(single).runs()]


@MANY
@given(sweeps())
def test_swept_values_are_those_of_the_configuration(value):
    sweep = loaded(value)
    for run, config in zip(sweep.runs(), sweep.expand(), strict=True):
        for path, found in run.swept.items():
            expected = config.to_json()
            for step in path.split("."):
                expected = expected.get(step) if isinstance(expected, dict) else None
            assert found == expected


@MANY
@given(sweeps())
def test_a_cell_is_told_apart_by_its_swept_values(value):
    cells = {}
    for run, config in zip(loaded(value).runs(), loaded(value).expand(), strict=True):
        content = {**config.to_json(), "seed": 0}
        assert cells.setdefault(canonical_json(run.swept), content) == content


MUTATIONS = 200


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_mutated_files_are_valid_or_refused(seed, tmp_path):
    rng = random.Random(seed)
    files = sorted(GOLDEN.glob("*.yaml"))
    text = rng.choice(files).read_text()
    text = mutated(text, rng)
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with contextlib.suppress(InputError):
        sweep = load(file)
        found = [run.run_id for run in sweep.runs()]
        assert [config.run_id for config in sweep.expand()] == found
        list(sweep.misfits())


WORDS = [
    "norm",
    "optim",
    "lr",
    "name",
    "batch",
    "group",
    "groups",
    "epochs",
    "matrix",
    "base",
    "zip",
    "set",
    "when",
    "seeds",
]


def mutated(text, rng):
    """``text`` with one character, word or number replaced, left out or put in."""
    at = rng.randrange(len(text))
    words = re.findall(r"[a-z_]{3,}", text)
    numbers = re.findall(r"[0-9.]+", text)
    match rng.randrange(6):
        case 0:
            return text[:at] + rng.choice("{}[],:-&*!?#'\"\n 0x.e~\t%@") + text[at + 1 :]
        case 1:
            return text[:at] + text[at + 1 :]
        case 2:
            return text[:at] + rng.choice("0123456789abc.-_") + text[at:]
        case 3:
            return text.replace(rng.choice(words), rng.choice(WORDS), 1)
        case 4:
            return text.replace(rng.choice(words), rng.choice(WORDS))
        case _:
            number = rng.choice(["0", "1", "2", "7", "0.5", "-1", "x", "[1]", "{}", "1e400", "null", "true", "2.0"])
            return text.replace(rng.choice(numbers or ["x"]), number, 1)
