"""Memory that is not enough for runs together: each goes on alone from where it is, to the bit."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from support.trainings import TINY, StopAfter, events, metrics, new_run, outcome, warnings_told

from normhpc.errors import InputError
from normhpc.record import read_status, read_summary
from normhpc.record.journal import read_journal
from normhpc.train import Interrupted, fused, loop, memory, run, run_together
from normhpc.train.checkpoint import read_checkpoint

RECIPES = {
    "sgd": {"optim": {"lr": 0.1}},
    "accumulated": {"optim": {"name": "adamw", "lr": 0.01, "accumulate": 2, "ema_decay": 0.8}, "norm": "batch_renorm"},
    "muon": {"optim": {"name": "muon", "lr": 0.02, "clip_norm": 0.5}},
    "fp16": {"precision": "fp16", "act": "silu", "optim": {"lr": 0.01}},
    "mixed": {"augment": {"name": "standard", "mixup_alpha": 0.4}, "checkpoint": {"every_steps": 2}},
}
ERRORS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more"),
    "python": MemoryError(),
    "processor": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 100663296 bytes. Error code 12 (Cannot allocate memory)"
    ),
}
TOLD = {
    "gpu": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "python": "MemoryError",
    "processor": f"RuntimeError: {ERRORS['processor']}",
}


def reason(kind="gpu"):
    return f"memory is not enough for all at once ({TOLD[kind]})"


def seeds(place, *changes, count=3, name="run"):
    return [new_run(place / f"{name}{seed}", TINY, *changes, {"seed": seed}) for seed in range(count)]


def paths(folders):
    return [folder.path for folder in folders]


class Full:
    """A device on which the stack's pass number ``at``, counted from 0, has not enough memory in its ``part``."""

    def __init__(self, monkeypatch, at, part="forward", error=None):
        self.passes = 0
        self._at, self._part, self._error = at, part, error or ERRORS["gpu"]
        self._call = fused.Stack.__call__
        self.held = []
        """What a failed pass has made."""
        monkeypatch.setattr(fused.Stack, "__call__", lambda stack, images: self._pass(stack, images))

    def _pass(self, stack, images):
        logits = self._call(stack, images)  # moves the buffers
        self.passes += 1
        if self.passes - 1 != self._at:
            return logits
        self.held.append(weakref.ref(logits))
        if self._part == "forward":
            self._refuse()
        logits.register_hook(self._refuse)
        return logits

    def _refuse(self, gradient=None):
        raise type(self._error)(*self._error.args)  # a new one, which nobody else holds


def continued_alone(place, changes, steps, count=3):
    """What runs come to that go ``steps`` steps together, are stopped there, and go on one by one."""
    company = seeds(place, changes, count=count, name="stopped")
    with pytest.raises(Interrupted):
        run_together(paths(company), StopAfter(steps + 1))
    assert {read_journal(folder.events).rows[-1]["event"] for folder in company} == {"preempted"}
    for folder in company:
        run(folder.path)
    return company


# ---- the first batch, tried both ways -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_the_first_batch(tmp_path, monkeypatch, capsys, part, kind):
    lone = seeds(tmp_path, name="lone")
    for folder in lone:
        run(folder.path)
    company = seeds(tmp_path)
    Full(monkeypatch, 0, part, ERRORS[kind])
    capsys.readouterr()
    run_together(paths(company))
    assert f"not trained together: {reason(kind)}\n" in capsys.readouterr().out
    for found, expected in zip(company, lone, strict=True):
        assert outcome(found) == outcome(expected)
        assert warnings_told(found) == [f"not trained together with the other seeds: {reason(kind)}"]
        assert events(found) == ["started", "warning", "finished"]
        assert read_summary(found)["trained_together"] == 1


