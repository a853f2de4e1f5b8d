"""CIFAR-10 and CIFAR-100 from their python or binary archives."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from normhpc.config.data import Cifar10, Cifar100
from normhpc.data.cifar_names import CIFAR10_CLASSES, CIFAR100_CLASSES
from normhpc.data.download import download
from normhpc.data.files import check_complete, data_folder, file_error, missing_error
from normhpc.data.images import ImageSplit
from normhpc.data.pickled import read_pickle
from normhpc.data.source import Source

PLANES = (3, 32, 32)
"""An image as stored: the red plane, the green and the blue, each row by row."""
PIXELS = math.prod(PLANES)

Rows = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""(rows, 3072) pixels and as many labels."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One of the official archives, unpacked."""

    folder: str
    train: tuple[str, ...]
    test: str
    label_bytes: int = 0
    """Binary archives: bytes of labels before the pixels of a record; the last of them is the label."""
    label_key: str = ""
    """Python archives: the key of the labels."""

    def missing_in(self, place: Path) -> list[str]:
        """Files of the archive that are not in the folder ``place``."""
        return [name for name in (*self.train, self.test) if not (place / name).is_file()]

    def complete_in(self, place: Path) -> bool:
        """Whether the folder ``place`` has all files of the archive."""
        return not self.missing_in(place)

    def rows_per_file(self, name: str) -> int:
        """Images in one of the official files."""
        return 10_000 if name == self.test else 50_000 // len(self.train)

    def __str__(self) -> str:
        return f"{self.folder}/{{{','.join((*self.train, self.test))}}}"


@dataclass(frozen=True, slots=True)
class CifarSet:
    """The facts of one of the two sets. Both have 50,000 training and 10,000 test images."""

    title: str
    torchvision: str
    archives: tuple[Archive, ...]
    classes: tuple[str, ...]


CIFAR10 = CifarSet(
    "CIFAR-10",
    "CIFAR10",
    (
        Archive(
            "cifar-10-batches-py", tuple(f"data_batch_{part}" for part in range(1, 6)), "test_batch", label_key="labels"
        ),
        Archive(
            "cifar-10-batches-bin",
            tuple(f"data_batch_{part}.bin" for part in range(1, 6)),
            "test_batch.bin",
            label_bytes=1,
        ),
    ),
    CIFAR10_CLASSES,
)
CIFAR100 = CifarSet(
    "CIFAR-100",
    "CIFAR100",
    (
        Archive("cifar-100-python", ("train",), "test", label_key="fine_labels"),
        Archive("cifar-100-binary", ("train.bin",), "test.bin", label_bytes=2),
    ),
    CIFAR100_CLASSES,
)


def read_cifar10(config: Cifar10) -> Source:
    """60,000 colour images, 32x32, in 10 classes."""
    return _read_set(config, CIFAR10)


def read_cifar100(config: Cifar100) -> Source:
    """60,000 colour images, 32x32, in 100 fine classes."""
    return _read_set(config, CIFAR100)


def _read_set(config: Cifar10 | Cifar100, cifar: CifarSet) -> Source:
    expected = " or ".join(map(str, cifar.archives))
    folder = data_folder(config, cifar.title, expected)
    if config.download and not any(archive.complete_in(place) for place, archive in _candidates(folder, cifar)):
        download(cifar.torchvision, folder)
    place, archive = _best_candidate(folder, cifar, expected)
    train, test = (_read_files(place, names, archive, cifar) for names in (archive.train, (archive.test,)))
    check_complete(config, place, cifar.title, (50_000, 10_000), (len(train), len(test)), archive.missing_in(place))
    return Source(train, test, cifar.classes)


def _candidates(folder: Path, cifar: CifarSet) -> list[tuple[Path, Archive]]:
    return [(place, archive) for archive in cifar.archives for place in (folder / archive.folder, folder)]


def _best_candidate(folder: Path, cifar: CifarSet, expected: str) -> tuple[Path, Archive]:
    """A complete archive, or else one with its test file and some of its training files."""
    candidates = _candidates(folder, cifar)
    place, archive = min(candidates, key=lambda candidate: len(candidate[1].missing_in(candidate[0])))
    missing = archive.missing_in(place)
    if set(archive.train) <= set(missing):
        raise missing_error(folder, cifar.title, f"archive of {cifar.title}", expected)
    if archive.test in missing:
        raise missing_error(place, cifar.title, archive.test, expected)
    return place, archive


def _read_files(place: Path, names: Iterable[str], archive: Archive, cifar: CifarSet) -> ImageSplit:
    """The images of those files that are there."""
    parts = []
    for file in (place / name for name in names):
        if not file.is_file():
            continue
        pixels, labels = _read_pickled(file, archive) if archive.label_key else _read_binary(file, archive)
        if labels.min() < 0 or labels.max() >= len(cifar.classes):
            odd = next(label for label in labels.tolist() if not 0 <= label < len(cifar.classes))
            raise file_error(file, f"expected labels 0 to {len(cifar.classes) - 1}, found {odd}")
        parts.append((pixels, labels))
    pixels = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, *PLANES).transpose(0, 2, 3, 1)
    labels = np.concatenate([labels for _, labels in parts])
    return ImageSplit(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels))


def _read_binary(file: Path, archive: Archive) -> Rows:
    """Records of one or two label bytes, then the pixels."""
    record = archive.label_bytes + PIXELS
    size = file.stat().st_size
    if size == 0 or size % record:
        official = archive.rows_per_file(file.name) * record
        raise file_error(
            file, f"expected whole records of {record:,} bytes ({official:,} in the official file), found {size:,}"
        )
    records = np.fromfile(file, np.uint8).reshape(-1, record)
    # CIFAR-100 puts the coarse label before the fine one.
    return records[:, archive.label_bytes :], records[:, archive.label_bytes - 1].astype(np.int64)


def _read_pickled(file: Path, archive: Archive) -> Rows:
    """A dictionary with the pixels of all images in one array and a list of labels."""
    content = read_pickle(file)
    pixels, labels = content.get("data"), content.get(archive.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        raise file_error(file, f"expected b'data' to be bytes in rows of {PIXELS:,}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise file_error(file, f"expected b'{archive.label_key}' to be a list of integers")
    if len(pixels) == 0 or len(pixels) != len(labels):
        raise file_error(file, f"expected as many images as labels, found {len(pixels):,} and {len(labels):,}")
    return pixels, np.array(labels, np.int64)
