"""Conversion: what is stored, always the same bytes, and going on from wherever it was stopped."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.shard_jobs import (
    CLASSES,
    IMAGES,
    JOBS,
    bands,
    bands_job,
    colours,
    colours_job,
    contents,
    converted,
    decibels,
    floats_job,
    jpeg,
    jpeg_job,
    multi_hot,
    silent,
)

from normhpc.shards import read_index
from normhpc.shards.convert import Options, convert
from normhpc.shards.rows import Sums, sums_of

NAMES = [f"train-0000{number}.h5" for number in range(4)]


def test_plain_hdf5_holds_the_images(tmp_path: Path) -> None:
    report = converted(tmp_path, colours_job())
    assert (report.rows, report.skipped, report.shards_written, report.shards_kept, report.complete) == (
        50,
        (),
        4,
        0,
        True,
    )
    assert sorted(contents(tmp_path / "train")) == [".lock", "index.json", *NAMES]
    seen = 0
    for number, name in enumerate(NAMES):
        with h5py.File(tmp_path / "train" / name) as file:
            rows = len(file["images"])
            numbers = range(16 * number, 16 * number + rows)
            assert np.array_equal(file["images"][:], [colours(n) for n in numbers])
            assert file["images"].dtype == np.uint8
            assert np.array_equal(file["labels"][:], [n % 3 for n in numbers])
            assert np.array_equal(file["ids"][:], [100 + n for n in numbers])
            assert np.array_equal(file["orig_size"][:], [(n, 2 * n) for n in numbers])
            assert file["labels"].dtype == file["ids"].dtype == np.int64
            assert dict(file.attrs) == {
                "format": b"normhpc-shard",
                "format_version": 1,
                "dataset": b"toy",
                "split": b"train",
                "shard": number,
                "rows": rows,
                "created_by": b"normhpc",
            }
            assert file["images"].attrs["layout"] == b"NHWC"
            assert list(file["images"].attrs["bands"]) == [b"red", b"green", b"blue"]
            assert all(found.chunks is None and found.compression is None for found in file.values())
            seen += rows
    assert seen == IMAGES


def test_large_datasets_begin_on_pages(tmp_path: Path) -> None:
    converted(tmp_path, colours_job(items=[(n, n % IMAGES) for n in range(500)]), rows_per_shard=500)
    (shard,) = read_index(tmp_path / "train").shards
    assert shard.offsets["images"] % 4096 == 0
    assert 500 * 8 * 6 * 3 > 65536


def test_several_fields_and_texts_as_ids(tmp_path: Path) -> None:
    converted(tmp_path, bands_job())
    with h5py.File(tmp_path / "test" / "test-00000.h5") as file:
        assert np.array_equal(file["wide"][:], [bands(n)["wide"] for n in range(16)])
        assert np.array_equal(file["small"][:], [bands(n)["small"] for n in range(16)])
        assert file["wide"].dtype == "<u2"
        assert np.array_equal(file["labels"][:], [multi_hot(n) for n in range(16)])
        assert file["labels"].dtype == np.uint8
        assert file["ids"][7].decode() == "patch_7é"
        assert file["ids"].dtype == "S9"
    labels = read_index(tmp_path / "test").labels
    assert labels.positives == (25, 24, 10)
    assert labels.classes == CLASSES


def test_packed_jpeg(tmp_path: Path) -> None:
    converted(tmp_path, jpeg_job())
    with h5py.File(tmp_path / "train" / "train-00001.h5") as file:
        ends = file["jpeg_offsets"][:]
        for row in range(16):
            assert file["jpeg"][ends[row] : ends[row + 1]].tobytes() == jpeg(16 + row)
        assert np.array_equal(file["size"][:], [(8 + 8 * (n % 2), 8) for n in range(16, 32)])


def test_statistics_are_those_of_float64(tmp_path: Path) -> None:
    converted(tmp_path, colours_job())
    every = np.stack([colours(n) for n in range(IMAGES)]).reshape(-1, 3)
    stats = read_index(tmp_path / "train").stats["images"]
    assert stats.count == len(every)
    assert stats.sum == tuple(every.sum(axis=0, dtype=np.int64))
    assert stats.sumsq == tuple((every.astype(np.int64) ** 2).sum(axis=0))
    assert stats.min == tuple(every.min(axis=0))
    assert stats.max == tuple(every.max(axis=0))
    np.testing.assert_allclose(stats.mean, every.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(stats.std, every.astype(np.float64).std(axis=0), rtol=1e-13)


def test_statistics_of_bands(tmp_path: Path) -> None:
    converted(tmp_path, bands_job())
    for name in ("wide", "small"):
        every = np.stack([bands(n)[name] for n in range(IMAGES)]).astype(np.float64)
        stats = read_index(tmp_path / "test").stats[name]
        np.testing.assert_allclose(stats.mean, every.mean(axis=(0, 2, 3)), rtol=1e-14)
        np.testing.assert_allclose(stats.std, every.std(axis=(0, 2, 3)), rtol=1e-13)
        assert stats.sumsq == tuple(int(value) for value in (every**2).sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_sums_of_floats_are_exact(layout: str) -> None:
    """Against fractions, with the smallest, the largest and both zeros among them."""
    draw = np.random.default_rng(3)
    pixels = (draw.normal(0, 1, (2, 30, 40)) * 10.0 ** draw.integers(-40, 38, (2, 30, 40))).astype(np.float32)
    odd = np.float32([0.0, -0.0, 1e-45, -1e-39, 2.0**-126, 3.4e38, -3.4e38, 1 + 2**-23, -16777215])
    pixels[1, 3, : len(odd)] = odd
    found = sums_of(pixels if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), layout)
    assert (found.count, found.unit_bits) == (1200, 149)
    for channel, values in enumerate(pixels.reshape(2, -1).tolist()):
        exact = [Fraction(value) for value in values]
        assert Fraction(found.sum[channel], 2**149) == sum(exact)
        assert Fraction(found.sumsq[channel], 4**149) == sum(value**2 for value in exact)
        assert (found.min[channel], found.max[channel]) == (min(values), max(values))
    for bad in (np.nan, np.inf, -np.inf):
        pixels[0, 0, 0] = bad
        assert sums_of(pixels, "NCHW") == Sums()


def test_statistics_of_floats_are_those_of_exact_sums(tmp_path: Path) -> None:
    converted(tmp_path, floats_job())
    index = read_index(tmp_path / "train")
    every = np.stack([decibels(n) for n in range(IMAGES)]).astype(np.float64)
    assert index.stats["s1"] is None
    stats = index.float_stats["s1"]
    assert index.statistics_of("s1") is stats
    assert stats.count == IMAGES * 35
    planes = np.moveaxis(every, 1, 0).reshape(2, -1)
    assert stats.sum == tuple(math.fsum(plane) for plane in planes)
    assert stats.sumsq == tuple(float(sum(Fraction(value) ** 2 for value in plane)) for plane in planes)
    assert (stats.min, stats.max) == (tuple(planes.min(axis=1)), tuple(planes.max(axis=1)))
    np.testing.assert_allclose(stats.mean, planes.mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(stats.std, planes.std(axis=1), rtol=1e-12)


def test_floats_that_are_not_all_finite_have_no_statistics(tmp_path: Path) -> None:
    converted(tmp_path, floats_job(spoiled=33))
    index = read_index(tmp_path / "train")
    assert (index.float_stats, index.statistics_of("s1")) == ({}, None)
    assert index.stats["images"].count == IMAGES * 48
    assert "float_stats" not in json.loads((tmp_path / "train" / "index.json").read_text())


@pytest.mark.parametrize(
    ("dtype", "shape", "layout"),
    [
        ("|u1", (70_000, 1, 3), "NHWC"),
        ("|u1", (300, 200, 1), "NHWC"),
        ("<u2", (300, 200, 3), "NHWC"),
        ("<u2", (3, 300, 200), "NCHW"),
        ("|u1", (1, 300, 200), "NCHW"),
    ],
)
def test_sums_of_the_brightest_images_are_exact(dtype: str, shape: tuple[int, ...], layout: str) -> None:
    most = int(np.iinfo(dtype).max)
    pixels = np.full(shape, most, dtype)
    pixels.flat[0] = 0
    channels = shape[-1] if layout == "NHWC" else shape[0]
    count = pixels.size // channels
    found = sums_of(pixels, layout)
    assert found.count == count
    assert found.sum == [most * (count - 1), *[most * count] * (channels - 1)]
    assert found.sumsq == [most**2 * (count - 1), *[most**2 * count] * (channels - 1)]
    assert (found.min, found.max) == ([0, *[most] * (channels - 1)], [most] * channels)


@pytest.mark.parametrize("kind", JOBS)
def test_any_number_of_workers_and_tasks_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    job = JOBS[kind]()
    converted(tmp_path / "one", job)
    time.sleep(1.1)  # HDF5 counts seconds, if it is let
    converted(tmp_path / "two", job, workers=2)
    reports = [converted(tmp_path / "tasks", job, task=(k, 2), workers=k) for k in (1, 2)]
    assert [report.complete for report in reports] == [False, True]
    assert [report.rows for report in reports] == [32, 18]
    expected = contents(tmp_path / "one" / job.split)
    assert contents(tmp_path / "two" / job.split) == expected
    assert contents(tmp_path / "tasks" / job.split) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_shorten_their_shard(tmp_path: Path, workers: int) -> None:
    unreadable = (0, 17, 31, *range(32, 48))
    job = colours_job(unreadable=unreadable, skipped=[("x.jpg", "not in the list")])
    report = converted(tmp_path, job, workers=workers)
    told = [("x.jpg", "not in the list"), *((100 + n, f"no pixels in {n}") for n in unreadable)]
    assert list(report.skipped) == told
    kept = [n for n in range(IMAGES) if n not in unreadable]
    index = read_index(tmp_path / "train")
    # a shard of which nothing is left has no file
    assert [(s.file, s.rows, s.row_start) for s in index.shards] == [
        (NAMES[0], 15, 0),
        (NAMES[1], 14, 15),
        (NAMES[3], 2, 29),
    ]
    assert sorted(contents(tmp_path / "train")) == [".lock", "index.json", "skipped.csv", NAMES[0], NAMES[1], NAMES[3]]
    stored = []
    for shard in index.shards:
        with h5py.File(tmp_path / "train" / shard.file) as file:
            stored += list(file["ids"][:])
            assert np.array_equal(file["images"][:], [colours(i - 100) for i in file["ids"][:]])
    assert stored == [100 + n for n in kept]
    lines = (tmp_path / "train" / "skipped.csv").read_text().splitlines()
    assert lines == ["id,reason", *(f"{id},{reason}" for id, reason in told)]
    # the same as a set that never had those images, but for the numbers of the shards
    every = np.stack([colours(n) for n in kept]).reshape(-1, 3)
    assert index.stats["images"].sum == tuple(every.sum(axis=0, dtype=np.int64))


def test_what_is_told(tmp_path: Path) -> None:
    console = silent()
    convert(colours_job(unreadable=tuple(range(25))), Options(tmp_path, rows_per_shard=16), console)
    first, *lines = console.file.getvalue().splitlines()
    assert first.startswith("toy train: 25 images in 4 shards, ")
    assert first.endswith(" images/s")
    one = silent()
    convert(colours_job(items=[(1, 1)]), Options(tmp_path / "one"), one)
    assert one.file.getvalue().startswith("toy train: 1 image in 1 shard, ")
    assert lines[:20] == [f"skipped {100 + n}: no pixels in {n}" for n in range(20)]
    assert lines[20:] == [f"skipped 5 more, all in {tmp_path / 'train' / 'skipped.csv'}"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    converted(tmp_path, colours_job())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "train").iterdir()}
    report = converted(tmp_path, colours_job())
    assert (report.rows, report.shards_written, report.shards_kept, report.complete) == (50, 0, 4, True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "train").iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_lost_shard_is_made_again(tmp_path: Path, damage: str) -> None:
    converted(tmp_path, colours_job())
    expected = contents(tmp_path / "train")
    lost = tmp_path / "train" / NAMES[2]
    if damage == "missing":
        lost.unlink()
    else:
        os.truncate(lost, lost.stat().st_size - 1)
    report = converted(tmp_path, colours_job())
    assert (report.shards_written, report.shards_kept, report.complete) == (1, 3, True)
    assert contents(tmp_path / "train") == expected


def test_a_lost_shard_whose_input_changed(tmp_path: Path) -> None:
    converted(tmp_path, colours_job())
    (tmp_path / "train" / NAMES[2]).unlink()
    with pytest.raises(
        Exception, match=r"train-00002.h5: made again it has SHA-256 [0-9a-f]{64}, the index says "
    ) as raised:
        converted(tmp_path, colours_job(unreadable=(40,)))
    assert f"have changed; delete {tmp_path / 'train'} to convert anew" in str(raised.value)
    assert sorted(contents(tmp_path / "train")) == [".lock", "index.json", *NAMES[:2], NAMES[3]]


KILLED = """
import sys
from pathlib import Path
from support.shard_jobs import colours_job, converted
if __name__ == "__main__":
    converted(Path(sys.argv[1]), colours_job(pause_seconds=0.02, unreadable=(3, 40)), workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle(tmp_path: Path, workers: int, stop: signal.Signals) -> None:
    script = tmp_path / "convert.py"
    script.write_text(KILLED)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "out", str(workers)],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    folder = tmp_path / "out" / "train"
    deadline = time.monotonic() + 60
    while not (folder / "train-00000.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    # SIGINT reaches all processes, as from a terminal
    os.kill(process.pid, stop) if stop == signal.SIGKILL else os.killpg(process.pid, stop)
    process.wait(timeout=30)
    while _alive(process.pid):
        assert time.monotonic() < deadline, "workers outlived the conversion"
        time.sleep(0.01)
    assert not (folder / "index.json").exists()
    if stop == signal.SIGINT:
        assert list(folder.glob("*.h5.tmp")) == []
    report = converted(tmp_path / "out", colours_job(pause_seconds=0.02, unreadable=(3, 40)))
    assert report.shards_kept >= 1
    assert report.complete
    converted(tmp_path / "whole", colours_job(unreadable=(3, 40)))
    assert contents(folder) == contents(tmp_path / "whole" / "train")


def _alive(session: int) -> bool:
    """Whether a process of this session runs."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def test_two_conversions_at_once(tmp_path: Path) -> None:
    job = colours_job(pause_seconds=0.05)
    first = threading.Thread(target=converted, args=(tmp_path, job))
    first.start()
    try:
        while not list((tmp_path / "train").glob("*.tmp")):
            time.sleep(0.01)
        text = (
            f"{tmp_path / 'train'}: another conversion is making shard 0 there now; wait for it, "
            "or give each its own share with --task K/N"
        )
        with pytest.raises(Exception, match="another conversion") as raised:
            converted(tmp_path, job)
        assert str(raised.value) == text
        assert raised.value.exit_code == 2
    finally:
        first.join()
    assert converted(tmp_path, job).shards_kept == 4


def test_tasks_at_once(tmp_path: Path) -> None:
    job = colours_job(pause_seconds=0.01)
    tasks = [threading.Thread(target=converted, args=(tmp_path, job), kwargs={"task": (k, 3)}) for k in (1, 2, 3)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    converted(tmp_path / "alone", colours_job())
    expected = contents(tmp_path / "alone" / "train")
    found = contents(tmp_path / "train")
    # how long reading takes is part of what reads, not of the plan
    assert found == expected
