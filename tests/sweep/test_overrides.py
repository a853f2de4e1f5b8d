"""``--set`` and ``--only``."""

import pytest
from config.test_problems import NORMS

from normhpc.errors import InputError

GRID = """\
base: {optim.lr: 0.2}
matrix:
  norm: [batch, layer, {name: group, groups: 8}]
  epochs: [1, 2, 3]
seeds: 2
resources: {minutes: 60}
"""


def values(sweep, *paths):
    found = []
    for run, config in zip(sweep.runs(), sweep.expand(), strict=True):
        assert run.run_id == config.run_id
        found.append(tuple(_at(config.to_json(), path) for path in paths))
    return found


def _at(value, path):
    for step in path.split("."):
        value = value.get(step)
    return value


def test_set_a_field_of_every_run(sweep_of):
    sweep = sweep_of(GRID, ["optim.lr=1e-3", "augment=standard"])
    assert set(values(sweep, "optim.lr", "augment.name")) == {(0.001, "standard")}
    assert sweep.count() == 18


def test_set_replaces_an_axis_of_the_same_path(sweep_of):
    sweep = sweep_of(GRID, ["epochs=7"])
    assert values(sweep, "norm.name", "epochs", "seed") == [
        ("batch", 7, 0), ("batch", 7, 1), ("layer", 7, 0), ("layer", 7, 1), ("group", 7, 0), ("group", 7, 1),
    ]  # fmt: skip
    assert sweep.notes == ["--set replaces the 3 values of matrix.epochs"]
    assert [row.label for row in sweep.axes] == ["norm", "seeds"]
    assert sweep.swept_paths == ("data.name", "model.name", "norm.name", "norm.groups")


def test_set_replaces_an_axis_of_whole_parts(sweep_of):
    sweep = sweep_of(GRID, ["norm=none", "seeds=[5]"])
    assert values(sweep, "norm.name", "epochs", "seed") == [("none", 1, 5), ("none", 2, 5), ("none", 3, 5)]


ZIPPED = """\
zip:
  - {data: [digits, mnist], epochs: [1, 2], optim.lr: [0.1, 0.2]}
  - {norm: [batch, layer]}
"""


def test_set_takes_the_place_of_a_whole_zip_group(sweep_of):
    sweep = sweep_of(ZIPPED, ["epochs=9", "data=mnist", "optim={lr: 0.5}"])
    assert values(sweep, "data.name", "epochs", "optim.lr", "norm.name") == [
        ("mnist", 9, 0.5, "batch"), ("mnist", 9, 0.5, "layer"),
    ]  # fmt: skip
    assert sweep.notes == [
        "--set replaces the 2 values of zip[0].data",
        "--set replaces the 2 values of zip[0].epochs",
        "--set replaces the 2 values of zip[0].optim.lr",
    ]
    assert {norm for (norm,) in values(sweep_of(ZIPPED, ["norm=group"]), "norm.name")} == {"group"}


def test_set_below_a_list_of_a_zip_group_leaves_it(sweep_of):
    sweep = sweep_of(ZIPPED, ["norm.eps=1e-3"])
    assert set(values(sweep, "norm.name", "norm.eps")) == {("batch", 0.001), ("layer", 0.001)}
    assert sweep.count() == 4


@pytest.mark.parametrize(
    ("options", "place", "given", "left"),
    [
        (["epochs=9"], "epochs", "epochs", "data, optim.lr"),
        (["optim.lr=1", "data=cifar10"], "data", "data, optim.lr", "epochs"),
        (["data={name: cifar10}", "epochs=9"], "data.name", "data, epochs", "optim.lr"),
        (["optim=adam"], "optim", "optim.lr", "data, epochs"),
    ],
)
def test_set_of_a_part_of_a_zip_group_is_refused(sweep_of, options, place, given, left):
    with pytest.raises(InputError) as caught:
        sweep_of(ZIPPED, options)
    assert str(caught.value) == (
        f"--set {place}: expected all lists of zip[0], which advance together, or none, got {given} without {left}; "
        f"set {left} as well, or leave runs out with --only"
    )


def test_set_takes_the_place_of_a_random_path(sweep_of):
    text = "random: {draws: 2, optim.lr: {uniform: [0.1, 1]}, optim.momentum: {uniform: [0, 0.5]}}"
    assert {lr for (lr,) in values(sweep_of(text, ["optim.lr=2"]), "optim.lr")} == {2.0}
    assert sweep_of(text, ["optim.lr=2", "optim.momentum=0"]).count() == 1


def test_set_comes_after_when_and_before_exclude(sweep_of):
    text = "matrix: {norm: [batch, layer]}\nwhen: [{match: {norm: layer}, set: {epochs: 20}}]\nexclude: [{epochs: 20}]"
    assert values(sweep_of(text), "norm.name") == [("batch",)]
    assert values(sweep_of(text, ["epochs=5"]), "norm.name", "epochs") == [("batch", 5), ("layer", 5)]
    assert values(sweep_of(text, ["epochs=20"]), "norm.name") == []


def test_set_merges_what_it_makes_equal(sweep_of):
    sweep = sweep_of("base: {epochs: 1}\nablate: {epochs: [2, 3]}", ["epochs=5"])
    assert values(sweep, "epochs") == [(5,)]
    assert sweep.merged == 2
    assert sweep.notes[:1] == ["2 runs equal an earlier one and were merged with it"]


def test_set_sections(sweep_of):
    sweep = sweep_of(GRID, ["name=smoke", "seeds=1", "resources.minutes=5"])
    assert (sweep.name, sweep.count()) == ("smoke", 9)
    assert {run.resources.minutes for run in sweep.runs()} == {5}


