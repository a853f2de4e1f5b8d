"""``normhpc shards info|verify``: what people read about shards."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import Progress

from normhpc.errors import DataError, Problem
from normhpc.shards.index import INDEX_NAME, Field, Index, read_index
from normhpc.shards.read import open_shards, split_names
from normhpc.shards.verify import Verification, split_folders, verify_split

_SHOWN_CLASSES = 8

_FEWEST_CLASSES = 2
"""What a sweep takes."""


def show_info(path: Path, console: Console, *, as_json: bool) -> None:
    """Print what the splits in ``path`` hold, and how a sweep names them.

    Raises :class:`~normhpc.errors.DataError` for a folder without complete shards.
    """
    folders = [folder for folder in split_folders(path) if (folder / INDEX_NAME).is_file()]
    if not folders:
        raise DataError(Problem("the conversion is not complete; run it again", file=str(path)))
    facts = [info(folder) for folder in folders]
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for split in facts:
        _show(split, console)
    # one line for each data set: a folder may hold several
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for split in facts:
        first.setdefault((split["dataset"], split["labels"]["kind"], *split["labels"]["classes"]), split)
    for split in first.values():
        if split["data"] is not None:
            console.print(yaml_line(split["data"]))
        else:
            found = counted(len(split["labels"]["classes"]), "class", "classes")
            console.print(
                f"note: no sweep takes {split['dataset']}: its images are of {found}, and a network learns to tell at "
                f"least {_FEWEST_CLASSES} apart; convert images of more"
            )


def info(folder: Path) -> dict[str, Any]:
    """What the split in ``folder`` holds, as JSON; ``data`` is the block for a sweep file, None where no sweep takes it."""
    index = read_index(folder)
    return {
        "folder": str(folder),
        "dataset": index.dataset,
        "split": index.split,
        "encoding": index.encoding,
        "rows": index.rows,
        "bytes": sum(shard.bytes for shard in index.shards),
        "shards": len(index.shards),
        "rows_per_shard": index.rows_per_shard,
        "fields": [field.model_dump(mode="json") for field in index.fields],
        "labels": index.labels.model_dump(mode="json"),
        "stats": {
            field.name: (stats := index.statistics_of(field.name)) and stats.model_dump(mode="json")
            for field in index.fields
        },
        "preprocessing": index.preprocessing,
        "source": index.source,
        "index_sha256": index.index_sha256,
        "data": data_block(folder, index) if len(index.labels.classes) >= _FEWEST_CLASSES else None,
    }


def data_block(folder: Path, index: Index) -> dict[str, Any]:
    """``data`` of a sweep on these shards.

    ``test`` is absent where no split is one, height and width where JPEG files have several sizes. ``val`` is there
    where both are. ``bands`` are there where some are floats, which are another instrument's: all the others.
    """
    root = folder.absolute().parent
    names = _alike(root, index)
    train = _first(names, ("train",)) or index.split
    block: dict[str, Any] = {"name": "shards", "dataset": index.dataset, "path": str(root), "train": train}
    others = [name for name in names if name != train]
    val, test = _first(others, ("val",)), _first(others, ("test",))
    if val and test:
        block["val"] = val
    if test or val:
        block["test"] = test or val
    if index.encoding == "raw":
        fields = [field for field in index.fields if index.stats[field.name] is not None] or index.fields
        if len(fields) < len(index.fields):
            block["bands"] = [band for field in fields for band in field.bands]
        shapes = [_channels_first(field) for field in fields]
        block["channels"] = sum(channels for channels, _, _ in shapes)
        block["height"], block["width"] = (max(shape[axis] for shape in shapes) for axis in (1, 2))
    else:
        stats = index.stats["jpeg"]
        assert stats is not None
        block["channels"] = len(stats.mean)
        with open_shards(root, folder.name) as shards:
            sizes = np.unique(shards.extra("size"), axis=0).tolist()
        if len(sizes) == 1:
            block["height"], block["width"] = sizes[0]
    block["num_classes"] = len(index.labels.classes)
    if index.labels.kind == "multi":
        block["multi_label"] = True
    return block


def _alike(root: Path, index: Index) -> list[str]:
    """Names of the splits below ``root`` that are of the same data set, with the same classes."""
    found: dict[str, Index] = {}
    for name in split_names(root):
        # what is wrong with a split that nobody asked about is told when it is
        with contextlib.suppress(DataError):
            found[name] = read_index(root / name)
    of = (index.dataset, index.labels.kind, index.labels.classes)
    return [name for name, other in found.items() if (other.dataset, other.labels.kind, other.labels.classes) == of]


def yaml_line(block: dict[str, Any]) -> str:
    """The block as one line of a sweep file."""
    text = yaml.safe_dump(block, default_flow_style=True, sort_keys=False, width=2**31)
    return f"data: {text.strip()}"


def verify(path: Path, console: Console, *, as_json: bool) -> int:
    """Check the splits in ``path`` and print what does not hold; the exit code: 0 when all holds, else 1."""
    found = [_verify_with_bar(folder, console) for folder in split_folders(path)]
    if as_json:
        print(json.dumps([split.as_json() for split in found], indent=2))
    else:
        for split in found:
            _show_verification(split, console)
    return 1 if any(split.faults for split in found) else 0


def _verify_with_bar(folder: Path, console: Console) -> Verification:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(folder.name, total=None)
        return verify_split(folder, lambda rows: bar.update(task, total=rows), lambda rows: bar.advance(task, rows))


def _show_verification(split: Verification, console: Console) -> None:
    for fault in split.faults:
        console.print(f"{split.folder}/{fault}")
    for note in split.notes:
        console.print(f"note: {split.folder}/{note}")
    if split.faults:
        console.print(f"{split.folder}: {counted(len(split.faults), 'check')} failed")
    else:
        console.print(f"{split.folder}: sound, {counted(split.rows, 'image')} in {counted(split.shards, 'shard')}")


def _show(split: dict[str, Any], console: Console) -> None:
    console.print(f"{split['dataset']} {split['split']}: {counted(split['rows'], 'image')}, {_size(split['bytes'])}")
    console.print(
        f"  files: {split['shards']} of {counted(split['rows_per_shard'], 'image')} or fewer, {split['encoding']}"
    )
    labels = split["labels"]
    listed = ", ".join(labels["classes"][:_SHOWN_CLASSES]) + (
        ", ..." if len(labels["classes"]) > _SHOWN_CLASSES else ""
    )
    kind = "one of" if labels["kind"] == "single" else "any of"
    classes = counted(len(labels["classes"]), "class", "classes")
    console.print(f"  labels: {kind} {classes} ({listed})")
    for field in split["fields"]:
        shape = " x ".join(map(str, field["shape"])) or "JPEG files"
        console.print(f"  {field['name']}: {shape} {field['dtype']} {field['layout']}")
        stats = split["stats"][field["name"]]
        if stats is None:
            console.print(
                f"    {', '.join(field['bands'])}: not all finite, or converted before floats had statistics: none"
            )
            continue
        bands = field["bands"] or [f"channel {number}" for number in range(len(stats["mean"]))]
        for band, mean, std in zip(bands, stats["mean"], stats["std"], strict=True):
            console.print(f"    {band}: mean {mean:.4f}, std {std:.4f}")


def _channels_first(field: Field) -> tuple[int, int, int]:
    a, b, c = field.shape
    return (a, b, c) if field.layout == "NCHW" else (c, a, b)


def _first(names: Sequence[str], beginnings: Sequence[str]) -> str | None:
    return next((name for begin in beginnings for name in names if name.startswith(begin)), None)


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """``1 shard``, ``2,000 shards``; ``nouns`` where an s does not make several."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def _size(size: int) -> str:
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:,.1f} {unit}" if unit != "bytes" else f"{size} bytes"