@pytest.mark.parametrize("made", [0, 1, 5])
def test_the_stack_itself(tmp_path, monkeypatch, made):
    """Some of the weights lie in it already."""
    lone = seeds(tmp_path, name="lone")
    for folder in lone:
        run(folder.path)
    stacked, made_by = fused.stacked_as_is, []

    def refusing(parts):
        made_by.append(None)
        if len(made_by) > made:
            raise ERRORS["gpu"]
        return stacked(parts)

    monkeypatch.setattr("normhpc.train.stack.stacked_as_is", refusing)
    company = seeds(tmp_path)
    run_together(paths(company))
    for found, expected in zip(company, lone, strict=True):
        assert outcome(found) == outcome(expected)
        assert warnings_told(found) == [f"not trained together with the other seeds: {reason()}"]


# ---- a later step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("steps", "part"), [(0, "forward"), (3, "backward"), (4, "forward"), (5, "backward")])
def test_a_later_step(tmp_path, monkeypatch, capsys, recipe, steps, part):
    changes = RECIPES[recipe]
    pieces = changes.get("optim", {}).get("accumulate", 1)
    expected = continued_alone(tmp_path, changes, steps) if steps else seeds(tmp_path, changes, name="lone")
    if not steps:
        for folder in expected:
            run(folder.path)
    company = seeds(tmp_path, changes)
    # the first pass of all is the one that is tried; the last one of the step fails
    Full(monkeypatch, 1 + pieces * steps + pieces - 1, part)
    capsys.readouterr()
    summaries = run_together(paths(company))
    assert f"\nno longer trained together: {reason()}\n" in f"\n{capsys.readouterr().out}"
    for found, other in zip(company, expected, strict=True):
        assert outcome(found) == outcome(other)
        (told,) = [row for row in read_journal(found.events).rows if row["event"] == "warning"]
        assert told["message"] == f"no longer trained together with the other seeds: {reason()}"
        assert (told["epoch"], told["step"]) == divmod(steps, 4)
        assert events(found) == ["started", "warning", "finished"]
    assert [summary["trained_together"] for summary in summaries] == [3 if steps else 1] * 3


