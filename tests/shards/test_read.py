"""Reading: stored values by row, from several files and threads, and what a damaged folder says."""

import errno
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.shard_jobs import IMAGES, bands, bands_job, colours, colours_job, converted, jpeg, jpeg_job, multi_hot

from normhpc.errors import DataError, InputError
from normhpc.shards import open_shards, read, read_index
from normhpc.shards.index import index_sha256

ACCESS = ["mmap", "pread"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits, read by every test and changed by none."""
    path = tmp_path_factory.mktemp("shards")
    converted(path, colours_job())
    converted(path, bands_job())
    converted(path, jpeg_job(split="val"))
    return path


@pytest.mark.parametrize("access", ACCESS)
def test_stored_values(folder: Path, access: str) -> None:
    with open_shards(folder, "train", access=access) as shards:
        assert len(shards) == IMAGES
        images, labels = shards[10:40:3]
        assert np.array_equal(images, [colours(n) for n in range(10, 40, 3)])
        assert np.array_equal(labels, [n % 3 for n in range(10, 40, 3)])
        image, label = shards[-1]
        assert np.array_equal(image, colours(49))
        assert (label, label.dtype) == (49 % 3, np.int64)
        assert np.array_equal(shards.labels(), [n % 3 for n in range(IMAGES)])
        assert np.array_equal(shards.ids(), [100 + n for n in range(IMAGES)])
        assert np.array_equal(shards.extra("orig_size"), [(n, 2 * n) for n in range(IMAGES)])
        empty, none = shards[7:7]
        assert (empty.shape, none.shape) == ((0, 8, 6, 3), (0,))
        shards.check_rows(np.arange(IMAGES))
    assert np.array_equal(images, [colours(n) for n in range(10, 40, 3)]), "copies outlive the files"


@pytest.mark.parametrize("access", ACCESS)
def test_several_fields(folder: Path, access: str) -> None:
    with open_shards(str(folder), "test", access=access) as shards:
        images, labels = shards[14:18]
        for name in ("wide", "small"):
            assert np.array_equal(images[name], [bands(n)[name] for n in range(14, 18)])
        assert np.array_equal(labels, [multi_hot(n) for n in range(14, 18)])
        assert labels.dtype == np.uint8
        assert np.array_equal(shards[3][0]["small"], bands(3)["small"])
        assert np.array_equal(shards.labels(), [multi_hot(n) for n in range(IMAGES)])
        assert shards.ids()[7] == "patch_7é".encode()
        shards.check_rows(np.arange(IMAGES))


@pytest.mark.parametrize("access", ACCESS)
def test_packed_jpeg(folder: Path, access: str) -> None:
    with open_shards(folder, "val", access=access) as shards:
        images, labels = shards[2:6]
        assert [image.shape for image in images] == [(8, 8, 3), (16, 8, 3), (8, 8, 3), (16, 8, 3)]
        for number, image in enumerate(images, 2):
            assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(jpeg(number))).convert("RGB")))
        assert np.array_equal(labels, [2, 0, 1, 2])
        even, _ = shards[0:6:2]
        assert even.shape == (3, 8, 8, 3)
        assert shards.encoded(33) == jpeg(33)
        assert np.array_equal(shards.extra("size"), [(8 + 8 * (n % 2), 8) for n in range(IMAGES)])
        shards.check_rows(np.arange(IMAGES))
        with pytest.raises(ValueError, match="rows of different sizes"):
            shards.read_rows("jpeg", np.arange(2), np.empty((2, 8), np.uint8))


@pytest.mark.parametrize("access", ACCESS)
def test_rows_in_any_order_from_several_threads(folder: Path, access: str) -> None:
    every = np.stack([colours(n) for n in range(IMAGES)])
    draws = [np.random.default_rng(seed).integers(0, IMAGES, 64) for seed in range(200)]
    # within one file, too
    draws += [np.random.default_rng(seed).integers(16, 32, 64) for seed in range(200)]

    def differing(rows: np.ndarray) -> int:
        out = np.full((70, 8, 6, 3), 7, np.uint8)
        shards.read_rows("images", rows, out)
        return int((out[:64] != every[rows]).sum() + (out[64:] != 7).sum())

    with open_shards(folder, "train", access=access) as shards, ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(differing, draws)) == 0


def test_rows_that_are_not_there(folder: Path) -> None:
    with open_shards(folder, "train") as shards:
        out = np.empty((2, 8, 6, 3), np.uint8)
        for rows in ([0, 50], [-1, 3]):
            with pytest.raises(IndexError, match="of 50"):
                shards.read_rows("images", np.array(rows), out)
        for row in (50, -51):
            with pytest.raises(IndexError, match=f"row {row} of 50"):
                shards[row]
        with pytest.raises(ValueError, match=r"images: expected a contiguous array of \|u1 and rows \(8, 6, 3\), got"):
            shards.read_rows("images", np.arange(2), np.empty((2, 8, 6, 3), np.uint16))
        with pytest.raises(
            InputError, match=r"^no extra field 'orig_sise', did you mean 'orig_size'\?; there are: orig_"
        ):
            shards.extra("orig_sise")


def text_of(raised: pytest.ExceptionInfo[BaseException], folder: Path) -> str:
    return str(raised.value).replace(str(folder), "DIR")


def test_no_such_split(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        open_shards(folder, "trian")
    assert text_of(raised, folder) == "DIR: no split 'trian', did you mean 'train'?; there are: test, train, val"
    with pytest.raises(DataError) as raised:
        open_shards(tmp_path, "train")
    assert text_of(raised, tmp_path) == "DIR: no split 'train'; it holds no split with an index.json"
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError) as raised:
        open_shards(tmp_path, "train")
    assert text_of(raised, tmp_path) == (
        "DIR/train: no index.json in it: not a folder of shards, or its conversion is not complete"
    )


def test_missing_and_truncated_shards(tmp_path: Path) -> None:
    converted(tmp_path, colours_job())
    shard = tmp_path / "train" / "train-00001.h5"
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(DataError) as raised:
        open_shards(tmp_path, "train")
    assert text_of(raised, tmp_path) == (
        f"DIR/train/train-00001.h5: truncated: expected {size} bytes, got {size - 1}; run the conversion again"
    )
    shard.unlink()
    with pytest.raises(DataError) as raised:
        open_shards(tmp_path, "train")
    assert text_of(raised, tmp_path) == (
        f"DIR/train/train-00001.h5: missing, with 16 rows and {size} bytes; run the conversion again"
    )


@pytest.mark.parametrize("access", ACCESS)
def test_a_flipped_byte(tmp_path: Path, access: str) -> None:
    converted(tmp_path, colours_job())
    shard = read_index(tmp_path / "train").shards[1]
    path = tmp_path / "train" / shard.file
    content = bytearray(path.read_bytes())
    content[shard.offsets["images"] + 5 * 144 + 3] ^= 1
    path.write_bytes(content)
    with open_shards(tmp_path, "train", access=access) as shards:
        shards.check_rows(np.array([0, 20, 22, 49]))
        with pytest.raises(DataError) as raised:
            shards.check_rows(np.array([3, 21, 22]))
    start, _, rest = text_of(raised, tmp_path).partition("expected CRC-32 ")
    assert start == "DIR/train/train-00001.h5: row 5 (row 21 of the split) is damaged: "
    assert rest.endswith("; delete the file and run the conversion again")


@pytest.mark.parametrize("access", ACCESS)
def test_a_damaged_jpeg_file(tmp_path: Path, access: str) -> None:
    converted(tmp_path, jpeg_job())
    folder = tmp_path / "train"
    shard = read_index(folder).shards[1]
    path = folder / shard.file
    content = bytearray(path.read_bytes())
    # row 16 of the split loses the marker with which every JPEG file begins
    content[shard.offsets["jpeg"]] ^= 1
    path.write_bytes(content)
    with open_shards(tmp_path, "train", access=access) as shards, pytest.raises(DataError) as raised:
        shards[16]
    start = text_of(raised, tmp_path).partition("expected CRC-32 ")[0]
    assert start == f"DIR/train/{shard.file}: row 0 (row 16 of the split) is damaged: "


def test_a_sound_jpeg_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_decoder(encoded: bytes, channels: int) -> None:
        raise OSError("decoder jpeg not available")

    converted(tmp_path, jpeg_job())
    monkeypatch.setattr(read, "decoded", without_decoder)
    with open_shards(tmp_path, "train") as shards, pytest.raises(DataError) as raised:
        shards[17]
    assert text_of(raised, tmp_path) == (
        "DIR/train/train-00001.h5: row 1 (row 17 of the split) cannot be decoded: decoder jpeg not available; "
        "its bytes are as they were written: check the installation of Pillow"
    )


def test_a_failing_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_shards(folder, "train", access="pread") as shards:
        shards.labels()

        def failing(*_: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "preadv", failing)
        with pytest.raises(DataError) as raised:
            shards.read_rows("images", np.array([3, 37]), np.empty((2, 8, 6, 3), np.uint8))
        assert text_of(raised, folder) == (
            "DIR/train/train-00000.h5: row 3 of images cannot be read: Input/output error; "
            "check the disk, or copy the file again"
        )
        monkeypatch.setattr(os, "preadv", lambda *_: 0)
        with pytest.raises(DataError, match=r"train-00002.h5: row 5 of images cannot be read: the file ends before it"):
            shards[37]


def test_rows_that_follow_one_another_are_read_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, whole = [], os.preadv
    with open_shards(folder, "train") as mapped, open_shards(folder, "train", access="pread") as shards:
        monkeypatch.setattr(os, "preadv", lambda *args: sizes.append(whole(*args)) or sizes[-1])
        rows = np.array([3, 4, 5, 20, 21, 9, 8, 8, 30])
        found, expected = (np.empty((9, 8, 6, 3), np.uint8) for _ in range(2))
        shards.read_rows("images", rows, found)
        mapped.read_rows("images", rows, expected)
    np.testing.assert_array_equal(found, expected)
    assert sorted(sizes) == [8 * 6 * 3 * count for count in (1, 1, 1, 1, 2, 3)]


def open_files() -> set[Path]:
    """Descriptors of this process."""
    return set(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("access", ["mmap", "pread"])
def test_more_shards_than_files_may_be_open(folder: Path, access: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were opened before are closed again."""
    opened, whole = [], os.open

    def full(path: Path, flags: int) -> int:
        if opened:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(whole(path, flags))
        return opened[0]

    before = open_files()
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(DataError) as raised:
        open_shards(folder, "train", access=access)
    assert text_of(raised, folder) == (
        "DIR/train/train-00001.h5: cannot be opened: Too many open files; a run holds every shard open: raise the limit "
        "(ulimit -n), or convert with more --rows-per-shard"
    )
    assert open_files() <= before


def test_a_map_holds_one_descriptor(folder: Path) -> None:
    before = len(open_files())
    with open_shards(folder, "train") as shards:
        assert len(open_files()) == before + len(shards.index.shards)


def test_a_disk_that_gives_little_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, begin: whole(file, [buffers[0][:100]], begin))
    with open_shards(folder, "train", access="pread") as shards:
        assert np.array_equal(shards[:][0], [colours(n) for n in range(IMAGES)])


