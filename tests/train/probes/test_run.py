"""Probes of a whole run: its file, resumption, ranks, faults; and that the run itself is the same."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from support.trainings import (
    TINY,
    StopAfter,
    exit_codes,
    new_run,
    outcome,
    start_ranks,
    train_in_pieces,
    train_on_ranks,
    wait_for_progress,
    warnings_told,
)

from normhpc import data, models
from normhpc.config import RunConfig
from normhpc.config.checks import FITS, findings
from normhpc.data import Batches
from normhpc.errors import DamagedError, InputError
from normhpc.record import RunFolder
from normhpc.record.probes import Column, ProbeFile, ProbePlan, read_probes
from normhpc.train import Interrupted, run
from normhpc.train.probes import check_classifier, feature_quantiles, kept_features
from normhpc.train.world import World

PROBES = {"name": "layers", "every_steps": 1, "feature_quantiles": [0.01, 0.5, 0.99]}
PROBED = {"probes": PROBES, "norm": "batch"}


def numbers(folder, layer, measure):
    content = read_probes(folder.probes)
    place = [(column.layer, column.measure) for column in content.columns].index((layer, measure))
    return content.values[:, place]


def test_a_run_is_the_same_with_probes(tmp_path):
    # 52 steps
    long = {**TINY, "epochs": 13}
    often = {**PROBED, "probes": {**PROBES, "every_steps": 7}}
    plain, probed = new_run(tmp_path / "plain", long), new_run(tmp_path / "probed", long, often)
    run(plain.path)
    run(probed.path)
    assert outcome(plain) == outcome(probed)
    assert not plain.probes.exists()
    assert sorted(entry.name for entry in probed.path.iterdir()) == [
        "checkpoint.pt",
        "events.jsonl",
        "metrics.jsonl",
        "probes.h5",
        "run.json",
        "summary.json",
    ]


def test_the_file(tmp_path):
    folder = new_run(tmp_path / "run", TINY, PROBED, {"probes": {**PROBES, "every_steps": 3}})
    run(folder.path)
    content = read_probes(folder.probes)
    assert content.step.tolist() == [0, 3, 6]
    assert content.epoch.tolist() == [0, 0, 1]
    assert content.images.tolist() == [9, 9, 9]
    assert content.feature_epoch.tolist() == [1, 2]
    assert content.feature_step.tolist() == [4, 8]
    assert content.attributes["run_id"] == folder.read_run().run_id
    assert (content.attributes["ranks"], content.attributes["images_per_rank"].tolist()) == (1, [9])
    assert content.attributes["measured"] == "layers: first micro-batch of rank 0; features: val images of all ranks"
    assert len(content.columns) == 2 * 8
    with h5py.File(folder.probes) as file:
        assert file["layers/values"].dtype == "<f4"
        assert file["layers/values"].chunks is None


def test_the_first_step_is_measured_before_its_update(tmp_path):
    folder = new_run(tmp_path / "run", TINY, PROBED)
    run(folder.path)
    config = folder.read_run().config
    torch.manual_seed(config.seed)
    model = models.build(config)
    images = data.load(config.data)
    batches = Batches(images.train, images.mean, images.std, device="cpu", augment=None, seed=0)
    x, *_ = batches.train(data.order(36, 0, 0)[:9], 0)
    conv = model.layers[0].conv(x).detach().double()
    assert numbers(folder, "layers.0.conv", "conv_std")[0] == pytest.approx(conv.std((0, 2, 3)).mean().item(), rel=1e-5)


def test_the_first_micro_batch_is_measured(tmp_path):
    whole = new_run(tmp_path / "whole", TINY, PROBED, {"norm": "layer", "batch_size": 4})
    pieces = new_run(
        tmp_path / "pieces", TINY, PROBED, {"norm": "layer", "batch_size": 9, "optim": {"lr": 0.1, "accumulate": 2}}
    )
    run(whole.path)
    run(pieces.path)
    assert read_probes(pieces.probes).images.tolist() == [4] * 8
    for layer, measure in (("layers.0.conv", "gradient_norm"), ("layers.1.slot", "activation_rank")):
        # the same four images, the same weights: the loss is the mean over them, whatever the update is made of
        assert numbers(pieces, layer, measure)[0] == pytest.approx(numbers(whole, layer, measure)[0], rel=1e-5)


def test_quantiles_are_of_all_val_images(tmp_path):
    folder = new_run(tmp_path / "run", {"probes": {**PROBES, "measures": []}, "epochs": 1})
    run(folder.path)
    info = folder.read_run()
    model = models.build(info.config)
    model.load_state_dict(torch.load(folder.checkpoint, weights_only=True)["content"]["shared"]["model"])
    images = data.load(info.config.data)
    batches = Batches(images.val, images.mean, images.std, device="cpu", augment=None, seed=0)
    with torch.inference_mode():
        features = model.eval().features(batches.evaluate(0, len(batches))[0])
    content = read_probes(folder.probes)
    assert content.columns == ()
    assert content.values.shape == (0, 0)
    np.testing.assert_allclose(
        content.feature_values, [np.quantile(features.double().numpy(), [0.01, 0.5, 0.99])], rtol=1e-4, atol=1e-6
    )


def test_nothing_to_measure_leaves_no_file(tmp_path):
    folder = new_run(tmp_path / "run", TINY, {"probes": {"name": "layers", "measures": []}})
    run(folder.path)
    assert not folder.probes.exists()


def test_resumed_after_every_step(tmp_path):
    whole, cut = new_run(tmp_path / "whole", TINY, PROBED), new_run(tmp_path / "cut", TINY, PROBED)
    run(whole.path)
    train_in_pieces(cut, [1] * 7)
    assert cut.probes.read_bytes() == whole.probes.read_bytes()
    assert len(read_probes(whole.probes).step) == 8


def test_what_came_after_the_checkpoint_is_measured_again(tmp_path):
    whole, cut = new_run(tmp_path / "whole", TINY, PROBED), new_run(tmp_path / "cut", TINY, PROBED)
    run(whole.path)
    with pytest.raises(Interrupted):
        run(cut.path, StopAfter(3))
    saved = cut.checkpoint.read_bytes()
    with pytest.raises(Interrupted):
        run(cut.path, StopAfter(4))
    assert len(read_probes(cut.probes).step) == 7
    cut.checkpoint.write_bytes(saved)
    with pytest.raises(Interrupted):
        run(cut.path, StopAfter(1))
    assert len(read_probes(cut.probes).step) == 4
    assert read_probes(cut.probes).feature_epoch.tolist() == [1]
    cut.checkpoint.unlink()
    with pytest.raises(Interrupted):
        run(cut.path, StopAfter(1))
    assert len(read_probes(cut.probes).step) == 1
    assert read_probes(cut.probes).feature_epoch.tolist() == []
    run(cut.path)
    assert cut.probes.read_bytes() == whole.probes.read_bytes()


def test_killed_at_random_moments(tmp_path):
    changes = {"epochs": 60, "checkpoint": {"every_steps": 3}}
    whole, cut = new_run(tmp_path / "whole", TINY, PROBED, changes), new_run(tmp_path / "cut", TINY, PROBED, changes)
    run(whole.path)
    chance = random.Random(5)
    for _ in range(4):
        process = start_ranks(cut)[0]
        wait_for_progress(cut, process)
        time.sleep(chance.uniform(0.0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        left, expected = read_probes(cut.probes), read_probes(whole.probes)
        assert len(left.step) > 0
        np.testing.assert_array_equal(left.values, expected.values[: len(left.step)])
        np.testing.assert_array_equal(left.feature_values, expected.feature_values[: len(left.feature_epoch)])
    assert exit_codes(start_ranks(cut)) == [0], cut.log.read_text()
    assert cut.probes.read_bytes() == whole.probes.read_bytes()


def test_two_ranks(tmp_path):
    """Without batch statistics the ranks' own parts are what one rank sees of them."""
    changes = {"norm": "layer", "batch_size": 8}
    both, alone = new_run(tmp_path / "both", TINY, PROBED, changes), new_run(tmp_path / "alone", TINY, PROBED, changes)
    train_on_ranks(both, 2)
    run(alone.path)
    content, other = read_probes(both.probes), read_probes(alone.probes)
    assert content.attributes["ranks"] == 2
    assert content.attributes["images_per_rank"].tolist() == [4, 4]
    assert set(content.images) == {4}
    np.testing.assert_allclose(content.feature_values, other.feature_values, rtol=1e-3, atol=1e-5)
    config = both.read_run().config
    half = RunConfig.model_validate(config.to_json() | {"batch_size": 4})
    folder = RunFolder(tmp_path / "half")
    folder.create(half, sweep="test", swept={}, resources=both.read_run().resources, code={})
    run(folder.path)
    # the first four images of the first step are those of rank 0, and the weights are the first ones
    np.testing.assert_allclose(content.values[0], read_probes(folder.probes).values[0], rtol=1e-4, atol=1e-6)


