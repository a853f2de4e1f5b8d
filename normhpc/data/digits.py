"""scikit-learn's handwritten digits: real images without a download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from normhpc.config.data import Digits
from normhpc.data.images import ImageSplit, hold_out, rows_of
from normhpc.data.source import Source
from normhpc.errors import DataError

TEST_ROWS = 360
TEST_SEED = 0x74657374
"""Seed of the permutation that chooses the test rows; a constant of this data set."""


def read_digits(config: Digits) -> Source:
    """1,437 training and 360 test images, 8x8 grey; the values 0..16 are stored as 0, 15 .. 240."""
    table = _bundled_table()
    pixels = (table[:, :64].reshape(-1, 8, 8, 1) * 15).astype(np.uint8)
    everything = ImageSplit(torch.from_numpy(pixels), torch.from_numpy(table[:, 64].astype(np.int64)))
    train, test = hold_out(len(everything), TEST_ROWS, TEST_SEED)
    return Source(rows_of(everything, train), rows_of(everything, test), tuple("0123456789"))


def _bundled_table() -> NDArray[np.float64]:
    """(1797, 65): 64 values of each image, then its label.

    Read from scikit-learn's own file without importing scikit-learn, which takes longer than training on it.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("data.name: digits come with scikit-learn, which is not installed; run: make setup")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        with gzip.open(file, "rt") as lines:
            return np.loadtxt(lines, delimiter=",")

    # Here, because only this set needs scikit-learn and its import takes seconds.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.column_stack((images, labels))
