"""What an analysis found, and how it is kept in the folder ``posthoc`` of its run. Imports no torch."""

import errno
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normhpc.errors import InputError, RecordError
from normhpc.files import read_json, replace_file, replace_json
from normhpc.record import RunFolder

FOLDER = "posthoc"
"""Folder of a run with what was computed from its weights."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The file that the weights of a network come from, and what is in it."""

    path: Path
    sha256: str
    """Of the file, in hex."""

    def as_json(self) -> dict[str, str]:
        """Name and digest."""
        return {"file": self.path.name, "sha256": self.sha256}


class Tile(NamedTuple):
    """A part of a picture and what is said under it, so that others can show both in letters of their own."""

    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels, without the words."""
    words: tuple[str, ...]
    """A line each, not cut to the room that they have in the picture."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one analysis found."""

    method: str
    """What was computed, in sentences, with formulas."""
    values: Mapping[str, Any]
    """Numbers by name, also lists and mappings of them; what is not finite is kept as null."""
    units: Mapping[str, str]
    """Unit of each of ``values`` that has one."""
    n: Mapping[str, int]
    """What the numbers are over, and how many there are of it."""
    headline: str
    """The result in half a line."""
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What is kept in ``<what>.npz``."""
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    """Pictures by the end of their name: ``<what><end>.png``."""
    tiles: Mapping[str, Sequence[Tile]] = field(default_factory=dict)
    """Parts of a picture, by the end of its name."""
    table: str | None = None
    """What is kept in ``<what>.csv``."""


def weights_digest(path: Path) -> WeightsFile:
    """The weights in ``path``. Raises :class:`~normhpc.errors.InputError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return WeightsFile(path, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def result_file(folder: RunFolder, what: str, suffix: str = ".json") -> Path:
    """Where a part of the result of the analysis ``what`` lies."""
    return folder.path / FOLDER / f"{what}{suffix}"


def is_written_since(folder: RunFolder, what: str, time: datetime) -> bool:
    """Whether a whole result of the analysis ``what``, of whatever weights, was written at ``time`` or later."""
    try:
        return result_file(folder, what).stat().st_mtime >= time.timestamp()
    except OSError:
        return False


def is_kept(
    folder: RunFolder, what: str, weights: WeightsFile, images: int | None, *, since: str | None = None
) -> bool:
    """Whether a whole result of these weights, asked for with as many ``images``, is there; made ``since`` then."""
    try:
        content = read_json(result_file(folder, what))
        asked = (content["weights"]["sha256"], content["images_asked"])
        files = [folder.path / FOLDER / name for name in content["files"]]
        late = since is None or content["created"] >= since
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return late and asked == (weights.sha256, images) and all(file.is_file() for file in files)


def keep(folder: RunFolder, what: str, finding: Finding, about: Mapping[str, Any]) -> Path:
    """Write a result; the JSON file comes last, so that where it is everything it names is whole.

    ``about`` says what it was computed with: at least ``weights`` and ``images_asked``, as :func:`is_kept` reads them.
    Returns the JSON file. Raises :class:`~normhpc.errors.RecordError` when it cannot be written.
    """
    target = result_file(folder, what)
    contents: dict[str, bytes] = {}
    if finding.arrays:
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **finding.arrays)
        contents[f"{what}.npz"] = packed.getvalue()
    for end, picture in finding.pictures.items():
        drawn = io.BytesIO()
        picture.save(drawn, format="PNG")
        contents[f"{what}{end}.png"] = drawn.getvalue()
    if finding.table is not None:
        contents[f"{what}.csv"] = finding.table.encode()
    document = {
        "what": what,
        **about,
        "method": finding.method,
        "n": dict(finding.n),
        "values": finite(finding.values),
        "units": dict(finding.units),
        "files": list(contents),
    }
    if finding.tiles:
        document["tiles"] = {
            f"{what}{end}.png": [{"box": list(tile.box), "words": list(tile.words)} for tile in tiles]
            for end, tiles in finding.tiles.items()
        }
    try:
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        for name, content in contents.items():
            _write(target.parent / name, content)
        replace_json(target, document)
    except OSError as error:
        raise RecordError(f"{target}: cannot be written: {error.strerror}; {_remedy(error, target.parent)}") from None
    return target


def _remedy(error: OSError, place: Path) -> str:
    """What to do about a disk that is full, a folder that may not be written to, or a file in the way."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"it takes the right to write into {place}; get it, or analyze a copy of the run"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return f"move away {error.filename2 or error.filename}"
    return "mend that, or choose other runs"


def _write(path: Path, content: bytes) -> None:
    replace_file(path, lambda file: file.write(content))


def finite(value: Any) -> Any:
    """``value`` with plain numbers in place of NumPy's, and None in place of what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, np.generic):
        return finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
