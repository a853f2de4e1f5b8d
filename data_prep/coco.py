"""COCO 2014 and 2017 as shards of several labels: the categories that an image has at least one annotation of.

    python data_prep/coco.py --images DIR --annotations instances_train2017.json --split train2017 --out DIR

Crowd annotations count. Images without annotations are dropped, as in the published protocol (ML-GCN, ASL, CSRA), and
told; ``--unannotated keep`` stores them with no label. Classes are in the order of the category ids, rows in that of
the image ids. Images lie in DIR or in its folder SPLIT.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from normhpc.errors import DataError, InputError, Problem
from normhpc.shards import image_files
from normhpc.shards.convert import Job, LabelSpec, Options, add_options, convert, run

MOST_TOLD = 10
"""Mistakes of an annotations file that are told one by one."""

NEEDED: Mapping[str, Mapping[str, type]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int},
}
"""The lists of an annotations file and what of their entries is used."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """What an instances file says, as far as it is used."""

    path: Path
    categories: Mapping[int, str]
    """Name by category id, ascending."""
    files: Mapping[int, str]
    """File name by image id, ascending."""
    found: Mapping[int, set[int]]
    """Category ids by image id, of the images that have any."""
    sha256: str

    def label(self, image_id: int) -> tuple[int, ...]:
        """1 for each category that the image has, else 0."""
        found = self.found.get(image_id, ())
        return tuple(int(category in found) for category in self.categories)


def read_annotations(path: Path) -> Annotations:
    """The annotations file ``path``. Raises :class:`DataError` with everything in it that is not as COCO's."""
    try:
        content = path.read_bytes()
        # outlines are most of the file and nothing of a label: each is dropped as soon as it is parsed
        document = json.loads(content, object_hook=_without_outline)
    except OSError as error:
        text = f"cannot be read: {error.strerror}; give one of COCO's files instances_*.json"
        raise InputError(Problem(text, path="--annotations", file=str(path))) from None
    except ValueError as error:
        text = (
            f"not a whole JSON document in its {len(content):,} bytes ({error}); copy or download and unpack it again"
        )
        raise DataError(Problem(text, file=str(path))) from None
    _raise(path, _misshapen(document))
    categories = {entry["id"]: entry["name"] for entry in sorted(document["categories"], key=lambda entry: entry["id"])}
    files = {entry["id"]: entry["file_name"] for entry in sorted(document["images"], key=lambda entry: entry["id"])}
    found: dict[int, set[int]] = {}
    for entry in document["annotations"]:
        found.setdefault(entry["image_id"], set()).add(entry["category_id"])
    _raise(path, _repeated(document))
    if not found.keys() <= files.keys() or not set().union(*found.values()) <= categories.keys():
        _raise(path, _unknown(document, files, categories))
    return Annotations(path, categories, files, found, hashlib.sha256(content).hexdigest())


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _misshapen(document: object) -> Iterator[Problem]:
    """What is not there or of another type than needed."""
    if not isinstance(document, dict):
        yield Problem(f"expected an object with {', '.join(NEEDED)}, got {_kind(document)}")
        return
    for key, needed in NEEDED.items():
        entries = document.get(key)
        if not isinstance(entries, list):
            got = _kind(entries) if key in document else "no such key"
            yield Problem(f"expected a list, got {got}; give one of COCO's files instances_*.json", path=key)
            continue
        if not entries and key != "annotations":
            yield Problem("expected at least one entry, got an empty list", path=key)
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                yield Problem(f"expected an object, got {_kind(entry)}", path=f"{key}[{index}]")
                continue
            for name, kind in needed.items():
                if type(entry.get(name)) is not kind:
                    got = _kind(entry[name]) if name in entry else "no such key"
                    yield Problem(f"expected {_NAMES[kind]}, got {got}", path=f"{key}[{index}].{name}")


_NAMES = {int: "a whole number", str: "a text", dict: "an object", list: "a list", float: "a number", bool: "a truth"}


def _kind(value: object) -> str:
    return "null" if value is None else _NAMES[type(value)]


