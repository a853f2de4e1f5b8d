"""Training from shards: wherever the images wait, on one rank or two, stopped or not, the same numbers."""

import pytest
from support.sharded import BANDS, config, make_shards
from support.trainings import metrics, new_run, outcome, train_in_pieces, train_on_ranks

from normhpc.errors import DataError
from normhpc.record import read_summary
from normhpc.record.journal import read_journal
from normhpc.train import run

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
    }


def with_residency(changes, residency):
    return {**changes, "data": {**changes["data"], "residency": residency}}


@pytest.mark.parametrize("kind", ["photographs", "bands"])
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
