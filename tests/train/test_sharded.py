"""Training from shards: wherever the images wait, on one rank or two, stopped or not, the same numbers."""

import json

import pytest
from support.sharded import BANDS, DECIBELS, config, make_shards
from support.trainings import (
    StopAfter,
    exit_codes,
    metrics,
    new_run,
    outcome,
    start_ranks,
    train_in_pieces,
    train_on_ranks,
)

from normhpc.config import RunConfig
from normhpc.config.data import STAGED_VARIABLE
from normhpc.data.sharded import open_sharded
from normhpc.errors import CheckpointError, DataError
from normhpc.record import read_summary
from normhpc.record.journal import read_journal
from normhpc.train import Interrupted, run

RUN = {
    "model": {"name": "convnet", "widths": [4, 8]},
    "norm": {"name": "group", "groups": 2},
    "act": "silu",
    "epochs": 2,
    "batch_size": 11,
    "augment": {"name": "standard", "crop_padding": 2, "mixup_alpha": 0.3},
    "optim": {"lr": 0.05, "accumulate": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    for split, rows, first in (("train", 70, 0), ("test", 23, 500)):
        make_shards(place, rows, split, first=first)
        make_shards(place / "bands", rows, split, first=first, fields=BANDS, multi=True)
        make_shards(place / "floats", rows, split, first=first, fields=(BANDS[1], DECIBELS))
    return place


def sets(folder):
    return {
        "photographs": {"data": config(folder, crop=8)},
        "bands": {
            "data": config(
                folder / "bands", height=12, width=12, channels=4, multi_label=True, bands=["B01", "B02", "B06", "B03"]
            ),
            "loss": "bce",
            "model": {"name": "convnet", "widths": [4, 8]},
        },
        "decibels": {"data": config(folder / "floats", width=12, channels=2, bands=["VV", "VH"])},
        "decibels beside bands": {
            "data": config(folder / "floats", width=12, channels=3, bands=["VH", "B06", "VV"], crop=8, resize=10)
        },
    }


def with_residency(changes, residency):
    return {**changes, "data": {**changes["data"], "residency": residency}}


@pytest.mark.parametrize("kind", ["photographs", "bands", "decibels", "decibels beside bands"])
def test_where_images_wait_changes_no_bit(folder, tmp_path, kind):
    changes = sets(folder)[kind]
    found = []
    for residency in ("device", "memory", "mmap", "pread"):
        record = new_run(tmp_path / residency, RUN, with_residency(changes, residency))
        summary = run(record.path)
        found.append(outcome(record) | {"digest": summary["data_digest"]})
    assert all(other == found[0] for other in found[1:])
    measure = "test_map_macro" if kind == "bands" else "test_top1"
    assert 0 <= summary["final"][measure] <= 1


def test_stops_in_the_middle_of_an_epoch_change_no_bit(folder, tmp_path):
    changes = with_residency(sets(folder)["photographs"], "mmap")
    whole, pieces = new_run(tmp_path / "whole", RUN, changes), new_run(tmp_path / "pieces", RUN, changes)
    run(whole.path)
    train_in_pieces(pieces, [2, 1, 4])
    assert outcome(pieces) == outcome(whole)


@pytest.mark.parametrize("kind", ["photographs", "bands"])
def test_two_ranks_learn_what_one_does(folder, tmp_path, kind):
    changes = {**with_residency(sets(folder)[kind], "mmap"), "batch_size": 13}
    one, two = new_run(tmp_path / "one", RUN, changes), new_run(tmp_path / "two", RUN, changes)
    run(one.path)
    train_on_ranks(two, 2)
    assert read_summary(two)["images_per_rank"] == [6, 7]
    alone, together = metrics(one), metrics(two)
    assert alone.keys() == together.keys()
    for place, measured in alone.items():
        for name, value in measured.items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            assert together[place][name] == expected, (place, name)


def test_a_run_goes_on_where_the_same_images_lie_and_not_on_others(tmp_path):
    """Where they lie is no part of its identity: a second conversion may take the place of the first meanwhile."""
    for place, first in (("data", 0), ("same", 0), ("others", 5)):
        make_shards(tmp_path / place, 40, first=first)
        make_shards(tmp_path / place, 10, "test", first=100)
    record = new_run(tmp_path / "run", RUN, {"data": config(tmp_path / "data")})
    with pytest.raises(Interrupted):
        run(record.path, StopAfter(2))
    seen = read_journal(record.events).rows[0]["data_digest"]
    (tmp_path / "data").rename(tmp_path / "first")
    (tmp_path / "others").rename(tmp_path / "data")
    before = record.checkpoint.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        run(record.path)
    other = open_sharded(record.read_run().config.data).digest
    assert seen != other
    assert str(caught.value) == (
        f"{record.checkpoint}: expected the images that the run was trained on so far (digest {seen}), got others (digest "
        f"{other}); put the files back or delete it to train the run again from the start"
    )
    assert record.checkpoint.read_bytes() == before
    assert read_journal(record.events).rows[-1]["class"] == "CheckpointError"
    (tmp_path / "data").rename(tmp_path / "others")
    (tmp_path / "same").rename(tmp_path / "data")
    assert run(record.path)["data_digest"] == seen
    there = new_run(tmp_path / "elsewhere", RUN, {"data": config(tmp_path / "first")})
    assert there.read_run().run_id == record.read_run().run_id
    run(there.path)
    assert outcome(there) == outcome(record)


def test_a_damaged_row_fails_the_run_with_its_place(tmp_path):
    make_shards(tmp_path / "data", 40)
    make_shards(tmp_path / "data", 10, "test", first=100)
    file = tmp_path / "data" / "train" / "train-00001.h5"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    record = new_run(tmp_path / "run", RUN, {"data": config(tmp_path / "data", residency="device")})
    with pytest.raises(DataError, match=r"train-00001\.h5: row \d+ \(row \d+ of the split\) is damaged"):
        run(record.path)
    failed = read_journal(record.events).rows[-1]
    assert failed["event"] == "failed"
    assert "train-00001.h5: row" in failed["message"]


def test_a_truncated_shard_is_found_before_the_first_step(tmp_path):
    make_shards(tmp_path / "data", 40)
    make_shards(tmp_path / "data", 10, "test", first=100)
    file = tmp_path / "data" / "train" / "train-00002.h5"
    file.write_bytes(file.read_bytes()[:-1])
    record = new_run(tmp_path / "run", RUN, {"data": config(tmp_path / "data")})
    with pytest.raises(DataError, match=r"train-00002\.h5: truncated: expected \d+ bytes, got \d+"):
        run(record.path)


def test_ranks_whose_nodes_hold_other_images_do_not_begin(tmp_path):
    """A copy on one node that is older than that on the other would train half of every batch on other images."""
    for place, first in (("here", 0), ("there", 1)):
        make_shards(tmp_path / place, 40, first=first)
        make_shards(tmp_path / place, 12, "test", first=200)
    record = new_run(tmp_path / "run", RUN, {"data": config(tmp_path / "shared")})
    copies = [{STAGED_VARIABLE: json.dumps({str(tmp_path / "shared"): str(tmp_path / at)})} for at in ("here", "there")]
    digests = [
        open_sharded(RunConfig.model_validate({"data": config(tmp_path / at)}).data).digest for at in ("here", "there")
    ]
    assert exit_codes(start_ranks(record, 2, copies)) == [2, 2]
    message = (
        f"{record.run_json}: data.path: expected the same images on all ranks, got digest {digests[0]} on rank 0 and "
        f"{digests[1]} on rank 1; bring the copies on the nodes up to date"
    )
    rows = read_journal(record.events).rows
    assert [(row["event"], row["class"], row["message"]) for row in rows] == [("failed", "DataError", message)] * 2
