"""MNIST, from its four idx files, gzip or not, to shards of uint8 (28, 28, 1).

python data_prep/mnist.py --root DIR --out DIR writes DIR/train and DIR/test, rows in the order of the files.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from normhpc.errors import DataError, InputError, Problem
from normhpc.shards.arrays import convert_arrays
from normhpc.shards.convert import add_options, run

OFFICIAL = {"train": 60_000, "test": 10_000}
"""Images of the set."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert what the command line asks for; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the four files, or its MNIST/raw")
    parser.add_argument("--allow-partial", action="store_true", help="take fewer images than the official set has")
    add_options(parser)
    given = parser.parse_args(arguments)

    # they load torch, which --help does not need
    from normhpc.config.data import Mnist
    from normhpc.data.mnist import EXPECTED, missing_files, read_mnist

    if not given.root.is_dir():
        text = f"there is no such folder; give the one of MNIST with {EXPECTED}"
        raise InputError(Problem(text, path="--root", file=str(given.root)))
    if missing := missing_files(given.root):
        message = f"has no {', '.join(missing)}; give --root the folder of MNIST with {EXPECTED}"
        raise DataError(Problem(message, file=str(given.root)))
    source = read_mnist(Mnist(path=str(given.root), allow_partial=True))
    splits = {"train": source.train, "test": source.test}
    arrays = {split: (part.images.numpy(), part.labels.numpy()) for split, part in splits.items()}
    convert_arrays("mnist", arrays, source.classes, OFFICIAL, given)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
