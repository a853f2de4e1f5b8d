import hashlib
import os
import pickle
import re

import numpy as np
import pytest
from support.samples import sample

from normhpc.config.data import Cifar10, Cifar100
from normhpc.data import load
from normhpc.data.cifar_names import CIFAR10_CLASSES, CIFAR100_CLASSES
from normhpc.data.pickled import read_pickle
from normhpc.errors import DataError

CONFIGS = {"cifar10": Cifar10, "cifar100": Cifar100}


def pixels_of(rows, seed):
    return np.random.default_rng(seed).integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)


def write_python(file, rows, seed, label_key, protocol=2):
    pixels = pixels_of(rows, seed)
    content = {
        b"batch_label": b"a batch",
        label_key: [seed % 10] * rows,
        b"data": pixels.reshape(rows, 3072),
        b"filenames": [b"x.png"] * rows,
    }
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    return pixels


def write_binary(file, rows, seed, label_bytes):
    pixels = pixels_of(rows, seed)
    labels = np.full((rows, label_bytes), 99, np.uint8)
    labels[:, -1] = seed % 10
    file.write_bytes(np.hstack((labels, pixels.reshape(rows, 3072))).tobytes())
    return pixels


ARCHIVES = {
    "cifar-10-batches-py": (
        "cifar10",
        write_python,
        b"labels",
        [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"],
    ),
    "cifar-10-batches-bin": (
        "cifar10",
        write_binary,
        1,
        [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"],
    ),
    "cifar-100-python": ("cifar100", write_python, b"fine_labels", ["train", "test"]),
    "cifar-100-binary": ("cifar100", write_binary, 2, ["train.bin", "test.bin"]),
}
every_archive = pytest.mark.parametrize("name", ARCHIVES)


def write_archive(parent, name, rows=3):
    """A small archive in the official layout; gives (folder, its files, the training pixels)."""
    _, write, argument, files = ARCHIVES[name]
    folder = parent / name
    folder.mkdir()
    pixels = [write(folder / file, rows, seed, argument) for seed, file in enumerate(files)]
    return folder, [folder / file for file in files], np.concatenate(pixels[:-1])


def read(folder, name, **fields):
    config = CONFIGS[ARCHIVES[name][0]]
    return load(config(path=str(folder), val_fraction=0.0, **{"allow_partial": True, **fields}))


@every_archive
def test_small_archives_of_every_layout(tmp_path, name):
    folder, files, pixels = write_archive(tmp_path, name)
    data = read(folder, name)
    assert np.array_equal(data.train.images.numpy(), pixels.transpose(0, 2, 3, 1))
    assert data.train.labels.tolist() == [seed for seed in range(len(files) - 1) for _ in range(3)]
    assert data.test.labels.tolist() == [len(files) - 1] * 3
    assert read(tmp_path, name).digest == data.digest
    assert len(data.classes) == {"cifar10": 10, "cifar100": 100}[data.name]


@every_archive
def test_a_partial_archive_is_refused_unless_allowed(tmp_path, name):
    folder, _, pixels = write_archive(tmp_path, name)
    title = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[ARCHIVES[name][0]]
    with pytest.raises(DataError) as caught:
        read(folder, name, allow_partial=False)
    assert str(caught.value) == (
        f"data.path: {folder} has {len(pixels)} training and 3 test images, {title} has 50,000 and 10,000; "
        "complete the folder, or set data.allow_partial: true to use what is there"
    )


@every_archive
def test_a_truncated_file_is_refused_even_where_parts_are_allowed(tmp_path, name):
    folder, files, _ = write_archive(tmp_path, name)
    for file in (files[0], files[-1]):
        whole = file.read_bytes()
        for length in (len(whole) - 1, len(whole) // 2, 0):
            file.write_bytes(whole[:length])
            with pytest.raises(
                DataError, match=rf"^{re.escape(str(file))}: .*\b{length:,}\b.*; copy or download the file"
            ):
                read(folder, name)
        file.write_bytes(whole)
    read(folder, name)


def test_a_truncated_binary_file_says_what_is_expected(tmp_path):
    folder, files, _ = write_archive(tmp_path, "cifar-10-batches-bin")
    files[0].write_bytes(files[0].read_bytes()[:-5])
    with pytest.raises(DataError) as caught:
        read(folder, "cifar-10-batches-bin")
    assert str(caught.value) == (
        f"{files[0]}: expected whole records of 3,073 bytes (30,730,000 in the official file), found 9,214; "
        "copy or download the file again"
    )


@every_archive
def test_a_missing_test_file_is_named(tmp_path, name):
    folder, files, _ = write_archive(tmp_path, name)
    files[-1].unlink()
    with pytest.raises(
        DataError, match=rf"^data.path: {folder} has no {files[-1].name}; set data.path to the folder of CIFAR"
    ):
        read(folder, name)


def test_no_archive_at_all_lists_both_layouts(tmp_path):
    with pytest.raises(DataError) as caught:
        load(Cifar100(path=str(tmp_path)))
    assert str(caught.value) == (
        f"data.path: {tmp_path} has no archive of CIFAR-100; set data.path to the folder of CIFAR-100 with "
        "cifar-100-python/{train,test} or cifar-100-binary/{train.bin,test.bin}, "
        "or set data.download: true to fetch them"
    )
    with pytest.raises(
        DataError, match=r"^data.path: CIFAR-10 is read from a folder with cifar-10-batches-py/\{data_batch_1"
    ):
        load(Cifar10())


def test_labels_out_of_range_are_refused(tmp_path):
    folder, files, _ = write_archive(tmp_path, "cifar-10-batches-bin")
    raw = bytearray(files[1].read_bytes())
    raw[0] = 10
    files[1].write_bytes(raw)
    with pytest.raises(DataError, match=rf"^{files[1]}: expected labels 0 to 9, found 10"):
        read(folder, "cifar-10-batches-bin")


def test_a_complete_archive_is_preferred_to_a_partial_one(tmp_path):
    _, files, _ = write_archive(tmp_path, "cifar-10-batches-py")
    write_archive(tmp_path, "cifar-10-batches-bin", rows=2)
    files[1].unlink()
    assert len(read(tmp_path, "cifar-10-batches-py").train) == 10


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_pickle_protocol(tmp_path, protocol):
    pixels = write_python(tmp_path / "batch", 2, 1, b"labels", protocol)
    content = read_pickle(tmp_path / "batch")
    assert np.array_equal(content["data"], pixels.reshape(2, 3072))
    assert content["filenames"] == [b"x.png"] * 2


def test_arrays_of_the_old_numpy_as_in_the_official_archives(tmp_path):
    pixels = write_python(tmp_path / "batch", 2, 1, b"labels")
    renamed = (tmp_path / "batch").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "batch").write_bytes(renamed)
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in renamed
    assert np.array_equal(read_pickle(tmp_path / "batch")["data"], pixels.reshape(2, 3072))


class RunsCode:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, protocol):
    mark = tmp_path / "ran"
    folder, files, _ = write_archive(tmp_path, "cifar-10-batches-py")
    files[0].write_bytes(pickle.dumps({b"data": RunsCode(os.mkdir, str(mark))}, protocol=protocol))
    with pytest.raises(
        DataError, match=rf"^{files[0]}: refused: it wants to call \w+.mkdir, which no archive of images"
    ):
        read(folder, "cifar-10-batches-py")
    assert not mark.exists()
    pickle.loads(files[0].read_bytes())
    assert mark.exists(), "the pickle of this test runs no code"


@pytest.mark.parametrize(
    "content",
    [
        RunsCode(eval, "1"),
        RunsCode(np.load, "x"),
        RunsCode(np.array, [1]),
        RunsCode(getattr, {}, "keys"),
        RunsCode(bytes.fromhex, "00"),
    ],
    ids=lambda content: content.call[0].__name__,
)
def test_nothing_but_arrays_is_rebuilt(tmp_path, content):
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": content}))
    with pytest.raises(DataError, match="refused: it wants to call"):
        read_pickle(tmp_path / "batch")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a pickled dictionary, found list"),
        ({b"labels": [1]}, "expected b'data' to be bytes in rows of 3,072"),
        ({b"data": np.zeros((2, 3072), np.int64), b"labels": [1, 2]}, "expected b'data' to be bytes in rows of 3,072"),
        ({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}, "expected b'data' to be bytes in rows of 3,072"),
        ({b"data": np.zeros((2, 3072), np.uint8)}, "expected b'labels' to be a list of integers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "expected as many images as labels, found 2 and 1"),
    ],
)
def test_pickles_with_other_content_are_refused(tmp_path, content, message):
    folder, files, _ = write_archive(tmp_path, "cifar-10-batches-py")
    files[2].write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=f"^{re.escape(f'{files[2]}: {message}')}"):
        read(folder, "cifar-10-batches-py")


