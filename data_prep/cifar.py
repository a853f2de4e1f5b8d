"""CIFAR-10 or CIFAR-100, from its python or binary archive unpacked, to shards of uint8 (32, 32, 3).

python data_prep/cifar.py --root DIR --out DIR writes DIR/train and DIR/test, rows in the order of the files. Both
archives of a set give the same bytes. Pickles are read without running what they may contain.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normhpc.errors import DataError, InputError, Problem
from normhpc.shards.arrays import convert_arrays
from normhpc.shards.convert import add_options, run

if TYPE_CHECKING:
    from normhpc.data.cifar import CifarSet

OFFICIAL = {"train": 50_000, "test": 10_000}
"""Images of both sets."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert what the command line asks for; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, required=True, help="folder that holds the unpacked archive, or the archive's own folder"
    )
    parser.add_argument("--set", type=int, choices=(10, 100), help="which set, where --root has both")
    parser.add_argument("--allow-partial", action="store_true", help="take fewer images than the official set has")
    add_options(parser)
    given = parser.parse_args(arguments)

    # they load torch, which --help does not need
    from normhpc.config.data import Cifar10, Cifar100
    from normhpc.data.cifar import CIFAR10, CIFAR100, read_cifar10, read_cifar100

    if choose(given.root, given.set, {10: CIFAR10, 100: CIFAR100}) == 10:
        name, source = "cifar10", read_cifar10(Cifar10(path=str(given.root), allow_partial=True))
    else:
        name, source = "cifar100", read_cifar100(Cifar100(path=str(given.root), allow_partial=True))
    splits = {"train": source.train, "test": source.test}
    arrays = {split: (part.images.numpy(), part.labels.numpy()) for split, part in splits.items()}
    convert_arrays(name, arrays, source.classes, OFFICIAL, given)
    return 0


def choose(root: Path, wanted: int | None, sets: "dict[int, CifarSet]") -> int:
    """Which set to read: the ``wanted`` one, or the only one that has files in ``root``.

    Raises :class:`~normhpc.errors.InputError` that says what is expected there.
    """
    if not root.is_dir():
        raise InputError(
            Problem("there is no such folder; give the one of an unpacked archive", path="--root", file=str(root))
        )
    there = [number for number, cifar in sets.items() if has_files(root, cifar)]
    if wanted is None and len(there) == 2:
        raise InputError(f"{root}: expected one set, found CIFAR-10 and CIFAR-100; choose with --set 10 or --set 100")
    if not there or wanted not in (None, *there):
        expected = [
            str(archive) for number, cifar in sets.items() if wanted in (None, number) for archive in cifar.archives
        ]
        raise DataError(
            Problem(f"expected {' or '.join(expected)}; give --root the folder of an unpacked archive", file=str(root))
        )
    return wanted or there[0]


def has_files(root: Path, cifar: "CifarSet") -> bool:
    """Whether ``root`` has the test file and a training file of one of the archives of ``cifar``."""
    for archive in cifar.archives:
        for place in (root / archive.folder, root):
            missing = archive.missing_in(place)
            if archive.test not in missing and len(missing) < len(archive.train):
                return True
    return False


if __name__ == "__main__":
    sys.exit(run(main))
