"""``normhpc shards``: every kind of damage is found and named."""

import json
import math
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.launches import normhpc
from support.shard_jobs import JOBS, bands_job, colours_job, converted, floats_job, jpeg_job, read_as

from normhpc.config.problems import validate_run
from normhpc.errors import DataError
from normhpc.shards import read_index
from normhpc.shards.convert import ImageField, LabelSpec, Row
from normhpc.shards.index import index_sha256

REPAIR = "delete the file and run the conversion again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    converted(tmp_path, colours_job())
    return tmp_path / "train"


def verify(folder: Path) -> tuple[int, list[str]]:
    """Exit code and lines, the folder's name left out."""
    answer = normhpc("shards", "verify", str(folder))
    assert answer.err == ""
    return answer.code, answer.out.replace(f"{folder}/", "").replace(str(folder), "DIR").splitlines()


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("kind", JOBS)
def test_sound(tmp_path: Path, kind: str) -> None:
    job = JOBS[kind]()
    converted(tmp_path, job)
    assert verify(tmp_path / job.split) == (0, ["DIR: sound, 50 images in 4 shards"])


def test_flipped_pixels_are_named(folder: Path) -> None:
    shard = read_index(folder).shards[2]
    for row in (3, 9):
        flip(folder / shard.file, shard.offsets["images"] + 144 * row + 143)
    message = f"train-00002.h5: rows 3, 9 damaged: other CRC-32 than when written; {REPAIR}"
    assert verify(folder) == (1, [message, "DIR: 1 check failed"])


@pytest.mark.parametrize("job", [bands_job(), jpeg_job()])
def test_flipped_bytes_of_other_kinds(tmp_path: Path, job: object) -> None:
    converted(tmp_path, job)
    folder = tmp_path / job.split
    shard = read_index(folder).shards[3]
    field = job.fields[-1].name
    flip(folder / shard.file, shard.offsets[field] + 1)
    message = f"{shard.file}: row 0 damaged: other CRC-32 than when written; {REPAIR}"
    assert verify(folder) == (1, [message, "DIR: 1 check failed"])


@pytest.mark.parametrize("dataset", ["labels", "ids", "orig_size"])
def test_flipped_byte_outside_the_images(folder: Path, dataset: str) -> None:
    shard = read_index(folder).shards[0]
    flip(folder / shard.file, shard.offsets[dataset])
    code, lines = verify(folder)
    assert code == 1
    assert lines[0].startswith("train-00000.h5: SHA-256 ")
    assert lines[0].endswith(
        f", expected {shard.sha256}: bytes outside the images differ (labels, ids, checksums or headers); {REPAIR}"
    )
    told = f"train-00000.h5: row 0 with labels other than 0 to 2; {REPAIR}"
    assert lines[1:-1] == ([told] if dataset == "labels" else [])


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    converted(tmp_path, colours_job(items=[(0, 0), (1, 1)]))
    folder = tmp_path / "train"
    whole = (folder / "train-00000.h5").read_bytes()
    from normhpc.shards.verify import verify_split

    for offset in range(0, len(whole), 7):
        flip(folder / "train-00000.h5", offset)
        assert verify_split(folder, lambda _: None, lambda _: None).faults, offset
        (folder / "train-00000.h5").write_bytes(whole)
    assert verify_split(folder, lambda _: None, lambda _: None).faults == []


def test_truncated_missing_and_foreign_shards(folder: Path) -> None:
    sizes = {shard.file: shard.bytes for shard in read_index(folder).shards}
    os.truncate(folder / "train-00000.h5", sizes["train-00000.h5"] - 1)
    (folder / "train-00001.h5").unlink()
    shutil.copy(folder / "train-00003.h5", folder / "train-00004.h5")
    for name in ("train-00002.json", "train-00002.h5.tmp", "plan.json", "README"):
        (folder / name).touch()
    expected = sizes["train-00000.h5"]
    assert verify(folder) == (
        1,
        [
            f"train-00000.h5: truncated: expected {expected} bytes, got {expected - 1}; run the conversion again",
            f"train-00001.h5: missing, with 16 rows and {sizes['train-00001.h5']} bytes; run the conversion again",
            "train-00004.h5: a foreign shard: the index does not name it; move it away",
            "note: README: not part of the shards",
            "note: plan.json: left by a conversion; it may be deleted when none is running",
            "note: train-00002.h5.tmp: left by a conversion; it may be deleted when none is running",
            "note: train-00002.json: left by a conversion; it may be deleted when none is running",
            "DIR: 3 checks failed",
        ],
    )


def test_a_shard_in_the_place_of_another(folder: Path) -> None:
    shutil.copy(folder / "train-00001.h5", folder / "train-00000.h5")
    code, lines = verify(folder)
    assert code == 1
    assert lines[0] == f"train-00000.h5: a foreign shard: shard 1, expected 0; {REPAIR}"
    assert lines[1].startswith("train-00000.h5: SHA-256 ")


