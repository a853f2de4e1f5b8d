"""Batches that come from files: read ahead or not, the same; every row once; faults told with their row."""

import errno
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sharded import BANDS, make_shards

from normhpc.data import order, rank_share, stored
from normhpc.data.planes import Planes
from normhpc.data.stored import BatchReader, StoredImages
from normhpc.errors import DataError
from normhpc.shards import open_shards

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    make_shards(place, 53)
    make_shards(place, 20, "bands", fields=BANDS)
    return place


def images_of(folder, split="train", *, threads=2, access="mmap"):
    shards = open_shards(folder, split, access=access)
    planes = Planes(shards.index.fields, None, "index.json")
    return StoredImages(shards, planes, np.arange(len(shards)), threads)


def planar(folder, rows):
    images, _ = open_shards(folder, "train")[:]
    return torch.from_numpy(images).permute(0, 3, 1, 2)[torch.from_numpy(rows)]


@pytest.mark.parametrize("access", ["mmap", "pread"])
def test_announced_or_not_the_same(folder, access):
    reader = BatchReader(images_of(folder, access=access), CPU)
    batches = [np.array(rows) for rows in ([5, 52, 0], [1], list(range(53)), [7, 7], [3, 40])]
    reader.announce(iter(batches))
    for rows in batches:
        assert torch.equal(reader.take(rows), planar(folder, rows))
    for rows in reversed(batches):
        assert torch.equal(reader.take(rows), planar(folder, rows))
    reader.close()


def test_another_batch_than_announced(folder):
    reader = BatchReader(images_of(folder), CPU)
    reader.announce([np.arange(number, number + 4) for number in range(0, 40, 4)])
    assert torch.equal(reader.take(np.arange(0, 4)), planar(folder, np.arange(0, 4)))
    assert torch.equal(reader.take(np.array([50, 2])), planar(folder, np.array([50, 2])))
    assert torch.equal(reader.take(np.arange(4, 8)), planar(folder, np.arange(4, 8)))
    reader.announce([np.array([9])])
    assert torch.equal(reader.take(np.array([9])), planar(folder, np.array([9])))
    reader.close()


def test_a_batch_stays_as_it_is(folder):
    """Its memory is not that of a buffer, which is filled again."""
    reader = BatchReader(images_of(folder), CPU)
    batches = [np.arange(number, number + 5) for number in range(0, 50, 5)]
    reader.announce(batches)
    taken = [reader.take(rows) for rows in batches]
    assert all(torch.equal(images, planar(folder, rows)) for images, rows in zip(taken, batches, strict=True))


def test_memory_is_used_again_once_nothing_refers_to_a_batch(folder, monkeypatch):
    monkeypatch.setattr(stored, "_READ_BYTES", 1)
    reader = BatchReader(images_of(folder, threads=1), CPU)
    batches = [np.arange(number % 48, number % 48 + 5) for number in range(100)]
    reader.announce(batches)
    first = reader.take(batches[0])
    part = first[1:3, :, 4:]
    seen = {first.data_ptr()}
    del first
    for rows in batches[1:]:
        seen.add(reader.take(rows).data_ptr())
    assert torch.equal(part, planar(folder, batches[0])[1:3, :, 4:])
    assert 3 <= len(seen) <= 5
    reader.close()


def test_small_batches_are_read_together(folder):
    """All fifty at once; another plan in the middle of them leaves those that were taken as they are."""
    images = images_of(folder, threads=1)
    reader = BatchReader(images, CPU)
    reads = []
    fill = reader._fill
    reader._fill = lambda places, *rest: reads.append(len(places)) or fill(places, *rest)
    batches = [np.arange(number, number + 3) for number in range(50)]
    reader.announce(batches)
    taken = [reader.take(rows) for rows in batches[:20]]
    assert reads == [150]
    reader.announce(batches[::-1])
    taken += [reader.take(rows) for rows in batches[::-1]]
    for images, rows in zip(taken, batches[:20] + batches[::-1], strict=True):
        assert torch.equal(images, planar(folder, rows))
    reader.close()


