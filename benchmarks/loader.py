"""Images per second of random batches with labels from shards, against the loaders that people use.

    python benchmarks/loader.py [--case photos_224] [--turns 7] [--seconds 0.3] [--scratch DIR] [--train]

The same generated images, smooth structure under fine noise, are written once for each way. All ways then take turns
of ``--seconds``, and ratios are taken turn by turn, so that a machine that drifts slows all. Every way delivers whole
batches of stored bytes and their labels, without augmentation; the second column says as what. In the first turn, which
is left out, each passes over all images. A cold figure is one pass of a freshly opened way, the opening of it and the
start of its workers included, after the pages of its files were dropped from the memory of this machine (of which a
virtual machine's host knows nothing).

- memmap: ``np.take(out=)`` from a ``.npy`` file, one thread; ``mode="clip"`` copies straight into the batch, the
  default checks first and copies twice. The first is the limit of one thread.
- ImageFolder: torchvision's, JPEG files decoded by Pillow, in a DataLoader.
- h5py: ``dataset[row]`` of the very shards that normhpc reads, in a DataLoader.
- DataLoader on memmap: row by row, and whole batches (``__getitems__``) in two workers.
- WebDataset: raw bytes in tar files, shuffled within 1,000, DataLoader of two workers.
- LMDB: raw bytes, one thread that copies into the batch.
- mosaicml-streaming: raw arrays, shuffled, DataLoader of two workers.
- FFCV: raw images, random order, two threads.
- bands: 12 Sentinel-2 bands at their three resolutions, as they are stored and repeated to the finest one.

A peer that cannot be imported is a row that says so. ``--train`` instead trains ResNet-20 on shards that stay in their
files and tells which part of a step its images take.
"""

import argparse
import importlib
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader

from normhpc import models
from normhpc.config import RunConfig
from normhpc.config.training import StandardAugment
from normhpc.data import order
from normhpc.data.batches import Batches
from normhpc.data.planes import Planes
from normhpc.data.stored import BatchReader, StoredImages, StoredSplit
from normhpc.shards import open_shards
from normhpc.shards.convert import ImageField, Job, LabelSpec, Options, Row, convert

CLASSES = 10
PHOTO_QUALITY = 90
BANDS = (
    ImageField("s2_10m", "<u2", (4, 120, 120), "NCHW", ("B02", "B03", "B04", "B08")),
    ImageField("s2_20m", "<u2", (6, 60, 60), "NCHW", ("B05", "B06", "B07", "B8A", "B11", "B12")),
    ImageField("s2_60m", "<u2", (2, 20, 20), "NCHW", ("B01", "B09")),
)

Batch = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """Images of one kind: ``side`` is 0 for bands."""

    side: int
    images: int
    batch: int
    rows_per_shard: int


CASES = {
    "photos_224": Case(224, 1024, 128, 256),
    "photos_32": Case(32, 20_000, 256, 20_000),
    "bands": Case(0, 768, 128, 256),
}


@dataclass(frozen=True, slots=True)
class Way:
    """A loader: what it needs, what it delivers, the folder of its files and an endless stream of its batches."""

    name: str
    delivers: str
    needs: tuple[str, ...]
    folder: str
    stream: Callable[[Path, Case], Iterator[Batch]]
    write: Callable[[Path, Case], None] | None = None
    is_cold: bool = True
    """Whether it is measured cold as well."""


# --- images ----------------------------------------------------------------------------------------------------------