def sign(folder: Path, **changes: object) -> None:
    path = folder / "index.json"
    content = json.loads(path.read_text()) | changes
    content["index_sha256"] = index_sha256(content)
    path.write_text(json.dumps(content))


def test_statistics_and_offsets_are_computed_again(folder: Path) -> None:
    content = json.loads((folder / "index.json").read_text())
    total = content["stats"]["images"]["sum"]
    wrong = [total[0] + 1, *total[1:]]
    sign(folder, stats={"images": content["stats"]["images"] | {"sum": wrong}})
    message = f"index.json: stats.images.sum: expected {total}, got {wrong}; convert anew"
    assert verify(folder) == (1, [message, "DIR: 1 check failed"])
    shards = content["shards"]
    shards[1]["offsets"]["ids"] += 8
    sign(folder, stats=content["stats"], shards=shards)
    code, lines = verify(folder)
    assert (code, len(lines)) == (1, 2)
    assert lines[0].startswith("train-00001.h5: datasets begin at {'crc32': ")


def test_statistics_of_floats_are_computed_again(tmp_path: Path) -> None:
    converted(tmp_path, floats_job())
    folder = tmp_path / "train"
    stats = json.loads((folder / "index.json").read_text())["float_stats"]["s1"]
    wrong = [stats["std"][0], math.nextafter(stats["std"][1], 9)]
    sign(folder, float_stats={"s1": stats | {"std": wrong}})
    message = f"index.json: float_stats.s1.std: expected {stats['std']}, got {wrong}; convert anew"
    assert verify(folder) == (1, [message, "DIR: 1 check failed"])
    sign(folder, float_stats={"s1": stats, "images": stats})
    with pytest.raises(DataError) as raised:
        read_index(folder)
    assert str(raised.value) == (
        f"{folder / 'index.json'}: float_stats: expected those of fields of floats, got images; run the conversion again"
    )


def test_shards_of_floats_that_are_not_all_finite_are_sound(tmp_path: Path) -> None:
    converted(tmp_path, floats_job(spoiled=2))
    note = "train-00000.h5: row 2 with values of s1 that are not finite: no run may use its bands"
    assert verify(tmp_path / "train") == (0, [f"note: {note}", "DIR: sound, 50 images in 4 shards"])
    lines = normhpc("shards", "info", str(tmp_path / "train")).out.splitlines()
    assert "    VV, VH: not all finite, or converted before floats had statistics: none" in lines


def test_damaged_index(folder: Path) -> None:
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"rows": 50', '"rows": 51', 1))
    code, lines = verify(folder)
    assert code == 1
    assert lines[0].startswith("index.json: index_sha256: expected ")
    (folder / "index.json").unlink()
    (folder / "plan.json").touch()
    message = "index.json: missing: the conversion is not complete; run it again"
    assert verify(folder) == (1, [message, "DIR: 1 check failed"])


def test_what_is_no_shards(folder: Path) -> None:
    sign(folder, format_version=2)
    text = f"{folder}/index.json: format_version: expected 1, got 2: written by a newer version; update normhpc"
    for what in ("info", "verify"):
        assert normhpc("shards", what, str(folder)) == (2, "", f"error: {text}\n")
        empty = folder / "empty"
        empty.mkdir(exist_ok=True)
        text_of_empty = f"{empty}: no shards: neither it nor a folder in it has an index.json; see docs/shards.md"
        assert normhpc("shards", what, str(empty)) == (2, "", f"error: {text_of_empty}\n")
        absent = f"{folder}/absent: no such folder; name the folder of a split, or one that holds splits"
        assert normhpc("shards", what, f"{folder}/absent") == (2, "", f"error: {absent}\n")


def test_json(tmp_path: Path) -> None:
    converted(tmp_path, colours_job())
    converted(tmp_path, colours_job(split="test"))
    shard = read_index(tmp_path / "test").shards[0]
    flip(tmp_path / "test" / shard.file, shard.offsets["images"])
    answer = normhpc("shards", "verify", str(tmp_path), "--json")
    assert (answer.code, answer.err) == (1, "")
    test, train = json.loads(answer.out)
    message = f"row 0 damaged: other CRC-32 than when written; {REPAIR}"
    assert test["faults"] == [{"file": "test-00000.h5", "message": message, "rows": [0]}]
    assert (test["sound"], train["sound"]) == (False, True)
    assert (train["split"], train["rows"], train["shards"]) == ("train", 50, 4)
    found = json.loads(normhpc("shards", "info", str(tmp_path), "--json").out)
    assert [(split["split"], split["rows"], split["labels"]["classes"]) for split in found] == [
        ("test", 50, ["cat", "dog", "emu"]),
        ("train", 50, ["cat", "dog", "emu"]),
    ]
    assert found[1]["bytes"] == sum(path.stat().st_size for path in (tmp_path / "train").glob("*.h5"))


