"""Downloads, with torchvision's classes replaced by ones that need no network."""

import gzip
import struct

import pytest
from torchvision import datasets

from normhpc.config.data import Cifar10, Mnist
from normhpc.data import load
from normhpc.data.mnist import NAMES
from normhpc.errors import DataError


def fake_mnist(root, download):
    assert download
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        rows = 4 if "train" in name else 2
        content = struct.pack(">4i", 2051, rows, 28, 28) + bytes(rows * 784)
        if "labels" in name:
            content = struct.pack(">2i", 2049, rows) + bytes(rows)
        (raw / f"{name}.gz").write_bytes(gzip.compress(content))


def test_files_are_fetched_once_into_a_folder_that_is_made(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(datasets, "MNIST", lambda **options: (calls.append(options), fake_mnist(**options)))
    config = Mnist(path=str(tmp_path / "new"), download=True, allow_partial=True)
    assert len(load(config).test) == 2
    assert len(load(config).test) == 2
    assert calls == [{"root": tmp_path / "new", "download": True}]


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def fail(**options):
        raise RuntimeError("Error downloading cifar-10-python.tar.gz")

    monkeypatch.setattr(datasets, "CIFAR10", fail)
    with pytest.raises(
        DataError, match=r"^data.path: CIFAR10 could not be downloaded into .* \(Error downloading .*network"
    ):
        load(Cifar10(path=str(tmp_path), download=True))
