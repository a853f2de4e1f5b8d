"""Checkpoints: whole or absent, checked before use, and all that a run needs."""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import subprocess
import zipfile

import pytest
import torch
from support.steps import ALONE, ready
from support.trainings import TINY, StopAfter, events, new_run, outcome, warnings_told

from normhpc.errors import CheckpointError
from normhpc.launch.worker import run_rank
from normhpc.train import Interrupted, run
from normhpc.train import checkpoint as checkpoint_module
from normhpc.train.checkpoint import digest, load_checkpoint, read_checkpoint, save_checkpoint
from normhpc.train.step import train_step

OPTIMIZERS = [{"name": "sgd", "lr": 0.1}, {"name": "adam"}, {"name": "adamw"}]
SHARES = [9]


def trained(**changes):
    config, state, batches = ready(**changes)
    for step in range(3):
        rows = torch.arange(step * 9, step * 9 + 9).numpy()
        train_step(state, batches, rows, config, ALONE, updates_per_epoch=4)
    return config, state


@pytest.fixture
def saved(tmp_path):
    """A run with a checkpoint in the middle of its first epoch."""
    folder = new_run(tmp_path / "run", TINY, {"optim": {"name": "adamw"}})
    with pytest.raises(Interrupted):
        run(folder.path, StopAfter(2))
    return folder


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder, folder.read_run().run_id)
    return str(caught.value)


