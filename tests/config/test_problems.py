"""Mistakes are told in the language of the fields, with the path that leads to them."""

import pytest
from pydantic import ValidationError

from normhpc.config import Resources, RunConfig
from normhpc.config.problems import dotted, findings_of, shown, validate_run
from normhpc.errors import InputError

NORMS = (
    "none, batch, ghost_batch, batch_renorm, variance, mean_centering, layer, layer_pixel, rms, instance, group, "
    "batch_instance, switchable, frn, frn_tlu, grn, local_response, evonorm_b0, evonorm_b1, evonorm_b2, evonorm_s0, "
    "evonorm_s1, evonorm_s2, dyt, derf, dyisru, pointwise, selu, weight, weight_standardized, "
    "scaled_weight_standardized, weight_centering, formula"
)
MESSAGES = [
    ({"norm": {"momentm": 1}}, "norm.momentm: unknown key 'momentm', did you mean 'momentum'? "
     "allowed: name, eps, momentum, sync, running"),
    ({"norm": {"xyz": 1}}, "norm.xyz: unknown key 'xyz', allowed: name, eps, momentum, sync, running"),
    ({"norm": {"name": "group", "groups": -7}}, "norm.groups: expected a positive integer, got -7"),
    ({"norm": {"name": "group", "groups": "x"}}, "norm.groups: expected an integer, got 'x'"),
    ({"norm": {"name": "group", "groups": 1.5}}, "norm.groups: expected an integer, got 1.5"),
    ({"norm": {"name": "group", "groups": True}}, "norm.groups: expected an integer, got true"),
    ({"norm": {"name": "btch"}}, f"norm.name: no norm is called 'btch', did you mean 'batch'? There are: {NORMS}"),
    ({"norm": "q"}, f"norm.name: no norm is called 'q'. There are: {NORMS}"),
    ({"norm": 3}, "norm: expected the name of a norm or a mapping with its fields, got 3"),
    ({"optim": None}, "optim: expected the name of an optimizer or a mapping with its fields, got null"),
    ({"norm": {1: 2}}, "norm[1]: expected a name as key, got 1"),
    ({"loss": {"label_smoothing": "0.1"}}, "loss.label_smoothing: expected a number, got '0.1', "
     "a string: leave out the quotes"),
    ({"epochs": "1_000"}, "epochs: expected an integer, got '1_000', a string: leave out the underscores"),
    ({"optim": {"lr": "inf"}}, "optim.lr: expected a number, got 'inf'"),
    ({"loss": {"label_smoothing": 1}}, "loss.label_smoothing: expected a number < 1, got 1"),
    ({"optim": {"lr": 0}}, "optim.lr: expected a positive number, got 0"),
    ({"optim": {"lr": float("inf")}}, "optim.lr: expected a finite number, got inf"),
    ({"optim": {"lr": 10**400}}, "optim.lr: expected a number, got a huge number"),
    ({"optim": {"weight_decay": -1e-3}}, "optim.weight_decay: expected a number >= 0, got -0.001"),
    ({"optim": {"nesterov": "no"}}, "optim.nesterov: expected true or false, got 'no', a string: write true or false"),
    ({"optim": {"nesterov": 1}}, "optim.nesterov: expected true or false, got 1"),
    ({"augment": {"crop_padding": -1}}, "augment.crop_padding: expected an integer >= 0, got -1"),
    ({"seed": 2**63}, f"seed: expected an integer < {2**63}, got {2**63}"),
    ({"data": {"name": "synthetic", "num_classes": 1}}, "data.num_classes: expected an integer >= 2, got 1"),
    ({"data": {"name": "mnist", "path": 3}}, "data.path: expected a string, got 3"),
    ({"data": {"name": "shards", "dataset": "b", "height": 8, "width": 8, "num_classes": 2, "bands": ["B02", "B03", "B02"]}},
     "data.bands: expected every band once, got 'B02' again; leave it out"),
    ({"model": {"widths": [8, "x"]}}, "model.widths[1]: expected an integer, got 'x'"),
    ({"model": {"widths": ["x"]}}, "model.widths[0]: expected an integer, got 'x'"),
    ({"model": {"widths": 8}}, "model.widths: expected a list, got 8"),
    ({"model": {"widths": []}}, "model.widths: expected at least 1 value, got []"),
    ({"model": {"widths": [1] * 7}}, "model.widths: expected at most 6 values, got [1, 1, 1, 1, 1, 1, 1]"),
    ({"model": "resnet21"}, "model.name: expected resnet{6n+2} (resnet8, resnet14, resnet20 ...), got resnet21; "
     "near it: resnet20"),
    ({"precision": "fp8"}, "precision: expected one of fp32, bf16, fp16, got 'fp8'"),
    ({"act": "rellu"}, "act: expected one of relu, leaky_relu, silu, gelu, tanh, none, got 'rellu', "
     "did you mean 'relu'?"),
    ({"act": 3}, "act: expected one of relu, leaky_relu, silu, gelu, tanh, none, got 3"),
    ({"schedule": "multistep"}, "schedule.milestones: a value is needed, there is no default"),
    ({"checkpoint": 3}, "checkpoint: expected a mapping, got 3"),
    ({"checkpoint": {"keep_bst": True}}, "checkpoint.keep_bst: unknown key 'keep_bst', did you mean 'keep_best'? "
     "allowed: every_epochs, every_steps, every_minutes, keep_best"),
    ({"schedule": {"warmup_epochs": 50}}, "schedule.warmup_epochs: expected at most the run's 10 epochs, got 50"),
    ({"epochs": 0}, "epochs: expected a positive integer, got 0"),
    ({"epochs": 3, "schedule": {"warmup_epochs": 3.5}},
     "schedule.warmup_epochs: expected at most the run's 3 epochs, got 3.5"),
    ({"epochs": 5, "schedule": {"name": "multistep", "milestones": [3, 5]}},
     "schedule.milestones: expected epochs before the run's end at 5, got 5"),
    ({"schedule": {"name": "multistep", "milestones": [5, 3]}},
     "schedule.milestones: expected ascending epochs, got [5, 3]"),
    ({"schedule": {"name": "two_level", "drop_at": 1}}, "schedule.drop_at: expected a number < 1, got 1"),
    ({"schedule": {"name": "plateau", "factor": 1}}, "schedule.factor: expected a number < 1, got 1"),
    ({"schedule": {"name": "plateau", "patience": -1}}, "schedule.patience: expected an integer >= 0, got -1"),
    ({"optim": {"ema_decay": 1}}, "optim.ema_decay: expected a number < 1, got 1"),
    ({"optim": {"clip_norm": 0}}, "optim.clip_norm: expected a positive number, got 0"),
    ({"optim": {"lr_batch_size": 0}}, "optim.lr_batch_size: expected a positive integer, got 0"),
    ({"optim": {"lr_factors": [{"parameters": "*"}]}},
     "optim.lr_factors[0].factor: a value is needed, there is no default"),
    ({"optim": {"lr_factors": [{"parameters": "*", "factor": 0}]}},
     "optim.lr_factors[0].factor: expected a positive number, got 0"),
    ({"optim": {"name": "muon", "ns_steps": 0}}, "optim.ns_steps: expected a positive integer, got 0"),
    ({"batch_size": 4, "optim": {"accumulate": 5}},
     "optim.accumulate: 5 micro-batches need at least as many images, but batch_size is 4"),
    ({"norm": {"name": "group", "groups": 2, "group_size": 2}},
     "norm: expected one of groups, group_size and p_grouping, got groups=2, group_size=2"),
    ({"norm": {"name": "group", "groups": None}},
     "norm: expected one of groups, group_size and p_grouping, got none of them"),
    ({"optim": {"lr_factors": [{"pattern": "head.*", "factor": 0.1}]}},
     "optim.lr_factors[0].parameters: a value is needed, there is no default\n"
     "optim.lr_factors[0].pattern: unknown key 'pattern', allowed: parameters, factor"),
    ({"optim": {"lr_factors": [{"parameters": "a", "factor": 1}, {"parameter": "b", "parameters": "b", "factor": 1}]}},
     "optim.lr_factors[1].parameter: unknown key 'parameter', did you mean 'parameters'? allowed: parameters, factor"),
]  # fmt: skip


