"""Seeds of a cell trained together: each as alone, up to rounding, whatever befalls one of them."""

import errno
import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from support.norm_cases import ONE_OF_EACH, WRITTEN
from support.trainings import SMALL, TINY, StopAfter, events, metrics, new_run, warnings_told, weights
from torch import Tensor, nn

from normhpc import models
from normhpc.config import Resources
from normhpc.config import norm as configs
from normhpc.data import Batches
from normhpc.errors import BusyError, InputError
from normhpc.record import RecordWriter, read_status, read_summary
from normhpc.record.journal import read_journal
from normhpc.train import Interrupted, fused, loop, run, run_together, setup, training
from normhpc.train.checkpoint import read_checkpoint

SEEDS = 3
OF_WEIGHTS = (
    configs.WeightNorm(),
    configs.WeightStandardized(),
    configs.ScaledWeightStandardized(),
    configs.WeightCentering(),
)
RECIPES = {
    "sgd": {"optim": {"lr": 0.1, "nesterov": True, "lr_factors": [{"parameters": "*.bias", "factor": 2.0}]}},
    "adamw": {"optim": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}},
    "muon": {"optim": {"name": "muon", "lr": 0.02, "weight_decay": 0.01}},
    "limits": {"optim": {"lr": 0.1, "l1": 1e-3, "clip_norm": 0.5, "clip_adaptive": 0.05, "ema_decay": 0.8}},
    "accumulated": {"optim": {"lr": 0.1, "accumulate": 2}, "norm": "batch_renorm"},
    "plateau": {"schedule": {"name": "plateau", "patience": 0, "threshold": 0.5}, "epochs": 4},
    "mixed": {"augment": {"name": "standard", "mixup_alpha": 0.4, "cutmix_alpha": 1.0, "mix_probability": 0.5}},
    "nchw": {"model": {**TINY["model"], "channels_last": False}},
    "several_labels": {"data": {**TINY["data"], "multi_label": True}, "loss": "bce"},
    "residual": {"model": {"name": "resnet8", "width": 4, "residual": "skipinit"}},
}


@pytest.fixture
def in_float64(monkeypatch):
    """Rounding far below what a mistake would change."""
    build = models.build
    monkeypatch.setattr(models, "build", lambda config: build(config).double())
    monkeypatch.setattr(setup, "Batches", partial(Batches, dtype=torch.float64))
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def seeds(place, *changes, count=SEEDS, name="run"):
    """A run of each seed that nobody has started."""
    return [new_run(place / f"{name}{seed}", TINY, *changes, {"seed": seed}) for seed in range(count)]


def paths(folders):
    return [folder.path for folder in folders]


def state(folder):
    """Every tensor of the checkpoint that a run goes on from, by place in it."""

    def tensors(value, place):
        if isinstance(value, Tensor):
            yield place, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from tensors(item, f"{place}.{key}")

    shared = read_checkpoint(folder, folder.read_run().run_id)["shared"]
    return dict(tensors({name: value for name, value in shared.items() if name != "clock"}, ""))


def numbers(row):
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def assert_same(found, expected, tolerance):
    """The trainings came to the same weights, optimizer states and metrics, relative to the largest of each tensor."""
    ours, theirs = state(found), state(expected)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].stride()) == (value.dtype, value.stride())
        error = (ours[name].double() - value.double()).abs().max().item() if value.numel() else 0.0
        assert error <= tolerance * max(1.0, value.double().abs().max().item()), f"{name}: {error:.1e}"
    ours, theirs = metrics(found), metrics(expected)
    assert list(ours) == list(theirs)
    for row, values in theirs.items():
        assert numbers(ours[row]) == pytest.approx(numbers(values), rel=tolerance, abs=tolerance), row


def alone(folders):
    for folder in folders:
        run(folder.path)
    return folders


# ---- equal to the runs alone ----------------------------------------------------------------------------------------