def photo(side: int, number: int) -> np.ndarray:
    """The image with this number: smooth structure, and noise that gives JPEG files the size of photographs."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (max(4, side // 20),) * 2 + (3,), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    noise = random.integers(-10, 11, (side, side, 1), dtype=np.int16)
    return (smooth + noise).clip(0, 255).astype(np.uint8)


def patch(number: int) -> dict[str, np.ndarray]:
    """The bands of the patch with this number."""
    random = np.random.default_rng(number)
    return {field.name: random.integers(1, 10_000, field.shape, dtype=np.uint16) for field in BANDS}


def label_of(number: int) -> int:
    """The class of the image with this number."""
    return number % CLASSES


def photo_row(side: int, number: int) -> Row:
    """A photograph as a conversion takes it."""
    return Row({"images": photo(side, number)}, label_of(number))


def patch_row(number: int) -> Row:
    """A patch as a conversion takes it."""
    return Row(patch(number), label_of(number))


def labels_of(case: Case) -> np.ndarray:
    """Labels of all images."""
    return np.arange(case.images) % CLASSES


def plans(case: Case) -> Iterator[np.ndarray]:
    """Rows of random batches without end."""
    for epoch in count():
        permutation = order(case.images, 1, epoch)
        for start in range(0, case.images - case.batch + 1, case.batch):
            yield permutation[start : start + case.batch]


# --- what each way stores --------------------------------------------------------------------------------------------


def write_shards(folder: Path, case: Case) -> None:
    """Shards of normhpc."""
    fields = BANDS if not case.side else (ImageField("images", "|u1", (case.side, case.side, 3), "NHWC"),)
    job = Job(
        dataset="random",
        split="train",
        fields=fields,
        encoding="raw",
        labels=LabelSpec("single", tuple(map(str, range(CLASSES)))),
        items=[(number, number) for number in range(case.images)],
        read=partial(photo_row, case.side) if case.side else patch_row,
    )
    convert(job, Options(folder, case.rows_per_shard), Console(file=io.StringIO()))


def write_arrays(folder: Path, case: Case) -> None:
    """A ``.npy`` file of each field."""
    rows = [patch(number) if not case.side else {"images": photo(case.side, number)} for number in range(case.images)]
    for name in rows[0]:
        np.save(folder / f"{name}.npy", np.stack([row[name] for row in rows]))


def write_jpeg(folder: Path, case: Case) -> None:
    """A folder of JPEG files for each class."""
    for number in range(case.images):
        place = folder / str(label_of(number))
        place.mkdir(exist_ok=True)
        Image.fromarray(photo(case.side, number)).save(place / f"{number:06d}.jpg", quality=PHOTO_QUALITY)


def write_tar(folder: Path, case: Case) -> None:
    """Four tar files of raw bytes and labels."""
    for part in range(4):
        with tarfile.open(folder / f"{part}.tar", "w") as tar:
            for number in range(part, case.images, 4):
                for suffix, content in (("bin", photo(case.side, number)), ("cls", np.int64(label_of(number)))):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = content.nbytes
                    tar.addfile(member, io.BytesIO(content.tobytes()))


def write_lmdb(folder: Path, case: Case) -> None:
    """Raw bytes, or the bands of a patch in safetensors, under the number of the image."""
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 32) as environment, environment.begin(write=True) as transaction:
        for number in range(case.images):
            if case.side:
                value = photo(case.side, number).tobytes()
            else:
                from safetensors.numpy import save

                value = save(bands_of(patch(number)))
            transaction.put(b"%06d" % number, value)


def bands_of(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The bands of a patch one by one."""
    return {band: fields[field.name][place] for field in BANDS for place, band in enumerate(field.bands)}


def write_mds(folder: Path, case: Case) -> None:
    """Shards of mosaicml-streaming."""
    from streaming import MDSWriter

    columns = {"image": f"ndarray:uint8:{case.side},{case.side},3", "label": "int"}
    with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for number in range(case.images):
            writer.write({"image": photo(case.side, number), "label": label_of(number)})


def write_beton(folder: Path, case: Case) -> None:
    """The file of FFCV, raw."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(folder / "train.beton"), fields, num_workers=1)
    writer.from_indexed_dataset(Photos(case))


def write_tiff(folder: Path, case: Case) -> None:
    """Twelve GeoTIFF files a patch, as the archive has them: uncompressed, one band each."""
    import tifffile

    for number in range(case.images):
        place = folder / f"{number:06d}"
        place.mkdir()
        for band, pixels in bands_of(patch(number)).items():
            tifffile.imwrite(place / f"{band}.tif", pixels, rowsperstrip=34)


class Photos:
    """Images and labels by number, for writers that want a data set."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __len__(self) -> int:
        return self.case.images

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return photo(self.case.side, number), label_of(number)


# --- how each way reads ----------------------------------------------------------------------------------------------