def test_two_ranks_resumed(tmp_path):
    changes = {"epochs": 40, "checkpoint": {"every_epochs": 10_000}}
    whole, cut = new_run(tmp_path / "whole", TINY, PROBED, changes), new_run(tmp_path / "cut", TINY, PROBED, changes)
    train_on_ranks(whole, 2)
    ranks = start_ranks(cut, 2)
    while all(process.is_alive() for process in ranks) and not cut.probes.exists():
        time.sleep(0.01)
    os.kill(ranks[1].pid, signal.SIGUSR2)
    exit_codes(ranks)
    train_on_ranks(cut, 2)
    assert cut.probes.read_bytes() == whole.probes.read_bytes()


def test_a_diverged_run_keeps_what_led_there(tmp_path):
    folder = new_run(tmp_path / "run", TINY, PROBED, {"norm": "none", "optim": {"lr": 1e30}, "epochs": 20})
    summary = run(folder.path)
    assert summary["state"] == "diverged"
    content = read_probes(folder.probes)
    assert content.step.tolist() == list(range(summary["diverged_at_step"] + 1))
    assert np.isfinite(content.values[0]).all()
    assert not np.isfinite(content.values[-1]).all()


def test_a_disk_that_cannot_take_it_is_told_and_asked_again(tmp_path, monkeypatch):
    whole, cut = new_run(tmp_path / "whole", TINY, PROBED), new_run(tmp_path / "cut", TINY, PROBED)
    run(whole.path)
    write, calls = ProbeFile._write, []

    def full(self, offset, numbers):
        calls.append(offset)
        if len(calls) < 4:
            raise OSError(28, "No space left on device")
        write(self, offset, numbers)

    monkeypatch.setattr(ProbeFile, "_write", full)
    assert run(cut.path)["state"] == "finished"
    assert "probes.h5 not saved: No space left on device; training goes on from memory" in warnings_told(cut)
    assert cut.probes.read_bytes() == whole.probes.read_bytes()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from normhpc.record.probes import Column, ProbeFile, ProbePlan