def change_index(folder: Path, change: dict[str, object], *, sign: bool = True) -> None:
    path = folder / "index.json"
    content = json.loads(path.read_text()) | change
    if sign:
        content["index_sha256"] = index_sha256(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"format_version": 2},
            "format_version: expected 1, got 2: written by a newer version; update normhpc",
        ),
        ({"format": "other"}, "expected the index of shards, with format 'normhpc-index'"),
        (
            {"rows": -1},
            "rows: expected a positive integer, got -1; run the conversion again",
        ),
        ({"rows": 49}, "rows: expected 50 as in the shards, got 49; run the conversion again"),
    ],
)
def test_a_changed_index(tmp_path: Path, change: dict[str, object], text: str) -> None:
    converted(tmp_path, colours_job())
    change_index(tmp_path / "train", change)
    with pytest.raises(DataError) as raised:
        open_shards(tmp_path, "train")
    assert text_of(raised, tmp_path) == f"DIR/train/index.json: {text}"


def test_an_index_changed_by_hand(tmp_path: Path) -> None:
    converted(tmp_path, colours_job())
    expected = read_index(tmp_path / "train").index_sha256
    change_index(tmp_path / "train", {"dataset": "tpy"}, sign=False)
    with pytest.raises(DataError) as raised:
        open_shards(tmp_path, "train")
    text = text_of(raised, tmp_path)
    assert text.startswith("DIR/train/index.json: index_sha256: expected ")
    assert text.endswith(f", got {expected}: the index was changed; run the conversion again")
    (tmp_path / "train" / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index.json: not JSON \(.*\); run the conversion again$"):
        open_shards(tmp_path, "train")