@pytest.mark.parametrize(("mapping", "message"), MESSAGES, ids=[message.split(":")[0] for _, message in MESSAGES])
def test_messages(mapping, message):
    with pytest.raises(InputError) as caught:
        validate_run(mapping)
    assert str(caught.value) == message


def test_unknown_top_level_key():
    with pytest.raises(InputError) as caught:
        validate_run({"epoch": 3}, file="run.json")
    assert str(caught.value) == (
        "run.json: epoch: unknown key 'epoch', did you mean 'epochs'? allowed: data, model, norm, act, augment, loss, "
        "optim, schedule, epochs, batch_size, precision, seed, probes, checkpoint"
    )


def test_all_problems_at_once():
    with pytest.raises(InputError) as caught:
        validate_run(
            {"norm": {"name": "group", "groups": 0, "eps": -1}, "epochs": "x", "act": "rel"}, file="a/run.json"
        )
    assert str(caught.value) == (
        "a/run.json: norm.groups: expected a positive integer, got 0\n"
        "a/run.json: norm.eps: expected a positive number, got -1\n"
        "a/run.json: act: expected one of relu, leaky_relu, silu, gelu, tanh, none, got 'rel', did you mean 'relu'?\n"
        "a/run.json: epochs: expected an integer, got 'x'"
    )


def test_a_valid_run_is_returned():
    assert validate_run({"epochs": 3}).epochs == 3


def test_resources():
    with pytest.raises(ValidationError) as caught:
        Resources.model_validate({"nodes": 0, "minute": 3})
    assert [(finding.path, finding.message, finding.unknown_key) for finding in findings_of(caught.value, Resources)] == [
        (("nodes",), "expected a positive integer, got 0", False),
        (("minute",), "unknown key 'minute', did you mean 'minutes'? allowed: nodes, gpus_per_node, cpus_per_gpu, "
         "mem_gb_per_gpu, minutes, runs_per_job, runs_per_gpu, fuse", True),
    ]  # fmt: skip


def test_union_tags_are_no_part_of_the_path():
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate({"model": {"name": "convnet", "widths": [8, 0]}})
    assert [finding.path for finding in findings_of(caught.value, RunConfig)] == [("model", "widths", 1)]


def test_dotted_and_shown():
    assert dotted(("matrix", "norm", 2, "groups")) == "matrix.norm[2].groups"
    assert shown({"a": [None, True, 1.5, "x"], "b": {}}) == "{a: [null, true, 1.5, 'x'], b: {}}"
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
