"""BigEarthNet version 1 or 2 to shards of uint16 at native resolutions, 19 classes, any number of them a patch.

python data_prep/bigearthnet.py --root DIR --version 2 --out DIR [--splits train validation test] [--metadata FILE]
    DIR has BigEarthNet-S2/<tile>/<patch>/<patch>_<band>.tif and metadata.parquet
python data_prep/bigearthnet.py --root DIR --version 1 --out DIR [--splits train=train.csv val=val.csv test=test.csv]
    DIR, or DIR/BigEarthNet-v1.0, has <patch>/<patch>_<band>.tif and <patch>/<patch>_labels_metadata.json;
    without --splits all its patches become one split "all"; --exclude leaves out the official lists of snow and cloud

Fields: s2_10m (4, 120, 120), s2_20m (6, 60, 60), s2_60m (2, 20, 20), as the files store them; with --with-s1 also
s1_10m (2, 120, 120) float32, VV and VH in decibels.
A patch without a band, with one of wrong size or type or with decibels that are not finite, or without a label of the
19 classes is left out and told.
"""

import argparse
import csv
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from normhpc.errors import DataError, InputError, Problem, did_you_mean
from normhpc.shards.convert import ImageField, Job, LabelSpec, Options, Row, Unreadable, add_options, convert, run
from normhpc.shards.geotiff import read_geotiff

MEMBERS: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
"""Labels of version 1 (CORINE level 3) in each of the 19 classes, which stand in the order of their paper."""
DROPPED = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
"""Labels of version 1 in none of the 19 classes."""
CLASSES = tuple(MEMBERS)
CLASS_OF: dict[str, int | None] = {
    **{label: index for index, labels in enumerate(MEMBERS.values()) for label in labels},
    **dict.fromkeys(DROPPED),
}
"""Index of the class of each of the 43 labels of version 1; none for those that are dropped."""

S2 = (
    ImageField("s2_10m", "<u2", (4, 120, 120), "NCHW", ("B02", "B03", "B04", "B08")),
    ImageField("s2_20m", "<u2", (6, 60, 60), "NCHW", ("B05", "B06", "B07", "B8A", "B11", "B12")),
    ImageField("s2_60m", "<u2", (2, 20, 20), "NCHW", ("B01", "B09")),
)
S1 = ImageField("s1_10m", "<f4", (2, 120, 120), "NCHW", ("VV", "VH"))

V1_FOLDERS = {"S2": "BigEarthNet-v1.0", "S1": "BigEarthNet-S1-v1.0"}
V2_SPLITS = ("train", "validation", "test")
COLUMNS = {"patch_id": pa.string(), "labels": pa.list_(pa.string()), "split": pa.string(), "s1_name": pa.string()}
"""Columns of the metadata of version 2 that a conversion may need."""
NO_CLASS = "no label of the 19 classes"


class Patch(NamedTuple):
    """What a worker needs to read one patch; paths are relative to the root, up to the band."""

    s2: str
    s1: str | None
    label: tuple[int, ...] | None
    """0 and 1 for each class; none where the patch's own JSON says it."""


class Listing(NamedTuple):
    """The patches of one split."""

    items: list[tuple[str, Patch]]
    """Name and place of each, by name."""
    skipped: list[tuple[str, str]]
    """Name and reason of those left out before anything is read."""
    source: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert what the command line asks for; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the unpacked archives")
    parser.add_argument("--version", type=int, choices=(1, 2), required=True, help="of BigEarthNet")
    parser.add_argument(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="version 2: names in metadata.parquet (default: train validation test); "
        "version 1: NAME=FILE.csv, one patch a line (default: all patches as split all)",
    )
    parser.add_argument("--metadata", type=Path, help="version 2: default ROOT/metadata.parquet")
    parser.add_argument(
        "--exclude", type=Path, nargs="+", default=[], metavar="FILE", help="version 1: lists of patches to leave out"
    )
    parser.add_argument("--with-s1", action="store_true", help="store the Sentinel-1 patch of each as well")
    add_options(parser)
    given = parser.parse_args(arguments)
    if not given.root.is_dir():
        raise InputError(f"--root: expected a folder, found none at {given.root}; name the one with the archives")
    listings = version_1(given) if given.version == 1 else version_2(given)
    options, console = (
        Options(given.out, given.rows_per_shard, given.workers, given.task),
        Console(stderr=True, soft_wrap=True, markup=False),
    )
    for split, listing in listings.items():
        convert(job(split, listing, given), options, console)
    return 0