def stored_images(folder: Path, threads: int, access: str = "mmap") -> StoredImages:
    """All images of the shards in ``folder``."""
    shards = open_shards(folder, "train", access="pread" if access == "pread" else "mmap")
    planes = Planes(shards.index.fields, None, "index.json")
    return StoredImages(shards, planes, np.arange(len(shards)), threads)


def read_batches(folder: Path, case: Case, threads: int = 2, access: str = "mmap") -> Iterator[Batch]:
    """What training sees: batches read ahead by threads."""
    images = stored_images(folder, threads, access)
    labels = torch.from_numpy(images.shards.labels())
    reader, asked = BatchReader(images, torch.device("cpu")), plans(case)
    reader.announce(plans(case))
    try:
        for rows in asked:
            yield reader.take(rows), labels.index_select(0, torch.from_numpy(rows))
    finally:
        reader.close()
        images.shards.close()


def read_stored(folder: Path, case: Case, threads: int = 1) -> Iterator[Batch]:
    """Rows as they are stored, into buffers that are used again, by ``threads`` that take turns."""
    images = stored_images(folder, threads)
    labels = images.shards.labels()
    pool = ThreadPoolExecutor(threads)
    buffers = [images.buffer(case.batch, pinned=False) for _ in range(threads + 1)]
    reads: deque[tuple[Any, dict[str, torch.Tensor], np.ndarray]] = deque()
    try:
        for turn, rows in enumerate(plans(case)):
            buffer = buffers[turn % len(buffers)]
            reads.append((pool.submit(images.read, rows, buffer), buffer, rows))
            if len(reads) == threads:
                done, filled, rows = reads.popleft()
                done.result()
                yield filled, labels[rows]
    finally:
        pool.shutdown()
        images.shards.close()


def read_shard_rows(folder: Path, case: Case) -> Iterator[Batch]:
    """``Shards.read_rows`` into one buffer."""
    with open_shards(folder, "train") as shards:
        (field,) = shards.index.fields
        out, labels = torch.empty((case.batch, *field.shape), dtype=torch.uint8).numpy(), shards.labels()
        for rows in plans(case):
            shards.read_rows(field.name, rows, out)
            yield out, labels[rows]


def read_arrays(folder: Path, case: Case, mode: str = "clip") -> Iterator[Batch]:
    """``np.take`` from memory maps, as plain arrays."""
    stored = {path.stem: np.asarray(np.load(path, mmap_mode="r")) for path in sorted(folder.glob("*.npy"))}
    outs = {
        name: torch.from_numpy(array[:0]).new_empty((case.batch, *array.shape[1:])).numpy()
        for name, array in stored.items()
    }
    labels = labels_of(case)
    for rows in plans(case):
        for name, array in stored.items():
            np.take(array, rows, axis=0, out=outs[name], mode=mode)
        yield outs, labels[rows]


def loaded(dataset: Any, case: Case, workers: int, **options: Any) -> Iterator[Batch]:
    """Batches of a DataLoader without end."""
    loader = DataLoader(
        dataset, batch_size=case.batch, num_workers=workers, persistent_workers=workers > 0, drop_last=True, **options
    )
    while True:
        yield from loader


def read_image_folder(folder: Path, case: Case, workers: int) -> Iterator[Batch]:
    """torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    return loaded(ImageFolder(str(folder), pixels_of), case, workers, shuffle=True)


def pixels_of(image: Image.Image) -> torch.Tensor:
    """An image as a tensor of bytes."""
    return torch.from_numpy(np.array(image))


class Rows:
    """Rows of a memory map, one by one or as whole batches."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.stored = np.asarray(np.load(folder / "images.npy", mmap_mode="r"))
        self.labels = labels_of(case)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.stored[row].copy()), int(self.labels[row])


class BatchRows(Rows):
    """:class:`Rows` that a DataLoader fetches by the batch."""

    def __getitems__(self, rows: list[int]) -> Batch:
        return torch.from_numpy(np.take(self.stored, rows, axis=0, mode="clip")), torch.from_numpy(self.labels[rows])


def read_map_loader(folder: Path, case: Case, workers: int, batches: bool) -> Iterator[Batch]:
    """A DataLoader on a memory map."""
    if batches:
        return loaded(BatchRows(folder, case), case, workers, shuffle=True, collate_fn=as_it_is)
    return loaded(Rows(folder, case), case, workers, shuffle=True)


