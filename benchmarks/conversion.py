"""Images per second of a conversion to shards against a plain loop of Pillow that only decodes and resizes.

    python benchmarks/conversion.py [--images 2000] [--pairs 5] [--folder DIR]

Images of 640 x 480 and 480 x 640 pixels are made, about 160 kB each like those of COCO, or those of a folder are
taken. All take turns, and ratios are taken turn by turn, so that a machine that drifts slows all. The files are in
memory after the first turn, which is left out.

- loop: one process opens each file, decodes it, makes it RGB and resizes it to an array. What it makes is thrown away.
- convert: the conversion of ``data_prep/image_folder.py`` to shards on disk, synced, with checksums and statistics, in
  one process and in two, the start of processes included (0.7 s each).
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from rich.console import Console

from normhpc.shards import image_files
from normhpc.shards.convert import ImageField, Job, LabelSpec, Options, convert

SIZE = 256


def make_images(folder: Path, count: int) -> list[Path]:
    """``count`` JPEG files of smooth structure under fine noise, whose size is that of photographs."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        width, height = (640, 480) if number % 4 else (480, 640)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.normal(0, 17, smooth.shape).astype(np.int16)
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def loop(paths: list[Path]) -> None:
    """Decode and resize, one image after another."""
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def conversion(paths: list[Path], out: Path, workers: int, encoding: str) -> None:
    """The same images as shards in ``out``, which is removed afterwards."""
    preparation = image_files.Preparation(SIZE, encoding="jpeg" if encoding == "jpeg" else "raw")
    fields: tuple[ImageField, ...] = preparation.fields()
    job = Job(
        dataset="benchmark",
        split="train",
        fields=fields,
        encoding=preparation.encoding,
        labels=LabelSpec("single", ("one",)),
        items=[(number, ((str(path),), 0)) for number, path in enumerate(paths)],
        read=partial(image_files.read, preparation=preparation),
        extra_fields=(image_files.ORIG_SIZE,),
        preprocessing=preparation.preprocessing(),
    )
    with Path(os.devnull).open("w") as nowhere:
        convert(job, Options(out, rows_per_shard=256, workers=workers), Console(file=nowhere))


def measure(ways: dict[str, Callable[[], None]], clear: Callable[[], None], pairs: int) -> dict[str, list[float]]:
    """Seconds of each way in each of ``pairs`` turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(pairs + 1):
        for name, way in ways.items():
            clear()
            started = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    clear()
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="take the JPEG files in it, over and over")
    parser.add_argument("--scratch", type=Path, help="folder to write shards below (default: the system's)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as place:
        out = Path(place) / "out"
        if given.folder is None:
            paths = make_images(Path(place), given.images)
        else:
            found = sorted(given.folder.rglob("*.jpg"))
            if not found:
                parser.error(f"--folder: expected JPEG files (*.jpg) in {given.folder}, got none")
            paths = [found[number % len(found)] for number in range(given.images)]
        ways = {
            "loop of Pillow, 1 process": partial(loop, paths),
            "convert raw, 1 worker": partial(conversion, paths, out, 1, "raw"),
            "convert raw, 2 workers": partial(conversion, paths, out, 2, "raw"),
            "convert jpeg, 1 worker": partial(conversion, paths, out, 1, "jpeg"),
            "convert jpeg, 2 workers": partial(conversion, paths, out, 2, "jpeg"),
        }
        size = statistics.mean(path.stat().st_size for path in paths) / 1000
        seconds = measure(ways, lambda: shutil.rmtree(out, ignore_errors=True), given.pairs)
    first = next(iter(ways))
    print(
        f"{given.images} images of {size:.0f} kB to {SIZE} x {SIZE}, median of {given.pairs} turns; Python "
        f"{platform.python_version()}, Pillow {PIL.__version__}, {len(os.sched_getaffinity(0))} cores"
    )
    print("\n| | images/s | rate / loop |\n| --- | --: | --: |")
    for name, taken in seconds.items():
        ratio = statistics.median(base / own for base, own in zip(seconds[first], taken, strict=True))
        print(f"| {name} | {given.images / statistics.median(taken):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