def test_info(tmp_path: Path) -> None:
    converted(tmp_path, colours_job())
    converted(tmp_path, colours_job(split="test", items=[(n, n) for n in range(4)]))
    answer = normhpc("shards", "info", str(tmp_path / "train"))
    assert (answer.code, answer.err) == (0, "")
    stats = read_index(tmp_path / "train").stats["images"]
    size = sum(path.stat().st_size for path in (tmp_path / "train").glob("*.h5")) / 1024
    assert answer.out.splitlines() == [
        f"toy train: 50 images, {size:.1f} KiB",
        "  files: 4 of 16 images or fewer, raw",
        "  labels: one of 3 classes (cat, dog, emu)",
        "  images: 8 x 6 x 3 |u1 NHWC",
        *(
            f"    {band}: mean {mean:.4f}, std {std:.4f}"
            for band, mean, std in zip(("red", "green", "blue"), stats.mean, stats.std, strict=True)
        ),
        f"data: {{name: shards, dataset: toy, path: {tmp_path}, train: train, test: test, channels: 3, height: 8, width: 6, "
        "num_classes: 3}",
    ]


def test_info_of_other_kinds(tmp_path: Path) -> None:
    converted(tmp_path / "bands", bands_job())
    block = json.loads(normhpc("shards", "info", str(tmp_path / "bands"), "--json").out)[0]["data"]
    del block["path"]
    assert block == {
        "name": "shards",
        "dataset": "bands",
        "train": "test",
        "channels": 6,
        "height": 6,
        "width": 6,
        "num_classes": 3,
        "multi_label": True,
    }
    converted(tmp_path / "jpeg", jpeg_job())
    block = json.loads(normhpc("shards", "info", str(tmp_path / "jpeg"), "--json").out)[0]["data"]
    assert (block["channels"], "height" in block) == (3, False)
    converted(tmp_path / "even", jpeg_job(items=[(n, n) for n in range(0, 50, 2)]))
    block = json.loads(normhpc("shards", "info", str(tmp_path / "even"), "--json").out)[0]["data"]
    assert (block["channels"], block["height"], block["width"]) == (3, 8, 8)


def test_info_prints_what_can_be_trained_on(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        converted(tmp_path / "three", colours_job(split=split, items=[(1, 1)]))
    converted(tmp_path / "three", jpeg_job(split="testing", dataset="other"))
    lines = normhpc("shards", "info", str(tmp_path / "three")).out.splitlines()
    toy, other = (yaml.safe_load(line)["data"] for line in lines if line.startswith("data: "))
    assert (toy["dataset"], toy["train"], toy["val"], toy["test"]) == ("toy", "train", "validation", "test")
    assert (other["dataset"], other["train"], "val" in other, "test" in other) == ("other", "testing", False, False)
    validate_run({"data": toy})


def test_info_of_one_class_says_that_no_sweep_takes_it(tmp_path: Path) -> None:
    converted(tmp_path, colours_job(labels=LabelSpec("single", ("cat",)), items=[(3, 0)]))
    lines = normhpc("shards", "info", str(tmp_path)).out.splitlines()
    assert lines[2] == "  labels: one of 1 class (cat)"
    assert lines[-1] == (
        "note: no sweep takes toy: its images are of 1 class, and a network learns to tell at least 2 apart; "
        "convert images of more"
    )
    assert json.loads(normhpc("shards", "info", str(tmp_path), "--json").out)[0]["data"] is None


def test_info_of_a_split_beside_a_damaged_one(folder: Path) -> None:
    converted(folder.parent, colours_job(split="test", items=[(1, 1)]))
    (folder.parent / "test" / "index.json").write_text("{}")
    answer = normhpc("shards", "info", str(folder))
    assert answer.code == 0
    assert answer.out.splitlines()[-1].endswith("train: train, channels: 3, height: 8, width: 6, num_classes: 3}")
    answer = normhpc("shards", "info", str(folder.parent))
    assert (answer.code, "test/index.json: expected the index of shards" in answer.err) == (2, True)


def test_info_leaves_floats_out(tmp_path: Path) -> None:
    images = {"bytes": np.zeros((2, 6, 6), np.uint16), "decibels": np.zeros((2, 12, 12), np.float32)}
    fields = (
        ImageField("bytes", "<u2", (2, 6, 6), "NCHW", ("B02", "B03")),
        ImageField("decibels", "<f4", (2, 12, 12), "NCHW", ("VV", "VH")),
    )
    read = partial(read_as, row=Row(images, 0))
    converted(tmp_path, colours_job(fields=fields, read=read, extra_fields=()))
    block = json.loads(normhpc("shards", "info", str(tmp_path / "train"), "--json").out)[0]["data"]
    assert (block["bands"], block["channels"], block["height"], block["width"]) == (["B02", "B03"], 2, 6, 6)
    lines = normhpc("shards", "info", str(tmp_path / "train")).out.splitlines()
    assert [yaml.safe_load(line)["data"] for line in lines if line.startswith("data: ")] == [block]


def test_neither_loads_torch(folder: Path) -> None:
    import subprocess
    import sys

    code = "import sys, normhpc.cli as c; c.app(['shards', sys.argv[1], sys.argv[2]], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    for what in ("info", "verify"):
        done = subprocess.run([sys.executable, "-c", code, what, str(folder)], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