file = ProbeFile(Path(sys.argv[1]), ProbePlan(1000, 100, 1, (0.5,)), {"run_id": "a"})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    file.write_rows(0, [Column("conv", "conv", "conv_std")], np.ones((1, 1), "f4"), np.ones(1, "i4"))
except OSError as error:
    print("refused:", error.errno)
"""


@pytest.mark.parametrize("room", [3_000, 2_000_000])
def test_a_disk_that_is_full_while_the_file_is_made(tmp_path, room):
    """HDF5 would find out when the file is closed, with other errors or none that Python sees."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "probes.h5"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"refused: {errno.EFBIG}\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path):
    columns = (Column("conv", "conv", "conv_std"),)
    file = ProbeFile(tmp_path / "probes.h5", ProbePlan(1, 2, 1), {"run_id": "a"})
    file.write_rows(0, columns, np.ones((1, 1), "f4"), np.ones(1, "i4"))
    before = file.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        for ask in (
            lambda: read_probes(file.path),
            lambda: file.rewind(step=0, epoch=0),
            lambda: file.write_rows(1, columns, np.ones((1, 1), "f4"), np.ones(1, "i4")),
        ):
            with pytest.raises(OSError, match="Too many open files") as error:
                ask()
            assert error.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert file.path.read_bytes() == before