def as_it_is(batch: Batch) -> Batch:
    """What was fetched as a batch."""
    return batch


class H5Rows:
    """Rows of contiguous HDF5 datasets through h5py, opened by the process that reads."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.paths, self.case = sorted(folder.glob("train/*.h5")), case
        self.datasets: list[Any] = []

    def __len__(self) -> int:
        return self.case.images

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if not self.datasets:
            h5py = importlib.import_module("h5py")
            self.datasets = [h5py.File(path, "r", locking=False)["images"] for path in self.paths]
        shard, local = divmod(row, self.case.rows_per_shard)
        return torch.from_numpy(self.datasets[shard][local]), label_of(row)


def read_h5py(folder: Path, case: Case, workers: int) -> Iterator[Batch]:
    """A DataLoader on h5py."""
    return loaded(H5Rows(folder, case), case, workers, shuffle=True)


def read_tar(folder: Path, case: Case) -> Iterator[Batch]:
    """WebDataset."""
    import webdataset

    urls = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=4).repeat().shuffle(1000)
    return loaded(dataset.map(partial(from_tar, case.side)), case, 2)


def from_tar(side: int, sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """Pixels and label of a sample."""
    pixels = np.frombuffer(sample["bin"], np.uint8).reshape(side, side, 3)
    return torch.from_numpy(pixels.copy()), int.from_bytes(sample["cls"], "little")


def read_lmdb(folder: Path, case: Case) -> Iterator[Batch]:
    """Raw bytes from LMDB, one copy each."""
    import lmdb

    out = torch.empty((case.batch, case.side, case.side, 3), dtype=torch.uint8).numpy()
    flat, labels = out.reshape(case.batch, -1), labels_of(case)
    with lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False) as environment:
        for rows in plans(case):
            with environment.begin(buffers=True) as transaction:
                for place, row in enumerate(rows.tolist()):
                    flat[place] = np.frombuffer(transaction.get(b"%06d" % row), np.uint8)
            yield out, labels[rows]


def read_mds(folder: Path, case: Case) -> Iterator[Batch]:
    """mosaicml-streaming."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=case.batch)
    return loaded(dataset, case, 2)


def read_beton(folder: Path, case: Case) -> Iterator[Batch]:
    """FFCV."""
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        str(folder / "train.beton"),
        batch_size=case.batch,
        num_workers=2,
        order=OrderOption.RANDOM,
        os_cache=True,
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
    )
    while True:
        yield from loader


def read_tiff(folder: Path, case: Case) -> Iterator[Batch]:
    """Twelve reads a patch, native sizes."""
    import tifffile

    outs, labels = empty_patches(case), labels_of(case)
    for rows in plans(case):
        for place, row in enumerate(rows.tolist()):
            for field in BANDS:
                for channel, band in enumerate(field.bands):
                    outs[field.name][place, channel] = tifffile.imread(folder / f"{row:06d}" / f"{band}.tif")
        yield outs, labels[rows]


def read_safetensors(folder: Path, case: Case) -> Iterator[Batch]:
    """LMDB of safetensors, as rico-hdl writes them, native sizes."""
    import lmdb
    from safetensors.numpy import load

    outs, labels = empty_patches(case), labels_of(case)
    with lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False) as environment:
        for rows in plans(case):
            with environment.begin() as transaction:
                for place, row in enumerate(rows.tolist()):
                    bands = load(transaction.get(b"%06d" % row))
                    for field in BANDS:
                        for channel, band in enumerate(field.bands):
                            outs[field.name][place, channel] = bands[band]
            yield outs, labels[rows]


def enlarged(stream: Callable[[Path, Case], Iterator[Batch]], folder: Path, case: Case) -> Iterator[Batch]:
    """Batches of native sizes with every band repeated to the finest one, (B, 12, 120, 120)."""
    out = torch.empty((case.batch, 12, 120, 120), dtype=torch.int16).numpy().view(np.uint16)
    for fields, labels in stream(folder, case):
        first = 0
        for field in BANDS:
            times = 120 // field.shape[-1]
            last = first + field.shape[0]
            blocks = out[:, first:last].reshape(
                case.batch, field.shape[0], field.shape[1], times, field.shape[2], times
            )
            blocks[:] = fields[field.name][:, :, :, None, :, None]
            first = last
        yield out, labels


