"""What is wrong with a folder of official files, said so that the user can mend it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from normhpc.config.data import STAGED_VARIABLE, OfficialArchives
from normhpc.errors import DataError, Problem


def data_folder(config: OfficialArchives, title: str, expected: str) -> Path:
    """``data.path`` as an existing folder, or a created one when files may be downloaded into it.

    Where a launcher has copied it to the node's own disk, that copy.

    Raises :class:`~normhpc.errors.DataError` that lists what is expected there.
    """
    if config.path is None:
        raise path_error(
            f"{title} is read from a folder with {expected}; set data.path to it, "
            "and data.download: true to fetch the files into it"
        )
    folder = nearest(config.path)
    if config.download:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise path_error(f"no folder {folder}; set data.path to one with {expected}, {_OR_DOWNLOAD}")
    return folder


def nearest(path: str) -> Path:
    """The copy of the folder ``path`` on the node's own disk, where a launcher has made one, else the folder itself."""
    return Path(_staged().get(path, path)).expanduser()


def is_staged(path: str) -> bool:
    """Whether :func:`nearest` is a copy on the node's own disk."""
    return path in _staged()


def _staged() -> dict[str, str]:
    copies: dict[str, str] = json.loads(os.environ.get(STAGED_VARIABLE, "{}"))
    return copies


def missing_error(folder: Path, title: str, missing: str, expected: str) -> DataError:
    """What a folder without the needed files raises."""
    return path_error(
        f"{folder} has no {missing}; set data.path to the folder of {title} with {expected}, {_OR_DOWNLOAD}"
    )


def file_error(file: Path, message: str) -> DataError:
    """What a damaged file raises."""
    return DataError(Problem(f"{message}; copy or download the file again", file=str(file)))


def path_error(message: str) -> DataError:
    """What a wrong ``data.path`` raises."""
    return DataError(Problem(message, path="data.path"))


def check_complete(
    config: OfficialArchives,
    folder: Path,
    title: str,
    official: tuple[int, int],
    found: tuple[int, int],
    missing: Sequence[str] = (),
) -> None:
    """Raise unless there are the ``official`` numbers of training and test images, or fewer and that is allowed."""
    fewer = all(0 < have <= every for have, every in zip(found, official, strict=True))
    if found == official or (fewer and config.allow_partial):
        return
    absent = f" ({', '.join(missing)} not there)" if missing else ""
    way_out = "; complete the folder, or set data.allow_partial: true to use what is there" if fewer else ""
    raise path_error(
        f"{folder} has {found[0]:,} training and {found[1]:,} test images{absent}, "
        f"{title} has {official[0]:,} and {official[1]:,}{way_out}"
    )


_OR_DOWNLOAD = "or set data.download: true to fetch them"