@pytest.mark.parametrize("optim", OPTIMIZERS, ids=lambda optim: optim["name"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_state_comes_back(tmp_path, optim, precision):
    folder = new_run(tmp_path / "run", TINY, {"optim": optim, "precision": precision})
    run_id = folder.read_run().run_id
    _, state = trained(optim=optim, precision=precision)
    state.position.best = {"epoch": 1, "val_top1": 0.5, "val_loss": float("nan")}
    state.position.final = {"val_top1": 0.25}
    state.clock.seconds, state.clock.steady_images = 12.5, 640
    state.first_bad_step = 2
    save_checkpoint(folder, run_id, "d1", state, ALONE)
    _, fresh, _ = ready(optim=optim, precision=precision, seed=1)
    assert digest(fresh.shared()) != digest(state.shared())
    assert load_checkpoint(folder, run_id, "d1", fresh, ALONE, SHARES)
    for name, value in state.shared().items():
        assert digest(fresh.shared()[name]) == digest(value), name
    assert fresh.sums == state.sums
    assert state.sums.images == 27
    assert fresh.first_bad_step == 2
    assert fresh.optimizer.state_dict()["state"]
    assert (fresh.scaler.state_dict() == {}) == (precision == "fp32")
    # the parameters are still those that the optimizer moves
    assert {id(p) for p in fresh.model.parameters()} == {
        id(p) for group in fresh.optimizer.param_groups for p in group["params"]
    }


def test_nothing_to_load(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    _, state, _ = ready()
    before = digest(state.shared())
    assert load_checkpoint(folder, "0" * 16, "d1", state, ALONE, SHARES) is False
    assert digest(state.shared()) == before


def test_loads_without_trusting_the_file(saved):
    document = torch.load(saved.checkpoint, weights_only=True)
    assert set(document) == {"format", "format_version", "run_id", "digest", "content"}
    assert document["run_id"] == saved.read_run().run_id
    assert document["content"]["shared"]["position"]["step"] == 2


def test_another_number_of_ranks_keeps_the_sums_and_the_first_bad_step(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    run_id = folder.read_run().run_id
    _, state = trained()
    content = {
        "shared": state.shared(),
        "by_rank": [
            {"sums": {"loss": 0.5, "top1": 2, "images": 4}, "first_bad_step": step, "statistics": {}}
            for step in (None, 7, 5)
        ],
    }
    document = {"format": "normhpc-checkpoint", "format_version": 1, "run_id": run_id, "digest": digest(content)}
    torch.save(document | {"content": content}, folder.checkpoint)
    assert load_checkpoint(folder, run_id, "d1", state, ALONE, SHARES)
    assert dataclasses.asdict(state.sums) == {"loss": 1.5, "top1": 6, "images": 12}
    assert state.first_bad_step == 5


def test_other_images_under_the_same_name_are_refused(tmp_path):
    folder = new_run(tmp_path / "run", TINY)
    run_id = folder.read_run().run_id
    _, state = trained()
    save_checkpoint(folder, run_id, "d1", state, ALONE)
    _, fresh, _ = ready(seed=1)
    before = digest(fresh.shared())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, run_id, "d2", fresh, ALONE, SHARES)
    assert str(caught.value) == (
        f"{folder.checkpoint}: expected the images that the run was trained on so far (digest d1), got others (digest d2); "
        "put the files back or delete it to train the run again from the start"
    )
    assert digest(fresh.shared()) == before


# ---- damage ---------------------------------------------------------------------------------------------------------


def test_any_flipped_byte_of_a_tensor_is_noticed(saved):
    whole = saved.checkpoint.read_bytes()
    with zipfile.ZipFile(saved.checkpoint) as archive:
        stored = [entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size]
        places = []
        for entry in stored:
            start = whole.index(archive.read(entry), entry.header_offset)
            places += {start, start + entry.file_size // 2, start + entry.file_size - 1}
    assert len(stored) > 20
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        saved.checkpoint.write_bytes(damaged)
        message = refusal(saved)
        assert message.startswith(f"{saved.checkpoint}: damaged, "), (place, message)
        assert message.endswith("; delete it to train the run again from the start")
    saved.checkpoint.write_bytes(whole)
    assert read_checkpoint(saved, saved.read_run().run_id)


def test_flipped_bytes_elsewhere_never_pass_as_something_else(saved):
    """In the file's own structure a flip may be harmless (padding); otherwise it is a CheckpointError, no other."""
    whole = saved.checkpoint.read_bytes()
    run_id = saved.read_run().run_id
    expected = digest(read_checkpoint(saved, run_id))
    noticed = 0
    for place in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        saved.checkpoint.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            noticed += 1
            assert digest(read_checkpoint(saved, run_id)) == expected, place
            noticed -= 1
    assert noticed > 20


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, -1])
def test_truncated(saved, kept):
    whole = saved.checkpoint.read_bytes()
    saved.checkpoint.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    message = refusal(saved)
    assert re.fullmatch(
        rf"{re.escape(str(saved.checkpoint))}: damaged, cannot be read \(.+\); "
        "delete it to train the run again from the start",
        message,
    )


def test_of_another_run(saved, tmp_path):
    other = new_run(tmp_path / "other", TINY, {"seed": 9})
    shutil.copy(saved.checkpoint, other.checkpoint)
    own, foreign = other.read_run().run_id, saved.read_run().run_id
    assert refusal(other) == (
        f"{other.checkpoint}: belongs to run {foreign}, but this folder is run {own}; "
        "move it back or delete it to train the run again from the start"
    )


@pytest.mark.parametrize(
    "content",
    [{"weight": torch.ones(2)}, [1, 2], torch.ones(3), {"format": "other"}],
    ids=["state_dict", "list", "tensor", "other_format"],
)
def test_of_another_program(saved, content):
    torch.save(content, saved.checkpoint)
    assert refusal(saved) == (
        f"{saved.checkpoint}: not a checkpoint of normhpc; delete it to train the run again from the start"
    )


def test_that_would_run_code_is_refused(saved):
    torch.save({"format": "normhpc-checkpoint", "content": subprocess.Popen}, saved.checkpoint)
    assert "damaged, cannot be read" in refusal(saved)


@pytest.mark.parametrize("missing", ["digest", "content", "run_id", "format_version"])
def test_with_a_part_missing(saved, missing):
    document = torch.load(saved.checkpoint, weights_only=True)
    del document[missing]
    torch.save(document, saved.checkpoint)
    assert "delete it to train the run again from the start" in refusal(saved)


def test_of_a_later_format(saved):
    document = torch.load(saved.checkpoint, weights_only=True)
    torch.save(document | {"format_version": 2}, saved.checkpoint)
    assert refusal(saved) == (
        f"{saved.checkpoint}: has format version 2, this is 1; delete it to train the run again from the start"
    )


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("model", 'Error(s) in loading state_dict for ConvNet: Unexpected key(s) in state_dict: "other".'),
        ("optimizer", "loaded state dict has a different number of parameter groups"),
        ("position", "Position.__init__() got an unexpected keyword argument 'other'"),
    ],
)
def test_of_other_code(saved, part, why):
    """A network that had another weight, an optimizer without groups, a place that was told otherwise."""
    document = torch.load(saved.checkpoint, weights_only=True)
    shared = document["content"]["shared"]
    if part == "optimizer":
        shared[part]["param_groups"] = []
    else:
        shared[part]["other"] = torch.ones(1) if part == "model" else 1
    torch.save(document | {"digest": digest(document["content"])}, saved.checkpoint)
    with pytest.raises(CheckpointError) as caught:
        run(saved.path)
    assert str(caught.value) == (
        f"{saved.checkpoint}: does not fit the network and optimizer of this version of normhpc and torch ({why}); go on "
        "with the code that wrote it or delete it to train the run again from the start"
    )
    assert events(saved)[-1] == "failed"


def test_of_a_run_with_its_result_that_is_not_trained_again(saved):
    saved.summary.write_text("{}")
    whole = saved.checkpoint.read_bytes()
    saved.checkpoint.write_bytes(whole[:-200])
    anew = f"delete {saved.path} and launch the sweep again"
    assert refusal(saved).endswith(f"; put back the file that this run wrote, or {anew}")
    saved.checkpoint.write_bytes(whole)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(saved, "0" * 16)
    assert str(caught.value).endswith(f"; move it back or {anew}")


