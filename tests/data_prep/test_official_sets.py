"""CIFAR and MNIST as shards hold, row for row, what ``normhpc.data`` reads from the same files."""

import gzip
import hashlib
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from support.samples import sample
from support.scripts import REPOSITORY, script

from normhpc.config.data import Cifar10, Cifar100, Mnist
from normhpc.data import load
from normhpc.errors import DataError, InputError
from normhpc.shards import open_shards

cifar, mnist = script("data_prep/cifar.py"), script("data_prep/mnist.py")

NAMES = {
    "cifar-10-batches-py": [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"],
    "cifar-10-batches-bin": [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"],
    "cifar-100-python": ["train", "test"],
    "cifar-100-binary": ["train.bin", "test.bin"],
}
every_archive = pytest.mark.parametrize("name", NAMES)


def write_archive(parent, name, rows=3):
    """A small archive in the official layout: its folder."""
    folder, classes = parent / name, 100 if "100" in name else 10
    folder.mkdir(parents=True)
    for seed, file in enumerate(NAMES[name]):
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 256, (rows, 3072), dtype=np.uint8)
        labels = random.integers(0, classes, rows, dtype=np.uint8)
        if file.endswith(".bin"):
            coarse = [np.zeros((rows, 1), np.uint8)] if classes == 100 else []
            (folder / file).write_bytes(np.hstack((*coarse, labels[:, None], pixels)).tobytes())
        else:
            key = b"fine_labels" if classes == 100 else b"labels"
            (folder / file).write_bytes(pickle.dumps({b"data": pixels, key: labels.tolist()}, protocol=2))
    return folder


def assert_same(out, data):
    """Both splits in ``out`` are those of ``data``."""
    for split, expected in (("train", data.train), ("test", data.test)):
        with open_shards(out, split) as shards:
            images, labels = shards[:]
            assert np.array_equal(images, expected.images.numpy())
            assert np.array_equal(labels, expected.labels.numpy())
            assert np.array_equal(shards.labels(), expected.labels.numpy())
            assert shards.ids().tolist() == list(range(len(expected)))
            assert (shards.index.dataset, shards.index.split) == (data.name, split)
            assert shards.index.labels.classes == data.classes
            digest = hashlib.sha256(expected.images.numpy().tobytes()).hexdigest()
            assert shards.index.source["images_sha256"] == digest


def convert(module, root, out, *more):
    return module.main(["--root", str(root), "--out", str(out), "--workers", "1", *more])


@every_archive
def test_every_archive_of_cifar(tmp_path, name):
    folder = write_archive(tmp_path / "in", name)
    config = Cifar100 if "100" in name else Cifar10
    data = load(config(path=str(folder), val_fraction=0.0, allow_partial=True))
    for root in (folder, folder.parent):
        out = tmp_path / f"out_{root.name}"
        assert convert(cifar, root, out, "--allow-partial", "--rows-per-shard", "4") == 0
        assert_same(out, data)


def test_both_archives_of_a_set_give_the_same_bytes(tmp_path):
    for name in ("cifar-10-batches-py", "cifar-10-batches-bin"):
        assert convert(cifar, write_archive(tmp_path, name), tmp_path / f"{name}-out", "--allow-partial") == 0
    outs = [tmp_path / f"{name}-out" for name in ("cifar-10-batches-py", "cifar-10-batches-bin")]
    for file in ("train/index.json", "train/train-00000.h5", "test/index.json", "test/test-00000.h5"):
        assert (outs[0] / file).read_bytes() == (outs[1] / file).read_bytes()


def test_real_cifar10(tmp_path):
    root = sample("cifar-10-batches-bin")
    assert convert(cifar, root, tmp_path, "--allow-partial") == 0
    data = load(Cifar10(path=str(root), val_fraction=0.0, allow_partial=True))
    assert (len(data.train), len(data.test)) == (3000, 1000)
    assert_same(tmp_path, data)
    with open_shards(tmp_path, "train") as shards:
        stats = shards.index.stats["images"]
        assert np.array(stats.mean) / 255 == pytest.approx(data.mean, abs=1e-9)
        assert np.array(stats.std) / 255 == pytest.approx(data.std, abs=1e-9)


def test_real_mnist(tmp_path):
    root = sample("mnist")
    assert convert(mnist, root, tmp_path) == 0
    assert_same(tmp_path, load(Mnist(path=str(root), val_fraction=0.0)))


def test_a_partial_archive_is_refused_unless_allowed(tmp_path):
    folder = write_archive(tmp_path, "cifar-10-batches-py")
    with pytest.raises(DataError) as caught:
        convert(cifar, folder, tmp_path / "out")
    assert str(caught.value) == (
        f"{folder}: expected 50,000 train and 10,000 test images of cifar10, found 15 train and 3 test; "
        "complete the folder, or give --allow-partial to use what is there"
    )
    assert not (tmp_path / "out").exists()


class Attack:
    """What unpickles by running a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    folder = write_archive(tmp_path, "cifar-10-batches-py")
    mark = tmp_path / "it ran"
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Attack(f"touch '{mark}'"), b"labels": [0]}))
    with pytest.raises(DataError) as caught:
        convert(cifar, folder, tmp_path / "out", "--allow-partial")
    assert str(caught.value) == (
        f"{folder}/data_batch_3: refused: it wants to call posix.system, which no archive of images needs; "
        "copy or download the file again"
    )
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_a_folder_with_both_sets_asks_which(tmp_path):
    write_archive(tmp_path, "cifar-10-batches-bin")
    write_archive(tmp_path, "cifar-100-python")
    with pytest.raises(InputError) as caught:
        convert(cifar, tmp_path, tmp_path / "out", "--allow-partial")
    assert str(caught.value) == (
        f"{tmp_path}: expected one set, found CIFAR-10 and CIFAR-100; choose with --set 10 or --set 100"
    )
    assert convert(cifar, tmp_path, tmp_path / "out", "--allow-partial", "--set", "100") == 0
    with open_shards(tmp_path / "out", "train") as shards:
        assert shards.index.dataset == "cifar100"


def test_a_folder_without_an_archive_says_what_is_expected(tmp_path):
    with pytest.raises(DataError) as caught:
        convert(cifar, tmp_path, tmp_path / "out", "--set", "100")
    assert str(caught.value) == (
        f"{tmp_path}: expected cifar-100-python/{{train,test}} or cifar-100-binary/{{train.bin,test.bin}}; "
        "give --root the folder of an unpacked archive"
    )
    with pytest.raises(DataError, match=r"expected cifar-10-batches-py/\{data_batch_1.* or cifar-100-binary/"):
        convert(cifar, tmp_path, tmp_path / "out")


def test_a_folder_that_is_not_there(tmp_path):
    for module, advice in (
        (cifar, "give the one of an unpacked archive"),
        (mnist, "give the one of MNIST with {train-"),
    ):
        with pytest.raises(InputError) as caught:
            convert(module, tmp_path / "none", tmp_path / "out")
        assert str(caught.value).startswith(f"{tmp_path}/none: --root: there is no such folder; {advice}")


def write_mnist(folder, rows=6):
    for prefix, count in (("train", rows), ("t10k", rows // 2)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for name, array in (
            (f"{prefix}-images-idx3-ubyte", images),
            (f"{prefix}-labels-idx1-ubyte", images[:, 0, 0] % 10),
        ):
            header = struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape)
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


def test_a_small_mnist(tmp_path):
    write_mnist(tmp_path)
    with pytest.raises(DataError) as caught:
        convert(mnist, tmp_path, tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path}: expected 60,000 train and 10,000 test images of mnist, found 6 train and 3 test; "
        "complete the folder, or give --allow-partial to use what is there"
    )
    assert convert(mnist, tmp_path, tmp_path / "out", "--allow-partial", "--workers", "2") == 0
    assert_same(tmp_path / "out", load(Mnist(path=str(tmp_path), val_fraction=0.0, allow_partial=True)))


def test_a_missing_file_of_mnist_is_named(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        convert(mnist, tmp_path, tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path}: has no t10k-labels-idx1-ubyte; give --root the folder of MNIST with {{train-images-idx3-ubyte,"
        "train-labels-idx1-ubyte,t10k-images-idx3-ubyte,t10k-labels-idx1-ubyte}, gzip or not, in it or in its MNIST/raw"
    )


def test_the_first_rows_with_a_limit(tmp_path):
    write_mnist(tmp_path)
    assert convert(mnist, tmp_path, tmp_path / "out", "--allow-partial", "--limit", "2") == 0
    data = load(Mnist(path=str(tmp_path), val_fraction=0.0, allow_partial=True))
    with open_shards(tmp_path / "out", "train") as shards:
        assert np.array_equal(shards[:][0], data.train.images[:2].numpy())


@pytest.mark.parametrize("name", ["bigearthnet", "cifar", "mnist", "synthetic"])
def test_help_needs_no_torch(name):
    code = (
        "import runpy, sys; sys.modules['torch'] = None; "
        f"sys.argv = ['{name}.py', '--help']; runpy.run_path({str(REPOSITORY / 'data_prep' / f'{name}.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--out", "--workers", "--task", "--limit", "--rows-per-shard"):
        assert option in done.stdout


def test_a_mistake_ends_the_command_with_2_and_its_text(tmp_path):
    script_file = REPOSITORY / "data_prep" / "bigearthnet.py"
    command = [sys.executable, script_file, "--root", tmp_path, "--version", "1", "--out", tmp_path, "--metadata", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("error: --metadata: version 1 has none, its labels lie beside the bands; leave it out\n")