def job(split: str, listing: Listing, given: argparse.Namespace) -> Job:
    """The conversion of one split."""
    fields = (*S2, S1) if given.with_s1 else S2
    return Job(
        dataset="bigearthnet",
        split=split,
        fields=fields,
        encoding="raw",
        labels=LabelSpec("multi", CLASSES),
        items=listing.items[: given.limit],
        read=functools.partial(read_patch, root=given.root, fields=fields),
        preprocessing={},
        source={"version": given.version, **listing.source},
        skipped=listing.skipped,
    )


def read_patch(patch: Patch, *, root: Path, fields: tuple[ImageField, ...]) -> Row:
    """The bands of ``patch`` as stored, one array for each of ``fields``, and its classes.

    Raises :class:`~normhpc.shards.convert.Unreadable` when a band is missing, damaged, of another size or type
    or, of floats, not finite everywhere.
    """
    label = labels_in(root / f"{patch.s2}_labels_metadata.json") if patch.label is None else patch.label
    images = {}
    for field in fields:
        place = root / str(patch.s1 if field.name == S1.name else patch.s2)
        images[field.name] = np.stack([read_band(place, band, field) for band in field.bands])
    return Row(images, label)


def read_band(place: Path, band: str, field: ImageField) -> NDArray[Any]:
    """One band of the patch at ``place`` (its path up to the band), of the type and size that ``field`` wants."""
    file = place.with_name(f"{place.name}_{band}.tif")
    values = read_geotiff(file)
    if values.shape != field.shape[1:] or values.dtype != np.dtype(field.dtype):
        expected = f"{'x'.join(map(str, field.shape[1:]))} {np.dtype(field.dtype).name}"
        found = f"{'x'.join(map(str, values.shape))} {values.dtype.name}"
        raise Unreadable(f"{file.name}: expected {expected}, found {found}")
    # one of them would leave the split without statistics, and so without training on these bands
    if values.dtype.kind == "f" and (bad := values[~np.isfinite(values)]).size:
        message = f"expected finite numbers, found {bad[0]} in {bad.size:,} of {values.size:,} pixels"
        raise Unreadable(f"{file.name}: {message}")
    return values


def labels_in(file: Path) -> tuple[int, ...]:
    """0 and 1 for each of the 19 classes, from the 43 labels in the JSON of a patch of version 1.

    Raises :class:`~normhpc.errors.DataError` for a label that is none of the 43.
    """
    try:
        labels = json.loads(file.read_bytes())["labels"]
    except FileNotFoundError:
        raise Unreadable(f"no file {file.name}") from None
    except (ValueError, KeyError, TypeError):
        raise Unreadable(f"{file.name}: expected a JSON object with labels") from None
    if unknown := [label for label in labels if label not in CLASS_OF]:
        hint = did_you_mean(unknown[0], CLASS_OF)
        message = f"unknown label {unknown[0]!r}{hint}; expected one of the 43 of BigEarthNet 1"
        raise DataError(Problem(f"{message}; unpack the archive again", file=str(file)))
    classes = {CLASS_OF[label] for label in labels}
    if classes <= {None}:
        raise Unreadable(NO_CLASS)
    return tuple(int(index in classes) for index in range(len(CLASSES)))


def version_1(given: argparse.Namespace) -> dict[str, Listing]:
    """The splits of version 1: those of the lists, or all patches there are."""
    if given.metadata:
        raise InputError("--metadata: version 1 has none, its labels lie beside the bands; leave it out")
    if given.with_s1 and not given.splits:
        raise InputError("--with-s1: with version 1 the lists of --splits say which Sentinel-1 patch belongs to which")
    folder = V1_FOLDERS["S2"] if (given.root / V1_FOLDERS["S2"]).is_dir() else ""
    there = {entry.name for entry in os.scandir(given.root / folder) if entry.is_dir() and is_patch(entry.name)}
    if not there:
        expected = f"<patch>/<patch>_B02.tif in it or in its {V1_FOLDERS['S2']}"
        raise DataError(Problem(f"expected folders {expected}, found none; give another --root", file=str(given.root)))
    excluded = {name: file.name for file in given.exclude for _, name, _ in lines_of(file)}
    common = {"excluded_sha256": [sha256(file) for file in given.exclude], "with_s1": given.with_s1}
    listings: dict[str, Listing] = {}
    seen: dict[str, str] = {}
    for split, file in split_files(given.splits).items():
        pairs = dict.fromkeys(there) if file is None else names_in(file, seen, with_s1=given.with_s1)
        items, skipped = [], []
        for name, s1_name in sorted(pairs.items()):
            if name in excluded:
                skipped.append((name, f"in {excluded[name]}"))
            elif name not in there:
                skipped.append((name, "no such folder"))
            else:
                s1 = None if s1_name is None else f"{V1_FOLDERS['S1']}/{s1_name}/{s1_name}"
                items.append((name, Patch(str(Path(folder, name, name)), s1, None)))
        if not items:
            raise none_left(given.root, split, len(pairs), skipped)
        source = {"list_sha256": None if file is None else sha256(file), "rows_listed": len(pairs)}
        listings[split] = Listing(items, skipped, {**source, **common})
    return listings


