"""MNIST from its four idx files."""

from pathlib import Path

import numpy as np
import torch

from normhpc.config.data import Mnist
from normhpc.data.download import download
from normhpc.data.files import check_complete, data_folder, file_error, missing_error
from normhpc.data.idx import read_idx
from normhpc.data.images import ImageSplit
from normhpc.data.source import Source

IMAGES, LABELS = 2051, 2049
"""First numbers of idx files with images and with labels."""
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
EXPECTED = f"{{{','.join(NAMES)}}}, gzip or not, in it or in its MNIST/raw"


def read_mnist(config: Mnist) -> Source:
    """60,000 training and 10,000 test images, 28x28 grey."""
    folder = data_folder(config, "MNIST", EXPECTED)
    if config.download and missing_files(folder):
        download("MNIST", folder)
    if missing := missing_files(folder):
        raise missing_error(folder, "MNIST", ", ".join(missing), EXPECTED)
    train, test = (_read_split(folder, *names) for names in (NAMES[:2], NAMES[2:]))
    check_complete(config, folder, "MNIST", (60_000, 10_000), (len(train), len(test)))
    return Source(train, test, tuple("0123456789"))


def missing_files(folder: Path) -> list[str]:
    """Files of the set that are in ``folder`` neither plain nor packed."""
    return [name for name in NAMES if _find(folder, name) is None]


def _find(folder: Path, name: str) -> Path | None:
    places = (place / file for place in (folder, folder / "MNIST" / "raw") for file in (name, f"{name}.gz"))
    return next((place for place in places if place.is_file()), None)


def _read_split(folder: Path, images_name: str, labels_name: str) -> ImageSplit:
    images_file, labels_file = _find(folder, images_name), _find(folder, labels_name)
    assert images_file is not None
    assert labels_file is not None
    images, labels = read_idx(images_file, IMAGES), read_idx(labels_file, LABELS)
    if not images.size:
        raise file_error(images_file, "expected images, found none")
    if images.shape[1:] != (28, 28):
        raise file_error(images_file, f"expected images of 28x28, found {images.shape[1]}x{images.shape[2]}")
    if len(images) != len(labels):
        raise file_error(labels_file, f"expected {len(images):,} labels for as many images, found {len(labels):,}")
    if labels.max() > 9:
        raise file_error(labels_file, f"expected labels 0 to 9, found {labels.max()}")
    return ImageSplit(torch.from_numpy(images[..., None].copy()), torch.from_numpy(labels.astype(np.int64)))