def test_a_read_does_not_wait_for_the_last_copy_to_a_device(folder, monkeypatch):
    """That copy comes after the step before it: to wait would keep the device and the program from overlapping."""
    made, waited = [], []

    class Event:
        def __init__(self):
            self.number = len(made)
            made.append(self)

        def record(self):
            pass

        def query(self):
            return False

        def synchronize(self):
            waited.append((self.number, len(made) - 1))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(stored, "_READ_BYTES", 1)
    reader = BatchReader(images_of(folder, threads=1), torch.device("meta"))
    batches = [np.arange(number, number + 5) for number in range(10)]
    reader.announce(batches)
    for rows in batches:
        assert reader.take(rows).shape == (5, 3, 12, 10)
    assert waited == [(number, number + 2) for number in range(6)]
    reader.close()


def test_no_more_is_read_ahead_than_buffers_hold(folder, monkeypatch):
    images = images_of(folder, threads=4)
    monkeypatch.setattr(stored, "_BUFFER_BYTES", 2 * 10 * images.row_bytes)
    seen = []
    reader = BatchReader(images, CPU)
    reader.announce(seen.append(number) or np.arange(number, number + 10) for number in range(40))
    for number in range(5):
        reader.take(np.arange(number, number + 10))
        assert len(seen) <= number + 3


def test_own_memory_and_whole_sets_hold_the_same(folder):
    images = images_of(folder).subset(np.array([4, 50, 9, 17]))
    expected = planar(folder, np.array([4, 50, 9, 17]))
    assert torch.equal(images.everything().permute(0, 3, 1, 2), expected)
    reader = BatchReader(images.in_own_memory(), CPU)
    assert torch.equal(reader.take(np.array([2, 0])), expected[[2, 0]])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_every_row_once_at_any_number_of_ranks_threads_and_resume_points(folder, ranks, threads, batch, resumed, epoch):
    """The first steps were taken by one rank, the others after a resumption by several."""
    batch = max(batch, ranks)
    permutation = order(53, seed=1, epoch=epoch)
    steps = 53 // batch
    resumed = min(resumed, steps)
    seen = []
    for world, taken in ((1, range(resumed)), (ranks, range(resumed, steps))):
        for rank in range(world):
            share = rank_share(batch, rank, world)
            wanted = [permutation[step * batch : (step + 1) * batch][share] for step in taken]
            reader = BatchReader(images_of(folder, threads=threads), CPU)
            reader.announce(wanted)
            for rows in wanted:
                assert torch.equal(reader.take(rows), planar(folder, rows))
                seen += rows.tolist()
            reader.close()
    assert sorted(seen) == sorted(permutation[: steps * batch].tolist())


def test_a_flipped_byte_is_found_while_reading(tmp_path, monkeypatch):
    make_shards(tmp_path, 20, rows_per_shard=8)
    shards = open_shards(tmp_path, "train")
    second = shards.index.shards[1]
    row_bytes = 12 * 10 * 3
    with (tmp_path / "train" / second.file).open("r+b") as file:
        file.seek(second.offsets["images"] + 3 * row_bytes + 17)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    monkeypatch.setattr(stored, "_CHECKED_ROWS", 1)
    monkeypatch.setattr(stored, "_READ_BYTES", 8 * row_bytes)
    reader = BatchReader(images_of(tmp_path), CPU)
    reader.announce([np.arange(8), np.arange(8, 16)])
    reader.take(np.arange(8))
    with pytest.raises(DataError, match=rf"{second.file}: row 3 \(row 11 of the split\) is damaged: expected CRC-32"):
        reader.take(np.arange(8, 16))


def test_one_row_in_a_thousand_is_checked(folder, monkeypatch):
    images = images_of(folder)
    checked = []
    monkeypatch.setattr(type(images.shards), "check_rows", lambda _, rows: checked.extend(rows.tolist()))
    for number in range(2000):
        images.check(np.arange(53), number)
    # 53 of 1,024 places in each of 2,000 reads, spread evenly
    assert 2000 * 53 / 1024 - 2 < len(checked) < 2000 * 53 / 1024 + 2
    assert set(checked) == set(range(53))


def test_a_failing_disk_ends_the_run_with_its_reason(folder, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    reader = BatchReader(images_of(folder, access="pread"), CPU)
    monkeypatch.setattr(os, "preadv", failing)
    reader.announce([np.arange(4), np.arange(4, 8)])
    for rows in (np.arange(4), np.arange(4, 8)):
        with pytest.raises(DataError, match=r"train-00000\.h5: .*Input/output error"):
            reader.take(rows)
    monkeypatch.undo()
    assert torch.equal(reader.take(np.arange(4, 8)), planar(folder, np.arange(4, 8)))