def test_set_seed_takes_the_place_of_seeds(sweep_of):
    assert {seed for (seed,) in values(sweep_of(GRID, ["seed=4"]), "seed")} == {4}
    assert values(sweep_of("matrix: {seed: [1, 2]}", ["seed=4"]), "seed") == [(4,)]


def test_set_a_mapping(sweep_of):
    sweep = sweep_of("base: {optim: {lr: 0.3}}", ["optim={momentum: 0.5}", "norm={name: group, groups: 4}"])
    assert values(sweep, "optim.lr", "optim.momentum", "norm.groups") == [(0.3, 0.5, 4)]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("optim.lrr=1", "--set optim.lrr: unknown key 'lrr', did you mean 'lr'? allowed: decay, l1, accumulate, "
            "lr_batch_size, lr_factors, clip_norm, clip_adaptive, ema_decay, name, lr, "
         "momentum, nesterov, weight_decay, beta1, beta2, eps, ns_steps, rest_lr"),
        ("optin.lr=1", "--set optin.lr: unknown key 'optin', did you mean 'optim'? allowed: data, model, norm, act, "
         "augment, loss, optim, schedule, epochs, batch_size, precision, seed, probes, checkpoint, resources, name, "
         "description, seeds"),
        ("epochs=0", "--set epochs: expected a positive integer, got 0"),
        ("norm={name: group, groups: -7}", "--set norm.groups: expected a positive integer, got -7"),
        ("epochs", "--set epochs: expected KEY=VALUE, such as optim.lr=0.1"),
        ("epochs=[1", "--set epochs: not YAML: while parsing a flow sequence, did not find expected ',' or ']'"),
        ("name=a b", "--set name: expected letters, digits, dots, _ and -, not starting with a dot, got 'a b'"),
        ("seeds=x", "--set seeds: expected a positive integer up to 1,000,000 or a list of seeds, got 'x'"),
        ("schedule.warmup_epochs=30", "--set schedule.warmup_epochs: expected at most the run's 1 epochs, got 30"),
    ],
)  # fmt: skip
def test_mistakes_in_set(sweep_of, option, message):
    with pytest.raises(InputError) as caught:
        sweep_of(GRID, [option])
    assert str(caught.value) == message


def test_the_same_path_set_twice(sweep_of):
    with pytest.raises(InputError) as caught:
        sweep_of(GRID, ["epochs=1", "epochs=2"])
    assert str(caught.value) == "--set epochs: sets epochs again"


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        (["norm.name=layer", "seed=0"], [("layer", 1, 0), ("layer", 2, 0), ("layer", 3, 0)]),
        (["norm=layer,group", "epochs=2", "seed=1"], [("layer", 2, 1), ("group", 2, 1)]),
        (["epochs={ge: 3}", "seed=0", "norm={not: batch}"], [("layer", 3, 0), ("group", 3, 0)]),
        (["norm.name={in: [layer, group]}", "epochs=2", "seed=1"], [("layer", 2, 1), ("group", 2, 1)]),
        (["norm.groups=8", "epochs=1"], [("group", 1, 0), ("group", 1, 1)]),
        (
            ["epochs=1,3", "norm=batch", "seed=0,1,2"],
            [("batch", 1, 0), ("batch", 1, 1), ("batch", 3, 0), ("batch", 3, 1)],
        ),
        (["seed=7"], []),
        (["seed={ge: 1}", "epochs=1", "norm=batch"], [("batch", 1, 1)]),
    ],
)
def test_only(sweep_of, only, kept):
    sweep = sweep_of(GRID, only=only)
    assert sweep.filtered
    assert values(sweep, "norm.name", "epochs", "seed") == kept
    assert sweep.count() == len(kept)


def test_only_a_run_id(sweep_of):
    runs = list(sweep_of(GRID).runs())
    assert not sweep_of(GRID).filtered
    for wanted in (runs[3].run_id, runs[3].run_id[:10]):
        assert [run.run_id for run in sweep_of(GRID, only=[f"run_id={wanted}"]).runs()] == [runs[3].run_id]
    both = f"run_id={runs[1].run_id},{runs[5].run_id}"
    assert [run.run_id for run in sweep_of(GRID, only=[both]).runs()] == [runs[1].run_id, runs[5].run_id]


def test_only_a_seed_that_is_an_axis(sweep_of):
    sweep = sweep_of("matrix: {seed: [1, 2, 3]}", only=["seed=2,3"])
    assert values(sweep, "seed") == [(2,), (3,)]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("norm.nam=x", "--only norm.nam: unknown key 'nam', did you mean 'name'? allowed: name, eps, momentum, sync, "
         "running, ghost_size, r_max, d_max, warmup_steps, groups, group_size, p_grouping, indivisible, unbiased, "
         "gate_init, train_gate, gate_lr_factor, learn_eps, size, alpha, beta, k, alone, c, shape, init, scaled_relu, "
         "eps_at, gamma, expr, affine, owns_act"),
        ("norm=lyer", "--only norm: no norm is called 'lyer', did you mean 'layer'? "
         f"There are: {NORMS}"),
        ("epochs", "--only epochs: expected KEY=VALUE, such as optim.lr=0.1"),
        ("epochs={lt: x}", "--only epochs.lt: expected a number, got 'x'"),
    ],
)  # fmt: skip
def test_mistakes_in_only(sweep_of, option, message):
    with pytest.raises(InputError) as caught:
        sweep_of(GRID, only=[option])
    assert str(caught.value) == message
