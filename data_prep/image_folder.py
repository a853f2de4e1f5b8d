"""Images in one folder per class as shards of one label each.

    python data_prep/image_folder.py --root DIR --out DIR --size 64

DIR holds the folders of the classes, or folders ``train``, ``val``, ``test`` that do, each a split of its own. Classes
are the folders' names, sorted, the same for all splits; the images of a class may lie in folders of its folder. The id
of an image is its path in DIR, rows are in the order of the ids.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from rich.console import Console

from normhpc.errors import DataError, InputError, Problem
from normhpc.shards import image_files
from normhpc.shards.convert import Job, LabelSpec, Options, add_options, convert, run

SPLITS = ("train", "val", "test")
"""Folders that are splits where no others lie beside them."""

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files that are images, those of torchvision's ImageFolder; other files are told as skipped."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The images of one split."""

    split: str
    files: Mapping[str, str]
    """Class of each image by its id, in the order of the ids."""
    others: Sequence[tuple[str, str]]
    """(path, reason) of files that are no images."""


def find(root: Path, split: str | None = None) -> list[Folder]:
    """The splits in ``root`` with their images; a given ``split`` takes the folders in ``root`` for classes."""
    if not root.is_dir():
        text = "there is no such folder; give the one that holds the folders of the classes, or of the splits"
        raise InputError(Problem(text, path="--root", file=str(root)))
    inside = _folders(root)
    splits = [name for name in SPLITS if name in inside]
    if split is None and splits and len(splits) < len(inside):
        others = ", ".join(name for name in inside if name not in splits)[:80]
        text = (
            f"expected classes or the splits {', '.join(SPLITS)}, got both: {', '.join(splits)} beside {others}; move "
            "one kind elsewhere, or give --split NAME to take all folders for classes"
        )
        raise DataError(Problem(text, file=str(root)))
    if split is not None or not splits:
        return [_read(root, "", split or "train")]
    return [_read(root, f"{name}/", name) for name in splits]


def _folders(place: Path) -> list[str]:
    """Names of the folders in ``place``, sorted, without hidden ones."""
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read(root: Path, start: str, split: str) -> Folder:
    """The images of the classes in the folder ``start`` of ``root``, which is empty or ends with a slash."""
    found: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for name in _folders(root / start):
        images = 0
        for path in _files(root, f"{start}{name}"):
            if not path.isprintable():
                others.append((repr(path), "a name that is not printable text"))
            elif not path.lower().endswith(SUFFIXES):
                others.append((path, "not an image by the ending of its name"))
            else:
                found[path] = name
                images += 1
        if not images:
            text = (
                f"expected images ({', '.join(SUFFIXES)}) of the class {name!r} in it, got none; add some or remove it"
            )
            raise DataError(Problem(text, file=str(root / start / name)))
    if not found:
        text = "expected a folder for each class in it, got none; give the folder that holds them"
        raise DataError(Problem(text, file=str(root / start)))
    return Folder(split, dict(sorted(found.items())), sorted(others))


def _files(root: Path, start: str) -> Iterator[str]:
    """Paths in ``root`` of all files in its folder ``start``, without hidden ones."""
    for place, folders, files in os.walk(root / start, onerror=_unreadable, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(root).as_posix()


def _unreadable(error: OSError) -> None:
    """A folder that cannot be listed is an error: its images must not be missing without a word."""
    raise DataError(Problem(f"cannot be read: {error.strerror}", file=str(error.filename)))


def common_shape(root: Path, folder: Folder) -> tuple[int, int]:
    """(height, width) of the first image of ``folder`` that can be read, which the others must have too."""
    for path in folder.files:
        try:
            with Image.open(root / path) as image:
                return image.height, image.width
        except (OSError, SyntaxError, ValueError):
            continue
    raise DataError(Problem("none of the images can be read; copy or download them again", file=str(root)))


def job(
    root: Path,
    folder: Folder,
    classes: Sequence[str],
    preparation: image_files.Preparation,
    *,
    name: str = "image_folder",
    limit: int | None = None,
) -> Job:
    """What to store of ``folder``, at most its first ``limit`` images, as the data set ``name``."""
    shape = None if preparation.size or preparation.encoding == "jpeg" else common_shape(root, folder)
    number = {name: index for index, name in enumerate(classes)}
    chosen = list(folder.files.items())[:limit]
    return Job(
        dataset=name,
        split=folder.split,
        fields=preparation.fields(shape),
        encoding=preparation.encoding,
        labels=LabelSpec("single", tuple(classes)),
        items=[(path, ((str(root / path),), number[of])) for path, of in chosen],
        read=partial(image_files.read, preparation=preparation, shape=shape),
        extra_fields=(image_files.ORIG_SIZE,),
        preprocessing=preparation.preprocessing(),
        source={"rows_seen": len(folder.files) + len(folder.others), "rows_dropped": len(folder.others)},
        skipped=folder.others,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folders of classes, or of splits")
    parser.add_argument("--split", metavar="NAME", help="take all folders for classes of this split (default train)")
    parser.add_argument("--name", default="image_folder", help="of the data set, for the index (default image_folder)")
    image_files.add_options(parser, size=None, zero="as they are: all of one size, or --encoding jpeg")
    add_options(parser)
    given = parser.parse_args(arguments)
    preparation = image_files.preparation_of(given)
    options = Options(given.out, given.rows_per_shard, given.workers, given.task)
    found = find(given.root, given.split)
    classes = sorted({of for folder in found for of in folder.files.values()})
    for folder in found:
        convert(
            job(given.root, folder, classes, preparation, name=given.name, limit=given.limit),
            options,
            Console(stderr=True),
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
