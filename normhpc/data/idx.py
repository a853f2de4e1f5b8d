"""The idx files of MNIST: a big-endian header, then bytes; plain or gzip."""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normhpc.data.files import file_error


def read_idx(file: Path, magic: int) -> NDArray[np.uint8]:
    """The array in ``file``; the last byte of ``magic`` is its number of dimensions (2051 images, 2049 labels).

    Raises :class:`~normhpc.errors.DataError` when the content is not exactly what the header says.
    """
    content, whole = _unpacked(file)
    header = 4 + 4 * (magic & 0xFF)
    if len(content) < header:
        raise file_error(file, f"expected a header of {header} bytes, found {len(content)}")
    found, *shape = struct.unpack(f">{header // 4}i", content[:header])
    if found != magic:
        raise file_error(file, f"expected an idx file that begins with {magic}, found {found}")
    expected = header + math.prod(shape)
    if len(content) != expected or not whole:
        sizes = "x".join(map(str, shape))
        cut = "" if whole else ", where the gzip stream ends early"
        raise file_error(file, f"its header says {sizes}, {expected:,} bytes unpacked, found {len(content):,}{cut}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _unpacked(file: Path) -> tuple[bytes, bool]:
    """The bytes of ``file``, and whether they are all there as far as gzip can tell."""
    packed = file.read_bytes()
    if file.suffix != ".gz":
        return packed, True
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = decoder.decompress(packed)
    except zlib.error as error:
        raise file_error(file, f"not a whole gzip file ({error})") from error
    return content, decoder.eof