def test_digits_in_single_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "_WIDEST_MAP", 2**62)
    lone = alone([new_run(tmp_path / f"lone{seed}", {"seed": seed}) for seed in range(SEEDS)])
    company = [new_run(tmp_path / f"run{seed}", {"seed": seed}) for seed in range(SEEDS)]
    summaries = run_together(paths(company))
    ids = [folder.read_run().run_id for folder in company]
    for found, expected, summary in zip(company, lone, summaries, strict=True):
        assert_same(found, expected, 1e-5)
        assert sorted(file.name for file in found.path.iterdir()) == sorted(
            file.name for file in expected.path.iterdir()
        )
        assert read_status(found).state == "finished"
        assert events(found) == ["started", "finished"]
        assert read_journal(found.events).rows[0]["trained_with"] == ids
        # a view of the stack would bring the networks of all seeds into the file of each
        assert found.checkpoint.stat().st_size == expected.checkpoint.stat().st_size
        ours, theirs = json.loads(found.summary.read_text()), json.loads(expected.summary.read_text())
        assert {key: ours[key] for key in summary} == summary
        assert ours["final"] == pytest.approx(theirs["final"], rel=1e-5)
        timed = {"seconds", "seconds_per_epoch", "images_per_second", "peak_memory_mb", "metrics", "final", "best"}
        timed |= {"share_seconds", "trained_together"}
        assert (ours["trained_together"], theirs["trained_together"]) == (SEEDS, 1)
        assert {key: ours[key] for key in ours if key not in timed} == {
            key: theirs[key] for key in theirs if key not in timed
        }


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("norm", [*ONE_OF_EACH, *WRITTEN, *OF_WEIGHTS], ids=repr)
def test_every_norm(tmp_path, norm):
    change = {"norm": norm.model_dump(mode="json"), "epochs": 1, "optim": {"lr": 0.01}}
    lone = alone(seeds(tmp_path, change, count=2, name="lone"))
    company = seeds(tmp_path, change, count=2)
    run_together(paths(company))
    for found, expected in zip(company, lone, strict=True):
        assert warnings_told(found) == warnings_told(expected) == []
        assert_same(found, expected, 1e-10)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(tmp_path, recipe):
    lone = alone(seeds(tmp_path, RECIPES[recipe], name="lone"))
    company = seeds(tmp_path, RECIPES[recipe])
    run_together(paths(company))
    for found, expected in zip(company, lone, strict=True):
        assert warnings_told(found) == []
        assert_same(found, expected, 1e-10)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_low_precision(tmp_path, precision, tolerance):
    change = {"precision": precision, "act": "silu", "epochs": 1, "optim": {"lr": 0.01}}
    lone = alone(seeds(tmp_path, change, name="lone"))
    company = seeds(tmp_path, change)
    run_together(paths(company))
    for found, expected in zip(company, lone, strict=True):
        assert warnings_told(found) == []
        ours, theirs = weights(found), weights(expected)
        for name, value in theirs.items():
            assert (ours[name] - value).abs().max() <= tolerance * max(1.0, value.abs().max()), name
        scales = [read_checkpoint(folder, folder.read_run().run_id)["shared"]["scaler"] for folder in (found, expected)]
        assert scales[0] == scales[1]


# ---- stopped, resumed, brought level --------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("steps", [2, 4, 5])
def test_stopped_together_and_gone_on_with_alone(tmp_path, steps):
    lone = alone(seeds(tmp_path, name="lone"))
    company = seeds(tmp_path)
    with pytest.raises(Interrupted):
        run_together(paths(company), StopAfter(steps + 1 if steps >= 4 else steps))
    for found, expected in zip(company, lone, strict=True):
        assert events(found) == ["started", "preempted"]
        run(found.path)
        assert events(found) == ["started", "preempted", "resumed", "finished"]
        assert_same(found, expected, 1e-10)


@pytest.mark.usefixtures("in_float64")
def test_all_stop_at_the_same_step(tmp_path):
    company = seeds(tmp_path)
    with pytest.raises(Interrupted) as raised:
        run_together(paths(company), StopAfter(3))
    told = [read_journal(folder.events).rows[-1] for folder in company]
    assert len({(row["epoch"], row["step"]) for row in told}) == 1
    place = f"epoch {told[0]['epoch']}, step {told[0]['step']}"
    assert str(raised.value) == f"stopped at {place} (test); the run is saved"


