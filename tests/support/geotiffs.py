"""Small TIFF files written by hand, plain or odd."""

import struct
from pathlib import Path

import numpy as np

KINDS = {"u": 1, "i": 2, "f": 3}


def tiff(array, byte_order="<", rows_per_strip=34, apart=0, more=(), following=0):
    """A TIFF file of plain strips with the values of ``array`` (height, width), ``apart`` bytes between strips.

    ``more`` are further tags as (tag, value), which replace those of the same number.
    """
    array = np.ascontiguousarray(array, array.dtype.newbyteorder(byte_order))
    strips = [array[top : top + rows_per_strip].tobytes() for top in range(0, len(array), rows_per_strip)]
    tags = {
        256: (array.shape[1],),
        257: (array.shape[0],),
        258: (8 * array.dtype.itemsize,),
        259: (1,),
        262: (1,),
        273: tuple(0 for _ in strips),
        277: (1,),
        278: (rows_per_strip,),
        279: tuple(len(strip) for strip in strips),
        339: (KINDS[array.dtype.kind],),
        **{tag: (value,) for tag, value in more},
    }
    place = 8 + 2 + 12 * len(tags) + 4
    arrays = {tag: values for tag, values in tags.items() if len(values) > 1}
    places = {}
    for tag, values in arrays.items():
        places[tag] = place
        place += 4 * len(values)
    offsets = []
    for strip in strips:
        offsets.append(place)
        place += len(strip) + apart
    tags[273] = tuple(offsets)
    content = [(b"II" if byte_order == "<" else b"MM") + struct.pack(f"{byte_order}HI", 42, 8)]
    content.append(struct.pack(f"{byte_order}H", len(tags)))
    for tag, values in sorted(tags.items()):
        value = places[tag] if tag in places else values[0]
        content.append(struct.pack(f"{byte_order}HHII", tag, 4, len(values), value))
    content.append(struct.pack(f"{byte_order}I", following))
    content += [struct.pack(f"{byte_order}{len(tags[tag])}I", *tags[tag]) for tag in places]
    content += [strip + bytes(apart) for strip in strips]
    return b"".join(content)


def write_tiff(file: Path, array, **options):
    """The file of :func:`tiff` at ``file``, whose folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(tiff(array, **options))