def test_a_damaged_file_and_one_of_another_run(tmp_path):
    folder, other = new_run(tmp_path / "run", TINY, PROBED), new_run(tmp_path / "other", TINY, PROBED, {"seed": 1})
    for one in (folder, other):
        with pytest.raises(Interrupted):
            run(one.path, StopAfter(2))
    stranger = other.read_run().run_id
    folder.probes.write_bytes(other.probes.read_bytes())
    message = f"probes.h5: belongs to run {stranger}; delete it, what it held is lost but the run goes on"
    with pytest.raises(DamagedError, match=message):
        run(folder.path)
    folder.probes.write_bytes(other.probes.read_bytes()[:100])
    with pytest.raises(DamagedError, match=r"probes.h5: not HDF5 \(.*\); delete it"):
        run(folder.path)
    folder.probes.unlink()
    run(folder.path)
    content = read_probes(folder.probes)
    assert content.step.tolist() == list(range(8))
    assert np.isnan(content.values[:2]).all()
    assert np.isfinite(content.values[2:]).all()


def test_probes_of_compiled_code_are_refused():
    compiled = {"model": {"name": "convnet", "compile": True}}
    message = (
        "probes.measures: compiled code does not call what measures its layers: expected none with model.compile; "
        "set model.compile: false, or leave feature_quantiles alone with probes.measures: []"
    )
    with pytest.raises(ValueError, match="compiled code") as error:
        RunConfig.model_validate(compiled | {"probes": "layers"})
    assert message in str(error.value)
    RunConfig.model_validate(compiled | {"probes": {**PROBES, "measures": []}})


def test_features_without_val_images_are_refused():
    def found(probes):
        config = RunConfig.model_validate({"data": {"name": "digits", "val_fraction": 0}, "probes": probes})
        return findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields})

    assert found("layers") == []
    message = "features are those of the val images, but data.val_fraction is 0; hold some images out"
    assert found(PROBES) == [("probes.feature_quantiles", message)]


def test_features_of_a_network_without_a_linear_layer_are_refused(tmp_path):
    images = {"data": {**TINY["data"], "height": 32, "width": 32, "channels": 3}, "batch_size": 4}
    folder = new_run(
        tmp_path / "run", TINY, PROBED, images, {"model": {"name": "torchvision/squeezenet1_1", "replace_norms": False}}
    )
    with pytest.raises(InputError) as error:
        run(folder.path)
    assert str(error.value) == (
        "probes.feature_quantiles: expected none, torchvision/squeezenet1_1 does not end with a linear layer whose input "
        "would be its features; leave it out"
    )


class Several(torch.nn.Module):
    """Calls ``gate`` after ``head``, which stands last."""

    def __init__(self, head):
        super().__init__()
        self.gate = torch.nn.Linear(3, 3)
        self.head = head

    def forward(self, x):
        return self.gate(self.head(x))


def test_features_are_the_input_of_the_classifier():
    """The layer that clipping and Muon leave out as well, whatever is called last."""
    model, x = Several(torch.nn.Linear(2, 3)), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    check_classifier(model, "several")
    with kept_features(model) as kept:
        model(x)
        model(10 * x)
    model(x)
    assert [features.tolist() for features in kept] == [x.tolist(), (10 * x).tolist()]


def test_features_of_a_network_with_a_linear_layer_that_is_not_its_classifier_are_refused():
    with pytest.raises(InputError, match="several does not end with a linear layer whose input would be its features"):
        check_classifier(Several(torch.nn.Conv2d(1, 3, 1)), "several")


def test_features_that_never_pass_are_told():
    with pytest.raises(InputError) as error:
        feature_quantiles([], (0.5,), World(0, 1, torch.device("cpu")))
    assert str(error.value) == (
        "probes.feature_quantiles: expected none, the network does not call the linear layer that stands last in it; "
        "leave it out"
    )


def test_features_of_val_images_that_round_to_none_are_refused(tmp_path):
    """The share held out of 5 images is none."""
    images = {"data": {**TINY["data"], "images": 5, "val_fraction": 0.1}, "batch_size": 5}
    folder = new_run(tmp_path / "run", TINY, PROBED, images)
    with pytest.raises(InputError) as error:
        run(folder.path)
    assert str(error.value) == (
        f"{folder.run_json}: probes.feature_quantiles: features are those of the val images, but no image of synthetic "
        "is held out; raise data.val_fraction or leave it out"
    )
    run(new_run(tmp_path / "layers", TINY, images, {"probes": "layers", "epochs": 1}).path)
