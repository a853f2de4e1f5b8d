"""A field of many files as one array: its part of each file is mapped into memory right behind that of the file before.

NumPy gathers rows from one array in a single call that lets other threads run. From several arrays it takes a call, and a
turn at the interpreter's lock, for every row.
"""

import ctypes
import itertools
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_FIXED = 0x10
"""``MAP_FIXED`` of Linux: at this address and nowhere else."""


class Stretch(NamedTuple):
    """Bytes of a file: ``size`` of them from ``begin`` on."""

    path: Path
    begin: int
    size: int


def can_be_adjacent(stretches: Sequence[Stretch]) -> bool:
    """Whether every stretch begins a page of its file, all but the last fill whole pages, and the system can do it."""
    begins = all(stretch.begin % mmap.PAGESIZE == 0 for stretch in stretches)
    fills = all(before.size % mmap.PAGESIZE == 0 for before, _ in itertools.pairwise(stretches))
    return begins and fills and sys.platform == "linux"


def adjacent(stretches: Sequence[Stretch]) -> NDArray[np.uint8]:
    """The bytes of ``stretches``, one after the other; mapped as long as there are views of the array.

    Raises :class:`OSError` when the system cannot map them.
    """
    # room for all, over which the files are mapped one by one, and which gives all of it back at once
    room = mmap.mmap(
        -1, sum(stretch.size for stretch in stretches), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ
    )
    content = np.frombuffer(room, np.uint8)
    address = int(content.ctypes.data)
    for stretch in stretches:
        _map(stretch, address)
        address += stretch.size
    return content


def _map(stretch: Stretch, address: int) -> None:
    descriptor = os.open(stretch.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = _mmap(address, stretch.size, mmap.PROT_READ, mmap.MAP_SHARED | _FIXED, descriptor, stretch.begin)
        number = ctypes.get_errno()
    finally:
        os.close(descriptor)
    if found != address:
        raise OSError(number, os.strerror(number), str(stretch.path))


_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
