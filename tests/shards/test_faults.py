"""What conversion says when the script, the folder, the disk or a process is at fault, and what it leaves behind."""

import argparse
import errno
import os
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.disks import mounted
from support.shard_jobs import (
    IMAGES,
    bands_job,
    colours,
    colours_job,
    contents,
    converted,
    jpeg_job,
    multi_hot,
    read_as,
    read_then_die,
)

from normhpc.errors import DataError, InputError, NormhpcError
from normhpc.shards.convert import ImageField, LabelSpec, Options, Row, add_options, parse_task, run
from normhpc.shards.rows import NotWritten

EXTRA = {"orig_size": (1, 2)}


def refused(out: Path, job: object, **options: object) -> str:
    """The text of the error, after which nothing but what was whole is there."""
    with pytest.raises(NormhpcError) as raised:
        converted(out, job, **options)
    assert list(out.rglob("*.h5*")) == []
    return str(raised.value).replace(str(out), "OUT")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            Row({"images": colours(0).astype(np.float32)}, 0, EXTRA),
            "image 100: images: expected |u1 (8, 6, 3), got <f4 (8, 6, 3)",
        ),
        (
            Row({"images": colours(0)[:7]}, 0, EXTRA),
            "image 100: images: expected |u1 (8, 6, 3), got |u1 (7, 6, 3)",
        ),
        (Row({"pixels": colours(0)}, 0, EXTRA), "image 100: expected an array images, got none"),
        (Row(b"jpeg", 0, EXTRA), "image 100: expected an array images, got none"),
        (Row({"images": colours(0)}, 3, EXTRA), "image 100: label: expected a class from 0 to 2, got 3"),
        (Row({"images": colours(0)}, -1, EXTRA), "image 100: label: expected a class from 0 to 2, got -1"),
        (Row({"images": colours(0)}, 0.5, EXTRA), "image 100: label: expected a class from 0 to 2, got 0.5"),
        (Row({"images": colours(0)}, 0), "image 100: expected an extra field orig_size, got none"),
        (
            Row({"images": colours(0)}, 0, {"orig_size": (1, 70_000)}),
            "image 100: orig_size: expected <u2 (2,), got (1, 70000)",
        ),
    ],
)
def test_rows_that_are_not_what_the_job_says(tmp_path: Path, row: Row, text: str) -> None:
    assert refused(tmp_path, colours_job(read=partial(read_as, row=row))) == text


def test_errors_of_workers_are_the_same(tmp_path: Path) -> None:
    job = colours_job(read=partial(read_as, row=Row({"images": colours(0)}, 3, EXTRA)))
    assert refused(tmp_path, job, workers=2) == "image 100: label: expected a class from 0 to 2, got 3"


def test_labels_of_several_classes(tmp_path: Path) -> None:
    row = Row({"wide": np.zeros((4, 6, 6), np.uint16), "small": np.zeros((2, 3, 3), np.uint16)}, [0, 2, 0])
    text = "image 'patch_0': label: expected 3 numbers 0 or 1, got [0, 2, 0]"
    assert refused(tmp_path, bands_job(read=partial(read_as, row=row))) == text


def test_jpeg_that_is_none(tmp_path: Path) -> None:
    text = refused(tmp_path, jpeg_job(read=partial(read_as, row=Row(b"not a picture", 0))))
    assert text.startswith("image 0: expected a JPEG file that can be decoded: cannot identify image file")
    text = refused(tmp_path, jpeg_job(read=partial(read_as, row=Row({"jpeg": colours(0)}, 0))))
    assert text == "image 0: expected the bytes of a JPEG file, got dict"


def test_nothing_readable(tmp_path: Path) -> None:
    text = refused(tmp_path, colours_job(unreadable=tuple(range(IMAGES))))
    assert text == "toy train: none of 50 images could be read; 100: no pixels in 0; copy or download them again"
    assert not (tmp_path / "train" / "index.json").exists()


def test_an_input_that_fails(tmp_path: Path) -> None:
    text = refused(tmp_path, colours_job(read=Path.read_bytes, items=[("a", tmp_path / "absent")]))
    assert text == "image 'a': cannot be read: [Errno 2] No such file or directory: 'OUT/absent'"