def test_runs_that_wait_count_no_time_of_training(tmp_path, monkeypatch):
    """The first one after another takes 10 s a step; only its own are its training time."""
    now = [100.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    step, together = fused.step_alone, fused.gradients_together

    def alone(*given):
        now[0] += 10.0
        step(*given)

    def all_at_once(*given):
        now[0] += 1.0
        together(*given)

    monkeypatch.setattr(fused, "step_alone", alone)
    monkeypatch.setattr(fused, "gradients_together", all_at_once)
    Full(monkeypatch, 3)
    summaries = run_together(paths(seeds(tmp_path)))
    # three steps together, of which one failed, and six of eight alone, over two epochs
    assert [summary["seconds_per_epoch"] for summary in summaries] == [(3 * 1 + 6 * 10) / 2] * 3
    # the second epoch of each, alone
    assert [summary["images_per_second"] for summary in summaries] == [36 / 40] * 3


def test_what_the_failed_pass_held_is_free(tmp_path, monkeypatch):
    """Without a collector of garbage: the next steps need the memory."""
    held = []
    for part, at in (("forward", 0), ("backward", 0), ("forward", 2), ("backward", 2)):
        with monkeypatch.context() as patched:
            full = Full(patched, at, part, torch.OutOfMemoryError("full"))
            patched.setattr(memory.gc, "collect", lambda: 0)
            alone = fused.step_alone

            def looking(*given, full=full, alone=alone):
                held.append([tensor() for tensor in full.held])
                alone(*given)

            patched.setattr(fused, "step_alone", looking)
            gc.disable()
            try:
                run_together(paths(seeds(tmp_path, name=f"{part}{at}")))
            finally:
                gc.enable()
    assert held
    assert [tensors for tensors in held if tensors != [None]] == []


def test_a_lone_step_that_lacks_memory_fails_its_run_alone_and_holds_nothing(tmp_path, monkeypatch):
    company = seeds(tmp_path, {"probes": "layers"})
    alone, held, seen = fused.step_alone, [], []

    def full(training, rows):
        if training.config.seed == 0:
            graph = torch.ones(3, requires_grad=True) * 2
            held.append(weakref.ref(graph))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        seen.append(held[0]())
        alone(training, rows)

    monkeypatch.setattr(fused, "step_alone", full)
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\."):
        run_together(paths(company))
    assert [read_status(folder).state for folder in company] == ["failed", "finished", "finished"]
    assert "in full" in read_journal(company[0].events).rows[-1]["traceback"]
    assert set(seen) == {None}


# ---- an update ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [None, 2])
def test_an_update_half_done(tmp_path, monkeypatch, every):
    """Seed 1 has moved some weights: it goes on from its checkpoint, the others from where they are."""
    changes = {"optim": {"name": "adamw", "lr": 0.01}, "checkpoint": {"every_steps": every}}
    expected = continued_alone(tmp_path, changes, 4)
    lone = seeds(tmp_path, changes, name="lone")
    run(lone[1].path)
    update, updates = fused.end_update, []

    def full(state):
        updates.append(None)
        if len(updates) == 3 * 3 + 2:  # the second run at the fourth step
            with torch.no_grad():
                next(state.model.parameters()).fill_(7.0)
            raise ERRORS["gpu"]
        update(state)

    monkeypatch.setattr(fused, "end_update", full)
    company = seeds(tmp_path, changes)
    run_together(paths(company))
    told = [read_journal(folder.events).rows for folder in company]
    assert [row["event"] for row in told[0]] == ["started", "warning", "finished"]
    again = "started" if every is None else "resumed"
    assert [row["event"] for row in told[1]] == ["started", "warning", again, "finished"]
    assert (told[1][2]["epoch"], told[1][2]["step"]) == (0, every or 0)
    assert "trained_with" not in told[1][2]
    for seed in (0, 2):
        assert outcome(company[seed]) == outcome(expected[seed])
    if every is None:
        assert outcome(company[1]) == outcome(lone[1])
    assert read_summary(company[1])["state"] == "finished"
    assert warnings_told(company[1]) == [f"no longer trained together with the other seeds: {reason()}"]


def test_an_update_that_fails_otherwise_fails_its_run_alone(tmp_path, monkeypatch):
    expected = seeds(tmp_path, name="whole")
    run_together(paths(expected))
    update, updates = fused.end_update, []

    def failing(state):
        updates.append(None)
        if len(updates) == 2:
            raise ValueError("no good")
        update(state)

    monkeypatch.setattr(fused, "end_update", failing)
    company = seeds(tmp_path)
    with pytest.raises(ValueError, match="no good"):
        run_together(paths(company))
    assert [events(folder)[-1] for folder in company] == ["finished", "failed", "finished"]
    for seed in (0, 2):
        ours, theirs = metrics(company[seed]), metrics(expected[seed])
        assert list(ours) == list(theirs)
        assert [row["loss"] for row in ours.values()] == pytest.approx([row["loss"] for row in theirs.values()], 1e-4)


# ---- together with what else may happen -----------------------------------------------------------------------------


def test_stopped_at_the_same_step_and_launched_again(tmp_path, monkeypatch):
    """Each takes one step alone and saves itself; the next launch brings them level and goes on together."""
    expected = continued_alone(tmp_path, {}, 2)
    company = seeds(tmp_path)
    with monkeypatch.context() as patched:
        full = Full(patched, 3)
        request = fused.StopRequest()
        refuse = full._call

        def stopping(stack, images):
            if full.passes == 3:
                request.reason = "test"
            return refuse(stack, images)

        full._call = stopping
        with pytest.raises(Interrupted, match=r"stopped at epoch 0, step 3 \(test\); the run is saved"):
            run_together(paths(company), request)
    for folder in company:
        assert events(folder) == ["started", "warning", "preempted"]
        shared = read_checkpoint(folder, folder.read_run().run_id)["shared"]
        assert (shared["position"]["epoch"], shared["position"]["step"]) == (0, 3)
    summaries = run_together(paths(company))
    assert [summary["trained_together"] for summary in summaries] == [3, 3, 3]
    for found, other in zip(company, expected, strict=True):
        assert events(found) == ["started", "warning", "preempted", "resumed", "finished"]
        ours, theirs = metrics(found), metrics(other)
        assert list(ours) == list(theirs)
        assert [row["loss"] for row in ours.values()] == pytest.approx([row["loss"] for row in theirs.values()], 1e-4)


def test_one_has_diverged_at_the_same_step(tmp_path, monkeypatch):
    """Its loss is no number before the others lack memory: it is sealed, and they go on."""
    expected = continued_alone(tmp_path, {}, 4)
    company = seeds(tmp_path)
    update, updates = fused.end_update, []

    def spoiling(state):
        update(state)
        updates.append(None)
        if len(updates) == 3 * 3 + 2:
            with torch.no_grad():
                next(state.model.parameters()).fill_(torch.nan)

    monkeypatch.setattr(fused, "end_update", spoiling)
    Full(monkeypatch, 1 + 4)
    run_together(paths(company))
    assert [read_status(folder).state for folder in company] == ["finished", "diverged", "finished"]
    assert read_summary(company[1])["diverged_at_step"] == 4
    for seed in (0, 2):
        assert outcome(company[seed]) == outcome(expected[seed])


# ---- a process whose memory really is not enough --------------------------------------------------------------------

PROGRAM = """
import resource, sys
from pathlib import Path
from normhpc.train import fused, run_together
fused._WIDEST_MAP = 2**62
if sys.argv[1] == "untried":
    fused.refusal = lambda trainings: None
# before a tensor is made, since what a process has once it keeps: room for three networks, not for six
now = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (now + int(0.35 * 2**30),) * 2)
run_together(sys.argv[2:])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of a process as Linux tells it")
@pytest.mark.parametrize(
    ("way", "told"),
    [("tried", "not trained together"), ("untried", "no longer trained together")],
)
def test_a_process_with_a_limit(tmp_path, way, told):
    """100 MB and more for each network; the first step is the one that is tried, or the first in earnest."""
    large = {
        "data": {**TINY["data"], "images": 64, "channels": 3, "height": 64, "width": 64, "val_fraction": 0.0},
        "model": {"name": "convnet", "widths": [32, 8]},
        "batch_size": 32,
        "epochs": 1,
    }
    lone = seeds(tmp_path, large, count=6, name="lone")
    for folder in (lone[0], lone[5]):
        run(folder.path)
    company = seeds(tmp_path, large, count=6)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, way, *paths(company)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for found in company:
        (message,) = warnings_told(found)
        assert message.startswith(
            f"{told} with the other seeds: memory is not enough for all at once (RuntimeError: [enforce fail at"
        )
        assert "DefaultCPUAllocator: can't allocate memory" in message
        assert events(found) == ["started", "warning", "finished"]
    for seed in (0, 5):
        assert outcome(company[seed]) == outcome(lone[seed])


# ---- what an error says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ERRORS)
def test_what_is_told(kind):
    assert memory.lack_of_memory(ERRORS[kind]) == reason(kind)


def test_memory_that_the_driver_lacks():
    """For a kernel that it loads when it is called first: no OutOfMemoryError of torch."""
    error = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
    told = "memory is not enough for all at once (RuntimeError: CUDA error: out of memory)"
    assert memory.lack_of_memory(error) == told


@pytest.mark.parametrize("error", [RuntimeError("out of order"), InputError("std::bad_alloc"), ValueError("memory")])
def test_other_errors(error):
    assert memory.lack_of_memory(error) is None