def is_patch(name: str) -> bool:
    """Whether ``name`` may be one of a Sentinel-2 patch: product, level, sensing time, column, row.

    The time has two lengths in version 1, so nothing is found by its place in the name.
    """
    return name.startswith("S2") and name.count("_") >= 4


def split_files(splits: Sequence[str] | None) -> dict[str, Path | None]:
    """File of each split that ``--splits`` names; without it one split of all patches, which has none."""
    if not splits:
        return {"all": None}
    files: dict[str, Path | None] = {}
    for text in splits:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in files:
            raise InputError(f"--splits: expected NAME=FILE.csv for version 1, each name once, got {text!r}")
        files[name] = Path(file)
    return files


def names_in(file: Path, seen: dict[str, str], *, with_s1: bool) -> dict[str, str | None]:
    """Sentinel-2 and, where asked for, Sentinel-1 names in the columns of a split's list.

    ``seen`` holds the place of each name met in this list and those before; a name met twice is an error.
    """
    names: dict[str, str | None] = {}
    for line, name, others in lines_of(file):
        if name in seen:
            message = f"duplicate patch {name}, which is also at {seen[name]}; a patch belongs to one split, once"
            raise DataError(Problem(message, file=str(file), line=line))
        if with_s1 and not others:
            message = "expected a second column with the name of the Sentinel-1 patch; use the official lists"
            raise DataError(Problem(message, file=str(file), line=line))
        seen[name] = f"{file.name}:{line}"
        names[name] = others[0] if with_s1 else None
    return names


