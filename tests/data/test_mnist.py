import gzip
import hashlib
import re
import struct

import numpy as np
import pytest
from support.samples import sample

from normhpc.config.data import Mnist
from normhpc.data import load
from normhpc.data.mnist import NAMES
from normhpc.errors import DataError

OFFICIAL_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def idx(array):
    return struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A small set in the official layout: 6 training and 3 test images, gzipped."""
    for prefix, rows in (("train", 6), ("t10k", 3)):
        images = np.random.default_rng(rows).integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        for name, array in (
            (f"{prefix}-images-idx3-ubyte", images),
            (f"{prefix}-labels-idx1-ubyte", images[:, 0, 0] % 10),
        ):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def unpack(folder):
    for name in NAMES:
        packed = folder / f"{name}.gz"
        (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()


def read(folder, **fields):
    return load(Mnist(path=str(folder), val_fraction=0.0, **{"allow_partial": True, **fields}))


def test_the_complete_set():
    folder = sample("mnist")
    for name, md5 in OFFICIAL_MD5.items():
        assert hashlib.md5(gzip.decompress((folder / f"{name}.gz").read_bytes())).hexdigest() == md5
    data = load(Mnist(path=str(folder), val_fraction=0.0))
    assert (len(data.train), len(data.val), len(data.test)) == (60_000, 0, 10_000)
    assert data.train.images.shape == (60_000, 28, 28, 1)
    for split, name in ((data.train, NAMES[0]), (data.test, NAMES[2])):
        header = idx(np.empty((len(split), 28, 28), np.uint8))[:16]
        assert hashlib.md5(header + split.images.numpy().tobytes()).hexdigest() == OFFICIAL_MD5[name]
    for split, name in ((data.train, NAMES[1]), (data.test, NAMES[3])):
        labels = split.labels.numpy().astype(np.uint8)
        assert hashlib.md5(idx(labels)).hexdigest() == OFFICIAL_MD5[name]
    assert (round(data.mean[0], 4), round(data.std[0], 4)) == (0.1307, 0.3081)
    assert data.classes == tuple("0123456789")


def test_a_truncated_copy_of_the_complete_set_is_refused(tmp_path):
    folder = sample("mnist")
    for name in NAMES:
        (tmp_path / f"{name}.gz").write_bytes((folder / f"{name}.gz").read_bytes())
    whole = (folder / f"{NAMES[0]}.gz").read_bytes()
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"says 60000x28x28, 47,040,016 bytes unpacked, found [\d,]+, where the gzip"):
        read(tmp_path)


@pytest.mark.parametrize("subfolder", [".", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_layouts(folder, tmp_path, packed, subfolder):
    digest = read(folder).digest
    if not packed:
        unpack(folder)
    target = tmp_path / "other" / subfolder
    target.mkdir(parents=True)
    for file in folder.glob("*ubyte*"):
        file.rename(target / file.name)
    data = read(tmp_path / "other")
    assert (len(data.train), len(data.test)) == (6, 3)
    assert data.digest == digest


def test_a_partial_set_is_refused_unless_allowed(folder):
    with pytest.raises(DataError) as caught:
        read(folder, allow_partial=False)
    assert str(caught.value) == (
        f"data.path: {folder} has 6 training and 3 test images, MNIST has 60,000 and 10,000; "
        "complete the folder, or set data.allow_partial: true to use what is there"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "its header says 6x28x28, 4,720 bytes unpacked, found 4,719;"),
        (lambda raw: raw + b"x", "its header says 6x28x28, 4,720 bytes unpacked, found 4,721;"),
        (lambda raw: raw[:7], "expected a header of 16 bytes, found 7;"),
        (lambda raw: b"", "expected a header of 16 bytes, found 0;"),
        (lambda raw: b"\0\0\x08\x01" + raw[4:], "expected an idx file that begins with 2051, found 2049;"),
        (lambda raw: idx(np.zeros((6, 28, 27), np.uint8)), "expected images of 28x28, found 28x27;"),
        (lambda raw: idx(np.zeros((0, 28, 28), np.uint8)), "expected images, found none;"),
    ],
)
def test_a_damaged_file_is_named_even_where_parts_are_allowed(folder, damage, message):
    unpack(folder)
    file = folder / NAMES[0]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=f"^{re.escape(f'{file}: {message} copy or download the file again')}$"):
        read(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[: len(packed) // 2], "its header says 6x28x28, 4,720 bytes unpacked, found"),
        (
            lambda packed: packed[:-4],
            "its header says 6x28x28, 4,720 bytes unpacked, found 4,720, where the gzip stream",
        ),
        (lambda packed: packed[:200] + b"xyz" + packed[203:], "not a whole gzip file (Error -3"),
        (lambda packed: b"<html>", "not a whole gzip file (Error -3"),
    ],
)
def test_a_damaged_gzip_file_is_named(folder, damage, message):
    file = folder / f"{NAMES[0]}.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=f"^{re.escape(f'{file}: {message}')}"):
        read(folder)


def test_labels_must_fit_the_images(folder):
    unpack(folder)
    file = folder / NAMES[1]
    file.write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(DataError, match="expected 6 labels for as many images, found 5"):
        read(folder)
    file.write_bytes(idx(np.full(6, 10, np.uint8)))
    with pytest.raises(DataError, match="expected labels 0 to 9, found 10"):
        read(folder)


def test_missing_files_are_listed(folder):
    (folder / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(DataError) as caught:
        read(folder)
    assert str(caught.value) == (
        f"data.path: {folder} has no t10k-labels-idx1-ubyte; set data.path to the folder of MNIST with "
        "{train-images-idx3-ubyte,train-labels-idx1-ubyte,t10k-images-idx3-ubyte,t10k-labels-idx1-ubyte}, "
        "gzip or not, in it or in its MNIST/raw, or set data.download: true to fetch them"
    )
    with pytest.raises(
        DataError, match=r"^data.path: MNIST is read from a folder with .*; set data.path to it, and data"
    ):
        load(Mnist())
    with pytest.raises(DataError, match=r"^data.path: no folder .*nowhere; set data.path to one with .*train-images"):
        read(folder / "nowhere")
