"""What every script of ``data_prep/`` does alike: its options and its end."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from normhpc.errors import InputError, NormhpcError
from normhpc.shards.job import ROWS_PER_SHARD


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every script of ``data_prep/`` has: --out --workers --task --limit --rows-per-shard."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write DIR/<split>/ into")
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes that read images (default: the cores of this task)",
    )
    parser.add_argument(
        "--task",
        type=parse_task,
        default=(1, 1),
        metavar="K/N",
        help="make only this share of the shards, of N that run anywhere; the last to end writes the index",
    )
    parser.add_argument("--limit", type=parse_limit, metavar="N", help="take only the first N images of each split")
    parser.add_argument(
        "--rows-per-shard", type=int, default=ROWS_PER_SHARD, metavar="N", help="images per file (default: %(default)s)"
    )


def parse_task(text: str) -> tuple[int, int]:
    """``(K, N)`` for ``K/N`` with K from 1 to N."""
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, got {text!r}")
    return int(k), int(n)


def parse_limit(text: str) -> int:
    """A number of images from 1: a negative one would leave out the last images."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 image, got {text!r}")
    return int(text)


def run(main: Callable[[], int]) -> NoReturn:
    """End a script with what ``main`` returns; mistakes of the user end with their text and exit code."""
    try:
        sys.exit(main())
    except NormhpcError as error:
        problems = error.problems if isinstance(error, InputError) else (error,)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
