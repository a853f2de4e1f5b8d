"""Noise in shards of any shape, for load tests of file systems and loaders.

python data_prep/synthetic.py --out DIR --rows N writes DIR/train. Pixels and labels are words of the Philox counter
generator for --seed and the row's number, so a row does not depend on how many there are.
"""

import argparse
import functools
import math
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from normhpc.errors import InputError
from normhpc.shards.convert import ImageField, Job, LabelSpec, Options, Row, add_options, convert, run

LABEL_STREAM = 1
"""Word of Philox's key that keeps labels apart from pixels, whose is 0."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert what the command line asks for; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True, help="images to make")
    parser.add_argument("--height", type=int, default=224, help="pixels (default %(default)s)")
    parser.add_argument("--width", type=int, default=224, help="pixels (default %(default)s)")
    parser.add_argument("--channels", type=int, default=3, help="default %(default)s")
    parser.add_argument("--dtype", choices=("u1", "u2"), default="u1", help="8 or 16 bits (default %(default)s)")
    parser.add_argument("--classes", type=int, default=10, help="default %(default)s")
    parser.add_argument(
        "--multi-label", action="store_true", help="any number of labels an image, each in every second"
    )
    parser.add_argument("--split", default="train", help="name of the split (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    add_options(parser)
    given = parser.parse_args(arguments)
    for name in ("rows", "height", "width", "channels", "classes"):
        if getattr(given, name) < 1:
            raise InputError(f"--{name}: expected at least 1, got {getattr(given, name)}")
    if not 0 <= given.seed < 2**63:
        raise InputError(f"--seed: expected 0 to {2**63 - 1}, got {given.seed}")
    convert(
        job(given),
        Options(given.out, given.rows_per_shard, given.workers, given.task),
        Console(stderr=True, soft_wrap=True, markup=False),
    )
    return 0


def job(given: argparse.Namespace) -> Job:
    """The conversion that the arguments of the script describe."""
    shape = (given.height, given.width, given.channels)
    dtype = {"u1": "|u1", "u2": "<u2"}[given.dtype]
    rows = given.rows if given.limit is None else min(given.rows, given.limit)
    return Job(
        dataset="synthetic",
        split=given.split,
        fields=(ImageField("images", dtype, shape, "NHWC"),),
        encoding="raw",
        labels=LabelSpec("multi" if given.multi_label else "single", tuple(f"class_{n}" for n in range(given.classes))),
        items=[(row, row) for row in range(rows)],
        read=functools.partial(
            make, seed=given.seed, shape=shape, dtype=dtype, classes=given.classes, multi=given.multi_label
        ),
        preprocessing={},
        source={"generator": "philox", "seed": given.seed},
    )


def make(row: int, *, seed: int, shape: tuple[int, ...], dtype: str, classes: int, multi: bool) -> Row:
    """Row ``row``: uniform values over all of ``dtype``, one uniform label or ``classes`` fair ones."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    image = words(seed, row, 0, size).view(dtype)[: math.prod(shape)].reshape(shape)
    if multi:
        return Row({"images": image}, (words(seed, row, LABEL_STREAM, classes)[:classes] & 1).tolist())
    word = int.from_bytes(words(seed, row, LABEL_STREAM, 8).tobytes(), "little")
    # of 2**64 words some classes get one more than others, which is nothing
    return Row({"images": image}, word % classes)


def words(seed: int, row: int, stream: int, size: int) -> NDArray[np.uint8]:
    """At least ``size`` random bytes of ``row``, the same on any machine and with any numpy."""
    philox = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=np.array([0, 0, 0, row], np.uint64))
    return philox.random_raw(-(-size // 8)).astype("<u8").view(np.uint8)


if __name__ == "__main__":
    sys.exit(run(main))