def empty_patches(case: Case) -> dict[str, np.ndarray]:
    """Room for a batch of patches."""
    return {field.name: np.empty((case.batch, *field.shape), np.uint16) for field in BANDS}


NHWC, PLANAR = "uint8 NHWC", "uint8 (B, C, H, W)"
NATIVE, FINEST = "uint16, 3 sizes", "uint16 (B, 12, 120, 120)"
OURS = "normhpc, 2 threads"
LIMIT = "memmap, np.take(out=, mode=clip)"

PHOTO_WAYS = (
    Way(LIMIT, f"{NHWC} array", (), "arrays", read_arrays, write_arrays),
    Way("memmap, np.take(out=)", f"{NHWC} array", (), "arrays", partial(read_arrays, mode="raise"), is_cold=False),
    Way(OURS, f"{PLANAR} tensor", (), "shards", read_batches, write_shards),
    Way("normhpc, 1 thread", f"{PLANAR} tensor", (), "shards", partial(read_batches, threads=1)),
    Way("normhpc, pread, 8 threads", f"{PLANAR} tensor", (), "shards", partial(read_batches, threads=8, access="pread")),
    Way("normhpc, StoredImages.read", f"{NHWC} tensor", (), "shards", read_stored, is_cold=False),
    Way("normhpc, Shards.read_rows", f"{NHWC} array", (), "shards", read_shard_rows, is_cold=False),
    Way("FFCV raw, 2 threads", f"{NHWC} array", ("ffcv",), "beton", read_beton, write_beton, is_cold=False),
    Way("LMDB raw, 1 thread", f"{NHWC} array", ("lmdb",), "lmdb", read_lmdb, write_lmdb),
    Way("DataLoader(0) on memmap, by row", f"{NHWC} tensor", (), "arrays", partial(read_map_loader, workers=0, batches=False), is_cold=False),
    Way("DataLoader(2) on memmap, by row", f"{NHWC} tensor", (), "arrays", partial(read_map_loader, workers=2, batches=False)),
    Way("DataLoader(2) on memmap, by batch", f"{NHWC} tensor", (), "arrays", partial(read_map_loader, workers=2, batches=True), is_cold=False),
    Way("DataLoader(0) + h5py", f"{NHWC} tensor", ("h5py",), "shards", partial(read_h5py, workers=0)),
    Way("DataLoader(2) + h5py", f"{NHWC} tensor", ("h5py",), "shards", partial(read_h5py, workers=2)),
    Way("WebDataset raw, 2 workers", f"{NHWC} tensor", ("webdataset",), "tar", read_tar, write_tar),
    Way("mosaicml-streaming raw, 2 workers", f"{NHWC} tensor", ("streaming",), "mds", read_mds, write_mds),
    Way("ImageFolder + Pillow, 2 workers", f"{NHWC} tensor", ("torchvision",), "jpeg", partial(read_image_folder, workers=2), write_jpeg),
    Way("ImageFolder + Pillow, 0 workers", f"{NHWC} tensor", ("torchvision",), "jpeg", partial(read_image_folder, workers=0), is_cold=False),
)  # fmt: skip
BAND_WAYS = (
    Way(LIMIT, NATIVE, (), "arrays", read_arrays, write_arrays),
    Way(OURS, NATIVE, (), "shards", partial(read_stored, threads=2), write_shards),
    Way("normhpc, 1 thread", NATIVE, (), "shards", read_stored),
    Way("LMDB + safetensors, 1 thread", NATIVE, ("lmdb", "safetensors"), "lmdb", read_safetensors, write_lmdb),
    Way("12 GeoTIFF, tifffile, 1 thread", NATIVE, ("tifffile",), "tiff", read_tiff, write_tiff),
    Way("normhpc, 2 threads, enlarged", FINEST, (), "shards", read_batches, is_cold=False),
    Way("memmap, enlarged by NumPy", FINEST, (), "arrays", partial(enlarged, read_arrays), is_cold=False),
)  # fmt: skip


# --- measurement -----------------------------------------------------------------------------------------------------