def test_class_names():
    assert len(CIFAR10_CLASSES) == 10
    assert len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR10_CLASSES) == sorted(CIFAR10_CLASSES)
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


def test_the_real_sample():
    folder = sample("cifar-10-batches-bin")
    data = load(Cifar10(path=str(folder), allow_partial=True))
    assert (len(data.train), len(data.val), len(data.test)) == (2700, 300, 1000)
    assert data.test.labels.bincount().tolist() == [100] * 10
    records = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(-1, 3073)
    stored = data.test.images.permute(0, 3, 1, 2).contiguous().numpy()
    assert hashlib.md5(stored.tobytes()).digest() == hashlib.md5(records[:, 1:].tobytes()).digest()
    names = (folder / "batches.meta.txt").read_text().split()
    assert tuple(names[:10]) == data.classes


def test_the_real_sample_is_partial():
    folder = sample("cifar-10-batches-bin")
    with pytest.raises(DataError) as caught:
        load(Cifar10(path=str(folder)))
    assert str(caught.value) == (
        f"data.path: {folder} has 3,000 training and 1,000 test images (data_batch_2.bin, data_batch_3.bin, "
        "data_batch_4.bin, data_batch_5.bin not there), CIFAR-10 has 50,000 and 10,000; "
        "complete the folder, or set data.allow_partial: true to use what is there"
    )


def test_a_truncated_copy_of_the_real_sample_is_refused(tmp_path):
    folder = sample("cifar-10-batches-bin")
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "test_batch.bin").write_bytes((folder / "test_batch.bin").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_batch.bin: expected whole records of 3,073 bytes .* found 3,072,999;"):
        load(Cifar10(path=str(tmp_path), allow_partial=True))