@pytest.mark.usefixtures("in_float64")
def test_those_behind_are_brought_level_first(tmp_path, monkeypatch):
    lone = alone(seeds(tmp_path, name="lone"))
    company = seeds(tmp_path)
    for folder, steps in zip(company[1:], (2, 6), strict=True):
        with pytest.raises(Interrupted):
            run(folder.path, StopAfter(steps))
    steps_of = []
    step = fused.gradients_together

    def noted(stack, trainings, rows):
        position = trainings[0].state.position
        steps_of.append((position.epoch, position.step, [training.config.seed for training in trainings]))
        step(stack, trainings, rows)

    monkeypatch.setattr(fused, "gradients_together", noted)
    begun = [read_journal(folder.events).rows[-1] for folder in company[1:]]
    places = [4 * row["epoch"] + row["step"] for row in begun]
    run_together(paths(company))
    two, three = places
    expected = [(at // 4, at % 4, [0, 1] if at < three else [0, 1, 2]) for at in range(two, 8)]
    assert steps_of == expected
    for found, other in zip(company, lone, strict=True):
        assert_same(found, other, 1e-10)


class Watch:
    """A clock that only evaluations and steps move, by 7 s and 3 s."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(training.time, "monotonic", lambda: self.now)
        for module, name, seconds in (
            (fused, "gradients_together", 3.0),
            (loop, "train_step", 3.0),
            (loop, "evaluate", 7.0),
            (loop, "assess", 7.0),
        ):
            monkeypatch.setattr(module, name, self._taking(seconds, getattr(module, name)))

    def _taking(self, seconds, function):
        def taken(*given, **named):
            self.now += seconds
            return function(*given, **named)

        return taken


def test_the_time_of_the_process_is_shared_out(tmp_path, monkeypatch):
    """Of three runs one has gone 2 of its 8 steps alone, and all are tested one after another."""
    company = seeds(tmp_path)
    watch = Watch(monkeypatch)
    with pytest.raises(Interrupted):
        run_together(paths(company[:1]), StopAfter(3))
    alone, watch.now = watch.now - 100, 1000.0
    assert alone == 2 * 3
    summaries = run_together(paths(company))
    two, three = 2 * 3, 6 * 3 + 2 * 3 * 7  # steps, and three evaluations after each of two epochs
    shares = [alone + three / 3 + 7 / 3, two / 2 + three / 3 + 7 / 3 + 7 / 2]
    shares.append(shares[1] + 7)
    assert [summary["share_seconds"] for summary in summaries] == pytest.approx(shares, rel=1e-12)
    assert [summary["seconds"] for summary in summaries] == [
        alone + three + 7, two + three + 2 * 7, two + three + 3 * 7,
    ]  # fmt: skip
    assert sum(shares) == pytest.approx(alone + watch.now - 1000, rel=1e-12)
    assert [summary["trained_together"] for summary in summaries] == [3, 3, 3]


def test_runs_that_cannot_go_together_have_all_of_their_time(tmp_path, monkeypatch):
    company = seeds(tmp_path, {"probes": "layers"}, count=2)
    watch = Watch(monkeypatch)
    summaries = run_together(paths(company))
    expected = 8 * 3 + 2 * 7 + 7
    assert [summary["seconds"] for summary in summaries] == [expected, expected]
    assert [summary["share_seconds"] for summary in summaries] == [expected, expected]
    assert [summary["trained_together"] for summary in summaries] == [1, 1]
    assert watch.now == 100 + 2 * expected


def test_sealed_ones_are_left_alone(tmp_path):
    company = seeds(tmp_path)
    run(company[1].path)
    before = company[1].summary.read_bytes()
    summaries = run_together(paths(company))
    assert [summary["run_id"] for summary in summaries] == [folder.read_run().run_id for folder in company]
    assert company[1].summary.read_bytes() == before
    assert events(company[1]) == ["started", "finished"]
    assert read_journal(company[0].events).rows[0]["trained_with"] == [
        company[seed].read_run().run_id for seed in (0, 2)
    ]


# ---- one of them goes wrong -----------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(monkeypatch):
    """Seed 1 has no number for a weight any more after three updates."""
    build = training.build_state

    def spoiling(config, world):
        built = build(config, world)
        if config.seed == 1:
            updates = []

            def spoil():
                updates.append(None)
                if len(updates) == 3:
                    with torch.no_grad():
                        next(built.model.parameters()).fill_(torch.nan)

            built.post_steps = (*built.post_steps, spoil)
        return built

    monkeypatch.setattr(training, "build_state", spoiling)


@pytest.mark.usefixtures("in_float64", "spoiled")
@pytest.mark.parametrize("count", [2, 3])
def test_one_diverges_and_the_others_go_on(tmp_path, count):
    lone = alone(seeds(tmp_path, count=count, name="lone"))
    company = seeds(tmp_path, count=count)
    run_together(paths(company))
    states = [read_status(folder).state for folder in company]
    assert states == ["finished", "diverged", "finished"][:count]
    ours, theirs = (read_summary(folders[1]) for folders in (company, lone))
    kept = ("state", "diverged_at_step", "final", "best", "epochs", "steps")
    assert {key: ours[key] for key in kept} == {key: theirs[key] for key in kept}
    assert ours["diverged_at_step"] == 3
    assert events(company[1]) == events(lone[1]) == ["started", "warning", "diverged"]
    for seed in range(count):
        if seed != 1:
            assert_same(company[seed], lone[seed], 1e-10)


@pytest.mark.usefixtures("in_float64")
def test_one_fails_and_the_others_go_on(tmp_path, monkeypatch):
    lone = alone(seeds(tmp_path, name="lone"))
    end = fused.end_epoch

    def failing(training):
        if training.config.seed == 0:
            raise ValueError("no good")
        end(training)

    monkeypatch.setattr(fused, "end_epoch", failing)
    company = seeds(tmp_path)
    with pytest.raises(ValueError, match="no good"):
        run_together(paths(company))
    assert [events(folder)[-1] for folder in company] == ["failed", "finished", "finished"]
    failed = read_journal(company[0].events).rows[-1]
    assert (failed["class"], failed["message"]) == ("ValueError", "no good")
    assert not company[0].is_held()
    for seed in (1, 2):
        assert_same(company[seed], lone[seed], 1e-10)


def test_one_that_cannot_begin(tmp_path, monkeypatch):
    prepare = fused.prepare

    def failing(folder, info, *rest, **named):
        if info.config.seed == 0:
            raise MemoryError("too large")
        return prepare(folder, info, *rest, **named)

    monkeypatch.setattr(fused, "prepare", failing)
    company = seeds(tmp_path)
    with pytest.raises(MemoryError):
        run_together(paths(company))
    assert [events(folder)[-1] for folder in company] == ["failed", "finished", "finished"]


def test_a_step_that_fails_fails_all(tmp_path, monkeypatch):
    def failing(stack, trainings, rows):
        raise RuntimeError("out of order")

    monkeypatch.setattr(fused, "gradients_together", failing)
    company = seeds(tmp_path)
    with pytest.raises(RuntimeError, match="out of order"):
        run_together(paths(company))
    assert [events(folder)[-1] for folder in company] == ["failed"] * 3


def test_one_that_another_process_trains(tmp_path):
    company = seeds(tmp_path)
    with company[2].held_for_training(), pytest.raises(BusyError) as raised:
        run_together(paths(company))
    assert str(raised.value) == f"{company[2].path}: this run is being trained by another process"
    assert [events(folder) for folder in company] == [["started", "finished"], ["started", "finished"], []]


# ---- a disk that takes no more --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("spoiled")
def test_a_seal_that_cannot_be_written_fails_its_run_alone(tmp_path, monkeypatch):
    seal = RecordWriter.seal

    def full(writer, summary):
        if summary["state"] == "diverged":
            raise OSError(errno.ENOSPC, "No space left on device")
        seal(writer, summary)

    monkeypatch.setattr(RecordWriter, "seal", full)
    company = seeds(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        run_together(paths(company))
    assert [events(folder)[-1] for folder in company] == ["finished", "failed", "finished"]


def test_a_reason_that_cannot_be_written_stops_nobody(tmp_path, monkeypatch, capsys):
    event = RecordWriter.event

    def full(writer, kind, **details):
        if kind == "warning":
            raise OSError(errno.ENOSPC, "No space left on device")
        event(writer, kind, **details)

    monkeypatch.setattr(RecordWriter, "event", full)
    company = seeds(tmp_path, {"probes": "layers"}, count=2)
    run_together(paths(company))
    assert [events(folder) for folder in company] == [["started", "finished"]] * 2
    assert "not trained together: probes measure the layers of one network\n" in capsys.readouterr().out


def test_those_that_were_only_not_sealed_are_not_tried(tmp_path, monkeypatch):
    """Killed between the last checkpoint and the summary: the test is all that is left."""
    company = seeds(tmp_path, {"probes": "layers"})
    run_together(paths(company))
    told = [warnings_told(folder) for folder in company]
    for folder in company:
        folder.summary.unlink()
    monkeypatch.setattr(fused, "refusal", None)
    run_together(paths(company))
    assert [warnings_told(folder) for folder in company] == told
    assert [read_status(folder).state for folder in company] == ["finished"] * 3


# ---- what is not trained together -----------------------------------------------------------------------------------


class Branching(nn.Module):
    """Asks for a value on its way."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(128, 7)

    def forward(self, x):
        y = self.linear(x.flatten(1))
        return y if y.sum() > 0 else y * 2


class Forgetful(nn.Module):
    """Replaces a buffer in place of moving it, which nobody outside of a pass sees."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(128, 7)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + 1
        return self.linear(x.flatten(1))


class Uncopied(nn.Module):
    """Holds what copy.deepcopy refuses, which is tried before anything is stacked."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(128, 7)
        self.doubled = 2 * self.linear.bias

    def forward(self, x):
        return self.linear(x.flatten(1))


DROPOUT = {"model": {"name": "mnist_model5"}, "data": "digits", "batch_size": 256, "epochs": 1}
WIDE = {"model": {"name": "convnet", "widths": [8, 4]}, "batch_size": 64, "data": "digits", "epochs": 1}
"""A micro-batch is 64 maps of 8 channels of 8 x 8: 32,768 values, the most that a processor takes together."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (DROPOUT, "dropout would draw other numbers than alone"),
        ({"probes": {"name": "layers"}}, "probes measure the layers of one network"),
        (
            {**WIDE, "batch_size": 65},
            "on a processor networks with maps of 33280 values are faster one after another (over 32768)",
        ),
    ],
)
def test_trained_one_after_another_for_a_reason(tmp_path, capsys, change, reason):
    lone = alone(seeds(tmp_path, change, count=2, name="lone"))
    company = seeds(tmp_path, change, count=2)
    capsys.readouterr()
    run_together(paths(company))
    assert f"not trained together: {reason}\n" in capsys.readouterr().out
    for found, expected in zip(company, lone, strict=True):
        assert warnings_told(found) == [f"not trained together with the other seeds: {reason}"]
        assert events(found) == ["started", "warning", "finished"]
        assert_same(found, expected, 0.0)
    first, second = (read_journal(folder.metrics).rows for folder in company)
    assert max(row["time"] for row in first) <= min(row["time"] for row in second)


@pytest.mark.parametrize("change", [{}, {"batch_size": 128, "optim": {"lr": 0.1, "accumulate": 2}}])
def test_the_widest_maps_that_a_processor_takes_together(tmp_path, change):
    company = seeds(tmp_path, WIDE, change, count=2)
    run_together(paths(company))
    for found in company:
        assert events(found) == ["started", "finished"]
        assert read_summary(found)["trained_together"] == 2


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching, "RuntimeError: vmap: It looks like you're attempting to use a Tensor in some data-dependent"),
        (Forgetful, "running statistics are 1.0e+00 apart from those of the network alone"),
        (Uncopied, "RuntimeError: Only Tensors created explicitly by the user (graph leaves) support the deepcopy"),
    ],
)
def test_networks_that_are_not_made_for_it(tmp_path, monkeypatch, network, reason):
    monkeypatch.setattr(models, "build", lambda config: network())
    change = {"epochs": 1}
    lone = alone(seeds(tmp_path, change, count=2, name="lone"))
    company = seeds(tmp_path, change, count=2)
    run_together(paths(company))
    for found, expected in zip(company, lone, strict=True):
        (told,) = warnings_told(found)
        assert told.startswith(f"not trained together with the other seeds: {reason}")
        assert_same(found, expected, 0.0)


class Cut(nn.Module):
    """Its weights are a cut of a larger tensor; all values of its buffer may be one."""

    def __init__(self, expanded):
        super().__init__()
        self.linear = nn.Linear(128, 7)
        self.linear.weight = nn.Parameter(self.linear.weight.detach().repeat(1, 2)[:, :128])
        self.register_buffer("scale", torch.ones(1).expand(7) if expanded else torch.ones(7))

    def forward(self, x):
        return self.linear(x.flatten(1)) * self.scale


@pytest.mark.parametrize(
    ("expanded", "reason"), [(False, None), (True, "RuntimeError: unsupported operation: more than one element")]
)
def test_networks_whose_tensors_are_parts_of_others(tmp_path, monkeypatch, expanded, reason):
    monkeypatch.setattr(models, "build", lambda config: Cut(expanded))
    lone = alone(seeds(tmp_path, name="lone"))
    company = seeds(tmp_path)
    run_together(paths(company))
    for found, expected in zip(company, lone, strict=True):
        told = warnings_told(found)
        assert [reason in message for message in told] == ([] if reason is None else [True])
        ours, theirs = weights(found), weights(expected)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_compiled_networks_and_slow_operations(tmp_path, monkeypatch):
    company = [
        training.prepare(folder, folder.read_run(), setup.World(0, 1, torch.device("cpu")), fused.StopRequest(), None)
        for folder in seeds(tmp_path, count=2)
    ]
    config = company[0].config
    assert fused.refusal(company) is None
    monkeypatch.setattr(fused, "_SLOW_PATH", "Slow: ")
    call = fused.Stack.__call__

    def slow(self, images):
        import warnings

        warnings.warn("Slow: aten::attention. Please file us an issue.", UserWarning, stacklevel=1)
        return call(self, images)

    monkeypatch.setattr(fused.Stack, "__call__", slow)
    assert fused.refusal(company) == "torch takes aten::attention of one network after the other"
    company[0].config = config.model_copy(update={"model": config.model.model_copy(update={"compile": True})})
    assert fused.refusal(company) == "model.compile: true compiles each network for itself"


def test_wrong_gradients_are_found(tmp_path, monkeypatch):
    call = fused.Stack.__call__
    monkeypatch.setattr(fused.Stack, "__call__", lambda self, images: call(self, images) * 1.1)
    company = seeds(tmp_path, {"epochs": 1}, count=2)
    run_together(paths(company))
    (told,) = warnings_told(company[0])
    assert told.endswith("apart from those of the network alone")
    assert "gradients are" in told


def test_other_cells_are_refused(tmp_path):
    first, second = new_run(tmp_path / "a", TINY), new_run(tmp_path / "b", TINY, {"norm": "layer", "epochs": 3})
    with pytest.raises(InputError) as raised:
        run_together([first.path, second.path])
    assert str(raised.value) == (
        f"{second.run_json}: expected the configuration of {first.path} but for the seed, got another in norm, epochs; "
        "train the runs one by one"
    )
    threads = new_run(tmp_path / "c", TINY, {"seed": 1}, resources=Resources(cpus_per_gpu=2))
    with pytest.raises(InputError, match="got another in cpus_per_gpu"):
        run_together([first.path, threads.path])
    with pytest.raises(InputError) as raised:
        run_together([first.path, first.path])
    assert str(raised.value) == "expected every run once, got one of them twice; leave it out"
    assert not first.events.exists()


def test_several_ranks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError) as raised:
        run_together(paths(seeds(tmp_path)))
    assert str(raised.value) == "expected one rank for several runs, got WORLD_SIZE=2; train the runs one by one"


def test_no_algebra_system_is_imported(tmp_path):
    """It would be seconds of every process."""
    program = "import sys; from normhpc.train import run_together; run_together(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, *paths(seeds(tmp_path, SMALL, count=2))],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "normhpc.train.fused" in loaded
    assert {"torch._dynamo", "torch._inductor", "sympy"} & loaded == set()