def _repeated(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Ids, and names of categories, that stand more than once."""
    for key, name in (("images", "id"), ("categories", "id"), ("categories", "name")):
        first: dict[object, int] = {}
        for index, entry in enumerate(document[key]):
            before = first.setdefault(entry[name], index)
            if before != index:
                text = f"expected one entry for each, got {entry[name]!r} again, the one of {key}[{before}]"
                yield Problem(f"{text}; take one of them out", path=f"{key}[{index}].{name}")


def _unknown(document: Mapping[str, Any], files: Mapping[int, str], categories: Mapping[int, str]) -> Iterator[Problem]:
    """Annotations of an image or a category that the file does not list."""
    for index, entry in enumerate(document["annotations"]):
        for name, known, key in (("image_id", files, "images"), ("category_id", categories, "categories")):
            if entry[name] not in known:
                text = f"expected an id of {key}, got {entry[name]} (annotation {entry['id']}); take a whole file"
                yield Problem(text, path=f"annotations[{index}].{name}")


def _raise(path: Path, found: Iterator[Problem]) -> None:
    """A :class:`DataError` with the first problems of the file ``path`` if there are any."""
    problems = list(found)
    if problems:
        told = [Problem(problem.message, problem.path, str(path)) for problem in problems[:MOST_TOLD]]
        if len(problems) > MOST_TOLD:
            told.append(Problem(f"and {len(problems) - MOST_TOLD:,} more", file=str(path)))
        raise DataError(told)


def folders(images: Path, split: str) -> tuple[Path, ...]:
    """Where images may lie: the folder of the split, when there is one, then ``images`` itself."""
    if not images.is_dir():
        text = f"there is no such folder; give the one that holds the images, or their folder {split}"
        raise InputError(Problem(text, path="--images", file=str(images)))
    return (images / split, images) if (images / split).is_dir() else (images,)


def job(
    images: Path,
    annotations: Annotations,
    split: str,
    preparation: image_files.Preparation,
    *,
    keep: bool = False,
    limit: int | None = None,
) -> Job:
    """What to store of the images in ``images``, at most the first ``limit``; ``keep`` those without annotations."""
    places = folders(images, split)
    chosen = [image_id for image_id in annotations.files if keep or image_id in annotations.found]
    if not chosen:
        text = "expected annotations of at least one image, got none; add --unannotated keep"
        raise DataError(Problem(text, file=str(annotations.path)))
    _check_some(images, split, [annotations.files[image_id] for image_id in chosen], places)

    def paths_of(name: str) -> tuple[str, ...]:
        return tuple(str(place / name) for place in places)

    dropped = [] if keep else [image_id for image_id in annotations.files if image_id not in annotations.found]
    return Job(
        dataset="coco",
        split=split,
        fields=preparation.fields(),
        encoding=preparation.encoding,
        labels=LabelSpec(
            "multi", tuple(annotations.categories.values()), {"category_ids": list(annotations.categories)}
        ),
        items=[
            (image_id, (paths_of(annotations.files[image_id]), annotations.label(image_id)))
            for image_id in chosen[:limit]
        ],
        read=partial(image_files.read, preparation=preparation),
        extra_fields=(image_files.ORIG_SIZE,),
        preprocessing=preparation.preprocessing(),
        source={
            "annotations_sha256": annotations.sha256,
            "unannotated": "keep" if keep else "drop",
            "rows_seen": len(annotations.files),
            "rows_dropped": len(dropped),
        },
        skipped=[(image_id, "no annotations") for image_id in dropped],
    )


def _check_some(images: Path, split: str, names: Sequence[str], places: Sequence[Path]) -> None:
    """Raises :class:`DataError` when none of the images is there: a wrong folder is no set without images."""
    if not any((place / name).is_file() for name in names for place in places):
        text = (
            f"expected {names[0]} and the others that the annotations name, in it or in its folder {split}, got none "
            "of them; give the folder that holds them"
        )
        raise DataError(Problem(text, path="--images", file=str(images)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="where the JPEG files lie")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="instances_*.json")
    parser.add_argument("--split", required=True, metavar="NAME", help="for example train2017; the folder in --out")
    image_files.add_options(parser, size=256, zero="the file's own bytes, with --encoding jpeg")
    parser.add_argument(
        "--unannotated", choices=("drop", "keep"), default="drop", help="images without annotations (default drop)"
    )
    add_options(parser)
    given = parser.parse_args(arguments)
    preparation = image_files.preparation_of(given)
    if not preparation.size and preparation.encoding == "raw":
        text = (
            "expected pixels, got 0, which keeps the files' bytes; images of COCO differ in size: add --encoding jpeg"
        )
        raise InputError(Problem(text, path="--size"))
    options = Options(given.out, given.rows_per_shard, given.workers, given.task)
    annotations = read_annotations(given.annotations)
    keep = given.unannotated == "keep"
    convert(
        job(given.images, annotations, given.split, preparation, keep=keep, limit=given.limit),
        options,
        Console(stderr=True),
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
