import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from support.shard_jobs import converted
from support.sharded import make_shards

from normhpc.shards import adjacent as module
from normhpc.shards import open_shards
from normhpc.shards.adjacent import Stretch, adjacent, can_be_adjacent
from normhpc.shards.convert import ImageField, Job, LabelSpec, Row

PAGE = mmap.PAGESIZE


def files(folder: Path, sizes: list[int], begin: int) -> list[Stretch]:
    found = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.bin"
        path.write_bytes(np.random.default_rng(number).bytes(begin + size + 7))
        found.append(Stretch(path, begin, size))
    return found


def maps_of(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


def test_stretches_follow_one_another_and_go_with_the_array(tmp_path):
    stretches = files(tmp_path, [2 * PAGE, PAGE, 100], begin=PAGE)
    assert can_be_adjacent(stretches)
    content = adjacent(stretches)
    expected = b"".join(
        stretch.path.read_bytes()[stretch.begin : stretch.begin + stretch.size] for stretch in stretches
    )
    assert content.tobytes() == expected
    assert not content.flags.writeable
    part = content[PAGE:].reshape(-1, 4)
    del content
    assert maps_of(tmp_path) == 3
    assert part.tobytes() == expected[PAGE:]
    del part
    assert maps_of(tmp_path) == 0


@pytest.mark.parametrize(
    ("sizes", "begin", "can"),
    [([100], 0, True), ([PAGE, 1], PAGE, True), ([100, PAGE], 0, False), ([PAGE, PAGE], 8, False)],
)
def test_what_can_be_adjacent(tmp_path, sizes, begin, can):
    assert can_be_adjacent(files(tmp_path, sizes, begin)) is can


def test_what_cannot_be_mapped_leaves_nothing_behind(tmp_path):
    stretches = files(tmp_path, [PAGE, PAGE], begin=0)
    with pytest.raises(FileNotFoundError, match=r"gone\.bin"):
        adjacent([stretches[0], Stretch(tmp_path / "gone.bin", 0, PAGE)])
    with pytest.raises(OSError, match=r"Invalid argument: .*1\.bin"):
        adjacent([stretches[0], stretches[1]._replace(begin=8)])
    assert maps_of(tmp_path) == 0


def page_sized(number: int) -> Row:
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    return Row({"images": pixels}, number % 2)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """48 images of a page each in files of 16: datasets of 64 KiB begin a page."""
    folder = tmp_path_factory.mktemp("large")
    job = Job(
        dataset="pages",
        split="train",
        fields=(ImageField("images", "|u1", (64, 64, 1), "NHWC"),),
        encoding="raw",
        labels=LabelSpec("single", ("even", "odd")),
        items=[(number, number) for number in range(48)],
        read=page_sized,
    )
    converted(folder, job, rows_per_shard=16)
    return folder


def taken(folder: Path, rows: np.ndarray) -> tuple[np.ndarray, type]:
    with open_shards(folder, "train") as shards:
        out = np.empty((len(rows), 64, 64, 1), np.uint8)
        shards.read_rows("images", rows, out)
        return out, type(shards._stored["images"])


def test_rows_of_all_files_come_in_one_call_or_one_by_one(large, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 48, 100)
    expected = np.stack([page_sized(number).images["images"] for number in rows.tolist()])
    found, kind = taken(large, rows)
    assert kind is np.ndarray
    assert np.array_equal(found, expected)

    def refused(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(module, "_map", refused)
    found, kind = taken(large, rows)
    assert kind is not np.ndarray
    assert np.array_equal(found, expected)


def test_closed_shards_are_unmapped(large):
    shards = open_shards(large, "train")
    shards[0:48]
    assert maps_of(large) == 6
    shards.close()
    assert maps_of(large) == 0


def test_rows_that_fill_no_pages_are_read_from_each_file(tmp_path):
    make_shards(tmp_path, 20, rows_per_shard=8)
    with open_shards(tmp_path, "train") as shards:
        shards[0:20]
        assert not isinstance(next(iter(shards._stored.values())), np.ndarray)