def test_a_mistake_in_the_script_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(TypeError) as raised:
        converted(tmp_path, colours_job(read=multi_hot, items=[("a", None)]))
    assert raised.value.__notes__ == ["while reading image 'a'"]
    assert list(tmp_path.rglob("*.h5*")) == []


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    text = (
        "OUT/train: a worker process was killed, perhaps for want of memory; run the same command again, "
        "it goes on from here, with fewer --workers if it was memory"
    )
    assert refused(tmp_path, colours_job(read=read_then_die), workers=2, rows_per_shard=64) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"items": [(7, 1), (8, 2), (7, 3)]},
            "id 7 appears twice in toy train; every image needs an id of its own",
        ),
        ({"items": [(7, 1), ("8", 2)]}, "id '8': expected all numbers or all texts, got str"),
        ({"items": [("", 1)]}, "id '': expected text without zero bytes"),
        ({"items": []}, "toy train: no images to convert"),
        ({"split": "a/b"}, "split: expected letters, digits, '.', '_' and '-', got 'a/b'"),
        (
            {"fields": (ImageField("ids", "|u1", (1,), "NHWC"),)},
            "fields: expected different names, none of crc32, ids, jpeg, jpeg_offsets, labels, size; "
            "got ids, orig_size",
        ),
        (
            {"fields": (ImageField("images", "<f8", (8, 6, 3), "NHWC"),)},
            "images: expected |u1, <u2 or <f4, NHWC or NCHW; got <f8, NHWC",
        ),
        ({"encoding": "jpeg"}, "fields: packed JPEG takes one field jpeg of shape ()"),
        (
            {"source": {"path": Path("x")}},
            "preprocessing, source and labels: expected what JSON can hold "
            "(Object of type PosixPath is not JSON serializable)",
        ),
    ],
)
def test_jobs_that_cannot_be(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    with pytest.raises(InputError) as raised:
        converted(tmp_path, colours_job(**changes))
    assert str(raised.value) == text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers: expected at least 1 process, got 0; raise it or leave it out"),
        (
            {"rows_per_shard": 0, "workers": -1},
            "rows_per_shard: expected at least 1 image per file, got 0; raise it or leave it out\n"
            "workers: expected at least 1 process, got -1; raise it or leave it out",
        ),
        ({"task": (3, 2)}, "task: expected K/N with K from 1 to N, got 3/2"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError) as raised:
        converted(tmp_path, colours_job(), **options)
    assert str(raised.value) == text


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({}, {"rows_per_shard": 20}, "rows_per_shard (16 there, 20 asked for)"),
        ({"dataset": "tpy"}, {}, "dataset ('toy' there, 'tpy' asked for)"),
        (
            {"preprocessing": {"resize": "crop"}, "labels": LabelSpec("single", ("a", "b", "c"))},
            {},
            "labels, preprocessing",
        ),
        ({"items": [(n, n) for n in range(40)]}, {}, "images (50 there, 40 asked for, or other ids)"),
    ],
)
def test_another_conversion_is_there(
    tmp_path: Path, changes: dict[str, object], options: dict[str, object], text: str, complete: bool
) -> None:
    converted(tmp_path, colours_job(), task=(1, 1) if complete else (1, 2))
    before = contents(tmp_path / "train")
    with pytest.raises(InputError) as raised:
        converted(tmp_path, colours_job(**changes), **options)
    if complete and text.startswith("images"):
        text = "images (50 stored there, 40 asked for, or other ids)"
    assert str(raised.value) == (
        f"{tmp_path / 'train'}: holds another conversion, which differs in {text}; "
        "give another --out, or delete the folder to convert anew"
    )
    assert contents(tmp_path / "train") == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "size=256k")


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk(small_disk: Path, tmp_path: Path, workers: int) -> None:
    # one shard of 600 images of 144 bytes fits, two do not fit beside the ballast
    (small_disk / "ballast").write_bytes(bytes(80_000))
    job = colours_job(items=[(n, n % IMAGES) for n in range(1200)])
    with pytest.raises(NormhpcError) as raised:
        converted(small_disk, job, rows_per_shard=600, workers=workers)
    # with two workers the second shard may take the room that the first needs for its labels
    failed = "train-00001" if workers == 1 else r"train-0000[01]"
    text = rf"{small_disk}/train/{failed}.h5.tmp: cannot be written \(No space left on device\); it needs room for "
    text += "a shard of 86,400 bytes; make room or give another --out, then run the same command again: it goes on from here"
    assert re.fullmatch(text, str(raised.value))
    assert raised.value.exit_code == 1
    left = sorted(contents(small_disk / "train"))
    whole = ["train-00000.h5", "train-00000.json"]
    assert left in ([".lock", "plan.json", *whole], [".lock", "plan.json"] if workers == 2 else None)
    (small_disk / "ballast").unlink()
    report = converted(small_disk, job, rows_per_shard=600, workers=workers)
    assert (report.shards_kept, report.complete) == (len(left) // 4, True)
    converted(tmp_path / "roomy", job, rows_per_shard=600)
    assert contents(small_disk / "train") == contents(tmp_path / "roomy" / "train")


@pytest.mark.parametrize("room", [0, 4_096, 8_192])
def test_no_room_for_the_headers(small_disk: Path, room: int) -> None:
    # HDF5 itself may crash on this
    with (small_disk / "ballast").open("wb") as ballast:
        ballast.write(bytes((256 << 10) - room - 8_192))
    (small_disk / "train").mkdir()
    text = r"OUT/train/\S+: cannot be written \(No space left on device\); it needs room for .*"
    assert re.fullmatch(
        text, refused(small_disk, colours_job(items=[(n, n % IMAGES) for n in range(600)]), rows_per_shard=600)
    )


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
    try:
        text = refused(tmp_path, colours_job(), rows_per_shard=50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert text.startswith("OUT/train/train-00000.h5.tmp: cannot be written (")
    assert "it needs room for a shard of 7,200 bytes" in text


def test_an_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(NormhpcError) as raised:
        converted(tmp_path / "out", colours_job())
    assert str(raised.value) == (
        f"{tmp_path}/out/train: cannot be written (Not a directory); mend that or give another --out, then run the same "
        "command again: it goes on from here"
    )


def test_only_a_lack_of_room_asks_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, cure in (
        (errno.EIO, "mend that"),
        (errno.EROFS, "mend that"),
        (errno.EDQUOT, "it needs room for a shard of 2,304 bytes; make room"),
    ):

        def refuse(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)
            text = refused(tmp_path, colours_job())
        assert text == (
            f"OUT/train/train-00000.h5.tmp: cannot be written ({os.strerror(number)}); {cure} or give another --out, then "
            "run the same command again: it goes on from here"
        )
    sent = pickle.loads(pickle.dumps(NotWritten("no room", True)))  # by a worker
    assert (str(sent), sent.for_room) == ("no room", True)


def test_a_limit_that_was_another_is_told_with_the_counts(tmp_path: Path) -> None:
    """Ids of texts are stored as wide as the widest, so that fewer of them differ in that as well."""
    items = [(f"{10**n}", n) for n in range(9)]
    converted(tmp_path, colours_job(items=items))
    with pytest.raises(InputError) as raised:
        converted(tmp_path, colours_job(items=items[:4]))
    assert str(raised.value) == (
        f"{tmp_path / 'train'}: holds another conversion, which differs in ids_dtype ('|S9' there, '|S4' asked for), images "
        "(9 stored there, 4 asked for, or other ids); give another --out, or delete the folder to convert anew"
    )
    with pytest.raises(InputError, match=r"images \(9 stored there, 12 asked for, or other ids\)"):
        converted(tmp_path, colours_job(items=[(f"{10 ** (n % 9)}{'x' * (n // 9)}", n) for n in range(12)]))


def test_rows_that_are_read_back_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may give fewer bytes than were asked for: rows behind a skipped one are copied whole."""
    job = colours_job(unreadable=(3, 20))
    converted(tmp_path / "whole", job)
    read = os.preadv
    parts = []

    def some(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        parts.append(len(buffers[0]))
        return read(descriptor, [buffers[0][:100]], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", some)
        converted(tmp_path / "parts", job)
    assert {144, 44} <= set(parts)
    assert contents(tmp_path / "parts" / "train") == contents(tmp_path / "whole" / "train")
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda *_: 0)
        text = refused(tmp_path / "short", job)
    assert re.fullmatch(
        r"OUT/train/train-00000\.h5\.tmp: ends at byte \d+, in a row that was written; run the same command again", text
    )


def test_options_of_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    given = ["--out", "x", "--workers", "3", "--task", "2/5", "--limit", "7", "--rows-per-shard", "100"]
    assert vars(parser.parse_args(given)) == {
        "out": Path("x"),
        "workers": 3,
        "task": (2, 5),
        "limit": 7,
        "rows_per_shard": 100,
    }
    default = parser.parse_args(["--out", "x"])
    assert (default.task, default.limit, default.rows_per_shard) == ((1, 1), None, Options(Path()).rows_per_shard)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--out", "x", "--task", "0/3"])
    assert "argument --task: expected K/N with K from 1 to N, got '0/3'" in capsys.readouterr().err
    for limit in ("0", "-1", "many"):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(["--out", "x", f"--limit={limit}"])
        assert f"argument --limit: expected at least 1 image, got '{limit}'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "3", "4/3", "1/0", "-1/2", "1/2/3", "a/b"])
def test_tasks_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_task(text)


@pytest.mark.parametrize(
    ("error", "code", "err"),
    [
        (DataError("x: no image"), 2, "error: x: no image\n"),
        (NormhpcError("disk full"), 1, "error: disk full\n"),
        (KeyboardInterrupt(), 130, ""),
        (None, 0, ""),
    ],
)
def test_the_end_of_a_script(
    error: BaseException | None, code: int, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        if error is not None:
            raise error
        return 0

    with pytest.raises(SystemExit) as raised:
        run(main)
    assert (raised.value.code, capsys.readouterr().err) == (code, err)


def test_workers_load_no_torch(tmp_path: Path) -> None:
    code = "import sys, normhpc.shards.convert, normhpc.shards.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