def missing(way: Way) -> bool:
    """Whether what the way needs cannot be imported here."""
    try:
        for name in way.needs:
            importlib.import_module(name)
    except Exception as error:  # the import of a peer may fail in any way
        print(f"{way.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return True
    return False


def evict(folder: Path) -> None:
    """Drop the pages of all files below ``folder``, which nobody may have mapped, from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def cached_share(folder: Path) -> float:
    """The share of the files below ``folder``, looked at in a few places, whose pages are in memory."""
    found = []
    for path in sorted(folder.rglob("*"))[:200]:
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            for place in range(0, path.stat().st_size, max(4096, path.stat().st_size // 16)):
                try:
                    found.append(os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT) == 1)
                except BlockingIOError:
                    found.append(False)
            os.close(descriptor)
    return statistics.mean(found)


def images_per_second(batches: Iterator[Batch], case: Case, seconds: float, most: int) -> float:
    """Rate of whole batches, for about ``seconds`` or up to ``most`` batches."""
    began, done = time.perf_counter(), 0
    while done < most:
        next(batches)
        done += 1
        if time.perf_counter() - began > seconds:
            break
    return done * case.batch / (time.perf_counter() - began)


def warm(ways: list[Way], place: Path, case: Case, turns: int, seconds: float) -> dict[str, list[float]]:
    """Rates of each way in each turn, all files in memory."""
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    streams = {way.name: way.stream(place / way.folder, case) for way in ways}
    for turn in range(turns + 1):
        for way in ways:
            batches = streams[way.name]
            if not turn:
                images_per_second(batches, case, 3.0, case.images // case.batch)
                continue
            # what workers have prepared while others were measured
            for _ in range(8 if "workers" in way.name or "DataLoader(2)" in way.name else 4):
                next(batches)
            rates[way.name].append(images_per_second(batches, case, seconds, sys.maxsize))
    for stream in streams.values():
        stream.close()
    return rates


def cold(ways: list[Way], place: Path, case: Case, turns: int) -> dict[str, list[float]]:
    """Rates of each way over all images once, none of its files in memory, opening included."""
    rates: dict[str, list[float]] = {way.name: [] for way in ways if way.is_cold}
    for turn in range(turns):
        for way in ways:
            if not way.is_cold:
                continue
            evict(place / way.folder)
            if not turn and (share := cached_share(place / way.folder)) > 0.1:
                print(f"{way.name}: {share:.0%} of its pages were still in memory", file=sys.stderr)
            began = time.perf_counter()
            batches = way.stream(place / way.folder, case)
            for _ in range(case.images // case.batch):
                next(batches)
            rates[way.name].append(case.images // case.batch * case.batch / (time.perf_counter() - began))
            batches.close()
    return rates


def anonymous_bytes() -> int:
    """Memory of this process that no file backs (``RssAnon``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def memory(folder: Path, case: Case) -> None:
    """Print what a process that only reads holds, before the first batch and at most."""
    before, most = anonymous_bytes(), 0
    stream = read_batches(folder, case)
    for _ in range(2 * case.images // case.batch):
        batch = next(stream)
        most = max(most, anonymous_bytes())
    del batch
    print(json.dumps({"before": before, "most": most}))


def training_share(place: Path, steps: int) -> None:
    """Print which part of a training step of ResNet-20 the images take, which stay in their files."""
    case = Case(32, 20_000, 128, 4096)
    write_shards(place, case)
    images = stored_images(place, 2)
    split = StoredSplit(images, torch.from_numpy(images.shards.labels()))
    batches = Batches(split, (0.5,) * 3, (0.25,) * 3, device="cpu", augment=StandardAugment(), seed=1)
    config = RunConfig.model_validate({"data": {"name": "synthetic"}, "model": "resnet20", "batch_size": case.batch})
    model = models.build(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    planned = plans(case)
    rows = [next(planned) for _ in range(steps)]
    batches.expect(0, [(step, part, [slice(None)]) for step, part in enumerate(rows)])
    waits, shares, whole = [], [], []
    reader = batches._reader
    assert reader is not None
    take = reader.take

    def timed(places: np.ndarray) -> torch.Tensor:
        began = time.perf_counter()
        taken = take(places)
        waits.append(time.perf_counter() - began)
        return taken

    reader.take = timed
    for step, part in enumerate(rows):
        began = time.perf_counter()
        batch = batches.train(part, 0, step)
        made = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch.images), batch.targets).backward()
        optimizer.step()
        ended = time.perf_counter()
        whole.append(ended - began)
        shares.append((made - began) / (ended - began))
    read = [wait / step for wait, step in zip(waits, whole, strict=True)][2:]
    print(
        f"ResNet-20, batch {case.batch}, {steps} steps of {statistics.median(whole) * 1000:.0f} ms (median): "
        f"{statistics.median(read):.2%} of a step waits for stored images, {statistics.median(shares[2:]):.2%} makes "
        "the batch in all, augmentation and normalization included"
    )


def measure(name: str, case: Case, given: argparse.Namespace, place: Path) -> None:
    """Write, measure and print the table of one case."""
    ways = PHOTO_WAYS if case.side else BAND_WAYS
    there = [way for way in ways if not missing(way)]
    for way in there:
        if way.write is not None:
            (place / way.folder).mkdir(parents=True)
            way.write(place / way.folder, case)
    rates = warm(there, place, case, given.turns, given.seconds)
    cold_rates = cold(there, place, case, given.cold_turns)
    row_bytes = sum(path.stat().st_size for path in (place / "arrays").glob("*.npy")) // case.images
    jpeg = ""
    if case.side:
        sizes = [path.stat().st_size for path in (place / "jpeg").rglob("*.jpg")]
        jpeg = f", as JPEG {statistics.mean(sizes) / 1000:.1f} kB"
    print(
        f"\n{name}: {case.images} images of {row_bytes} bytes{jpeg}, batches of {case.batch}, shards of "
        f"{case.rows_per_shard} rows; median of {given.turns} turns of {given.seconds} s, cold of {given.cold_turns} "
        "passes\n"
    )
    print("| | delivers | images/s | turns, from to | rate / memmap | normhpc / it | cold images/s |")
    print("| --- | --- | --: | --: | --: | --: | --: |")
    for way in ways:
        if way not in there:
            print(f"| {way.name} | not installed | | | | | |")
            continue
        own = rates[way.name]
        to_limit, ours = (
            statistics.median(a / b for a, b in zip(first, second, strict=True))
            for first, second in ((own, rates[LIMIT]), (rates[OURS], own))
        )
        chilled = f"{statistics.median(cold_rates[way.name]):,.0f}" if way.name in cold_rates else ""
        print(
            f"| {way.name} | {way.delivers} | {statistics.median(own):,.0f} | {min(own):,.0f} to {max(own):,.0f} "
            f"| {to_limit:.3f} | {ours:.2f} | {chilled} |"
        )
    command = [sys.executable, __file__, "--memory-of", str(place / "shards"), "--case", name]
    command += ["--images", str(case.images)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    held = {key: value / 1e6 for key, value in json.loads(told).items()}
    print(
        f"\nA process that only reads holds {held['most']:.0f} MB beyond the page cache, {held['before']:.0f} MB of them "
        "before it opens the shards."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="only this one")
    parser.add_argument("--images", type=int, help="instead of the number of the case")
    parser.add_argument("--rows-per-shard", type=int, help="instead of those of the case")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--cold-turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    parser.add_argument("--scratch", type=Path, help="folder to write below (default: the system's)")
    parser.add_argument("--train", action="store_true", help="instead, the part of a training step")
    parser.add_argument("--steps", type=int, default=40, help="of --train")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # those of peers
    torch.set_num_threads(1)
    cases = {given.case: CASES[given.case]} if given.case else CASES
    chosen = {"images": given.images, "rows_per_shard": given.rows_per_shard}
    changes = {key: value for key, value in chosen.items() if value is not None}
    cases = {name: replace(case, **changes) for name, case in cases.items()}
    if given.memory_of is not None:
        memory(given.memory_of, *cases.values())
        return
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}, "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    for name, case in cases.items():
        place = Path(tempfile.mkdtemp(dir=given.scratch))
        try:
            if given.train:
                training_share(place, given.steps)
                break
            measure(name, case, given, place)
        finally:
            shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