def test_damage_fails_the_run_and_says_the_cure(saved, capsys):
    saved.checkpoint.write_bytes(saved.checkpoint.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="delete it to train the run again from the start"):
        run(saved.path)
    assert events(saved)[-1] == "failed"
    capsys.readouterr()
    assert run_rank(saved.path) == 2
    assert re.fullmatch(
        rf"error: {re.escape(str(saved.checkpoint))}: damaged, cannot be read \(.+\); "
        "delete it to train the run again from the start\n",
        capsys.readouterr().err,
    )
    assert events(saved)[-1] == "failed"
    saved.checkpoint.unlink()
    assert run(saved.path)["state"] == "finished"


# ---- disks ----------------------------------------------------------------------------------------------------------


def test_failed_write_keeps_the_old_checkpoint(saved, monkeypatch):
    old = saved.checkpoint.read_bytes()
    names = set(saved.path.iterdir())

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _, state = trained(optim={"name": "adamw"})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, saved.read_run().run_id, "d1", state, ALONE)
    monkeypatch.undo()
    assert saved.checkpoint.read_bytes() == old
    assert set(saved.path.iterdir()) == names


@pytest.fixture
def small_disk(tmp_path):
    """2 MB of memory as a disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    yield place
    # busy would mean that an error left a file open
    done = subprocess.run(["umount", place], capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run(["umount", "--lazy", place], check=True)
    assert done.returncode == 0, done.stderr


def fill(disk, free):
    """Leave ``free`` bytes on ``disk``."""
    space = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(bytes(space.f_bavail * space.f_frsize - free))


LARGE = {"model": {"name": "convnet", "widths": [32, 64]}, "batch_size": 9, "epochs": 3}
"""A checkpoint of 170 KB."""


def test_full_disk(small_disk, tmp_path):
    undisturbed = new_run(tmp_path / "undisturbed", TINY, LARGE)
    run(undisturbed.path)
    folder = new_run(small_disk / "run", TINY, LARGE, {"checkpoint": {"every_steps": 1, "keep_best": True}})
    with pytest.raises(Interrupted, match=r"stopped at epoch 0, step 3 .*; the run is saved"):
        run(folder.path, StopAfter(3))
    saved = folder.checkpoint.read_bytes()
    fill(small_disk, 64 * 1024)
    with pytest.raises(
        Interrupted, match=r"stopped at epoch 2, step 1 .*; what came after the last checkpoint is lost"
    ):
        run(folder.path, StopAfter(6))
    assert folder.checkpoint.read_bytes() == saved
    assert not list(folder.path.glob(".*"))
    told = warnings_told(folder)
    assert told.count("checkpoint not saved: No space left on device; training goes on from memory") >= 6
    assert "best.pt not saved: No space left on device; training goes on from memory" in told
    (small_disk / "filler").unlink()
    assert run(folder.path)["state"] == "finished"
    assert outcome(folder) == outcome(undisturbed)


def test_a_disk_without_a_byte_left(small_disk, tmp_path):
    """Metrics cannot be written then, which ends the run; with space again it goes on from its checkpoint."""
    undisturbed = new_run(tmp_path / "undisturbed", TINY, LARGE)
    run(undisturbed.path)
    folder = new_run(small_disk / "run", TINY, LARGE, {"checkpoint": {"every_steps": 1}})
    with pytest.raises(Interrupted):
        run(folder.path, StopAfter(3))
    # events.jsonl and metrics.jsonl have a page of 4 KB each; what is left of it is taken too
    fill(small_disk, 0)
    for journal in (folder.events, folder.metrics):
        with contextlib.suppress(OSError), journal.open("ab") as file:
            file.write(b" " * (4096 - journal.stat().st_size % 4096))
    with pytest.raises(OSError, match="No space left"):
        run(folder.path)
    (small_disk / "filler").unlink()
    assert run(folder.path)["state"] == "finished"
    assert outcome(folder) == outcome(undisturbed)


def test_digest_sees_values_types_names_and_shapes():
    values = [
        {"a": torch.ones(2, 3)},
        {"b": torch.ones(2, 3)},
        {"a": torch.ones(3, 2)},
        {"a": torch.ones(6)},
        {"a": torch.ones(2, 3).double()},
        {"a": torch.ones(2, 3).int()},
        {"a": [1, 2]},
        {"a": [1.0, 2.0]},
        {"a": [True, 2]},
        {"a": [1, [2]]},
        {"a": None},
        {"a": "None"},
        {},
        {"a": {}},
        {"a": []},
        {"a": torch.ones(0)},
        {"a": torch.tensor(-0.0)},
        {"a": torch.tensor(0.0)},
        {"a": 0.1 + 0.2},
        {"a": 0.3},
    ]
    assert len({checkpoint_module.digest(value) for value in values}) == len(values)


def test_digest_does_not_see_the_layout_in_memory():
    images = torch.randn(2, 3, 4, 5)
    assert digest(images) == digest(images.contiguous(memory_format=torch.channels_last))
    assert digest(images) == digest(images.clone().requires_grad_())