def lines_of(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, name of a patch and further columns of every line of a list."""
    try:
        text = file.read_text()
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}; name an official list", file=str(file))) from None
    except UnicodeDecodeError as error:
        message = f"not text: {error.reason} at byte {error.start:,}; copy or download the list again"
        raise DataError(Problem(message, file=str(file))) from None
    if not text.strip():
        raise DataError(
            Problem("expected a list of patches, got an empty file; copy or download it again", file=str(file))
        )
    for line, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row:
            continue
        name, *others = (cell.strip() for cell in row)
        if not is_patch(name):
            message = f"expected the name of a patch such as S2A_MSIL2A_20170613T101031_87_48, got {name!r}"
            raise DataError(Problem(f"{message}; use the official lists", file=str(file), line=line))
        yield line, name, others


def version_2(given: argparse.Namespace) -> dict[str, Listing]:
    """The splits of version 2 as metadata.parquet has them."""
    if given.exclude:
        raise InputError("--exclude: metadata.parquet of version 2 has no snow and clouds; leave it out")
    metadata = given.metadata or given.root / "metadata.parquet"
    table = read_metadata(metadata, with_s1=given.with_s1)
    there = rows_per_split(table)
    splits = list(dict.fromkeys(given.splits or V2_SPLITS))
    if unknown := [split for split in splits if split not in there]:
        has = ", ".join(f"{split} ({rows:,} rows)" for split, rows in there.items())
        hint = did_you_mean(unknown[0], there)
        raise InputError(
            Problem(f"no split {unknown[0]!r}{hint}; it has {has}; choose with --splits", file=str(metadata))
        )
    common = {"metadata_sha256": sha256(metadata), "with_s1": given.with_s1}
    listings = {}
    for split in splits:
        rows = table.filter(pc.equal(table["split"], split)).sort_by("patch_id")
        names = rows["patch_id"].to_pylist()
        s1_names = rows["s1_name"].to_pylist() if given.with_s1 else [None] * len(names)
        labels = multi_hot(rows, metadata)
        on_disk = names_on_disk(given.root / "BigEarthNet-S2", {tile_of(name) for name in names})
        items, skipped = [], []
        for name, s1_name, label in zip(names, s1_names, labels.tolist(), strict=True):
            if name not in on_disk:
                skipped.append((name, f"no folder BigEarthNet-S2/{tile_of(name)}/{name}"))
            elif not any(label):
                skipped.append((name, NO_CLASS))
            else:
                s1 = s1_name and f"BigEarthNet-S1/{s1_name.rsplit('_', 3)[0]}/{s1_name}/{s1_name}"
                items.append((name, Patch(f"BigEarthNet-S2/{tile_of(name)}/{name}/{name}", s1, tuple(label))))
        if not items:
            raise none_left(given.root, split, len(names), skipped)
        listings[split] = Listing(items, skipped, {**common, "rows_listed": len(names)})
    return listings


def read_metadata(file: Path, *, with_s1: bool = False) -> pa.Table:
    """The columns of ``file`` that a conversion needs.

    Raises :class:`~normhpc.errors.DataError` when it is no Parquet file, lacks a column or a value, has one of another
    type or a patch twice.
    """
    needed = [name for name in COLUMNS if with_s1 or name != "s1_name"]
    try:
        schema = pq.read_schema(file)
        if missing := [name for name in needed if name not in schema.names]:
            message = f"no column {missing[0]}, found {', '.join(schema.names)}; name the official file with --metadata"
            raise DataError(Problem(message, file=str(file)))
        table = pq.read_table(file, columns=needed)
    except FileNotFoundError:
        message = "no such file; put the official metadata.parquet there or name it with --metadata"
        raise DataError(Problem(message, file=str(file))) from None
    except (pa.ArrowException, OSError) as error:
        message = f"not a whole Parquet file ({error}); copy or download the file again"
        raise DataError(Problem(message, file=str(file))) from error
    for place, name in enumerate(needed):
        try:  # other writers have other sizes of text and lists
            table = table.set_column(place, name, table[name].cast(COLUMNS[name]))
        except pa.ArrowException:
            message = f"column {name}: expected {COLUMNS[name]}, found {table[name].type}; use the official file"
            raise DataError(Problem(message, file=str(file))) from None
        if table[name].null_count:
            message = f"column {name} has {table[name].null_count:,} rows without a value; use the official file"
            raise DataError(Problem(message, file=str(file)))
    counts = table["patch_id"].value_counts()
    if twice := [entry["values"].as_py() for entry in counts.filter(pc.greater(counts.field("counts"), 1))]:
        message = f"duplicate patch {twice[0]}, {len(twice):,} in all; use the official file"
        raise DataError(Problem(message, file=str(file)))
    return table


def rows_per_split(table: pa.Table) -> dict[str, int]:
    """Rows of each split, by name."""
    return {entry["values"]: entry["counts"] for entry in sorted_counts(table["split"])}


def sorted_counts(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Every value of ``column`` with its count, by value."""
    counts: list[dict[str, Any]] = column.value_counts().to_pylist()
    return sorted(counts, key=lambda entry: entry["values"])


def multi_hot(rows: pa.Table, file: Path) -> NDArray[np.uint8]:
    """(rows, 19) of 0 and 1 for the labels of version 2, which are the classes.

    Raises :class:`~normhpc.errors.DataError` for a label that is none of them.
    """
    column = rows["labels"].combine_chunks()
    labels, parents = pc.list_flatten(column), pc.list_parent_indices(column).to_numpy()
    classes = pc.index_in(labels, value_set=pa.array(CLASSES, labels.type))
    if classes.null_count:
        place = pc.index(pc.is_null(classes), True).as_py()
        label, patch = labels[place].as_py(), rows["patch_id"][int(parents[place])].as_py()
        message = f"unknown label {label!r} of {patch}{did_you_mean(label, CLASSES)}; expected the 19 classes"
        raise DataError(Problem(f"{message}; use the official file", file=str(file)))
    hot = np.zeros((len(rows), len(CLASSES)), np.uint8)
    hot[parents, classes.to_numpy()] = 1
    return hot


def tile_of(name: str) -> str:
    """Folder of a patch of version 2: its name without column and row."""
    return name.rsplit("_", 2)[0]


def names_on_disk(folder: Path, tiles: Iterable[str]) -> set[str]:
    """Names of all patches in the ``tiles`` that are there."""
    return {entry.name for tile in tiles if (folder / tile).is_dir() for entry in os.scandir(folder / tile)}


def none_left(root: Path, split: str, listed: int, skipped: Sequence[tuple[str, str]]) -> DataError:
    """What a split raises of which nothing can be read."""
    first = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
    message = f"expected patches of split {split}, found none of {listed:,}{first}; give another --root or --splits"
    return DataError(Problem(message, file=str(root)))


def sha256(file: Path) -> str:
    """Hex SHA-256 of the bytes of ``file``."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(run(main))
