"""The image sets a run can name."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from normhpc.config.base import Fraction, OneOf, Part, PositiveInt, outside_identity

STAGED_VARIABLE = "NORMHPC_STAGED"
"""Environment of a rank: a JSON object from the ``data.path`` of a run to its copy on the node's own disk."""

INDEX_NAME = "index.json"
"""What describes a folder of shards."""

Labels = Literal["single", "multi"]
Normalize = Literal["channel", "half", "mean"]


class DataPart(Part, ABC):
    """What every image set has."""

    val_fraction: Fraction = 0.1
    """Share of the training images held out as ``val`` by a fixed permutation, the same in every run; 0 for none."""
    normalize: Normalize = "channel"
    """What pixels p in 0..1 become: ``channel`` (p - mean) / std of each channel of the training images, ``half``
    (p - 1/2) / (1/2), ``mean`` p - mean of each channel."""
    resize: PositiveInt | None = None
    """Side in pixels of the square that the network sees, by bilinear interpolation after augmentation; null for none."""
    order: Literal["shuffled", "stored"] = "shuffled"
    """Training images of an epoch: ``shuffled`` anew each time, or as ``stored``, in the same batches in every epoch."""

    def labels(self) -> Labels:
        """Whether an image has one label or several."""
        return "single"

    def has_val(self) -> bool:
        """Whether there are images to make choices on."""
        return self.val_fraction > 0

    @abstractmethod
    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is stored."""

    @abstractmethod
    def classes(self) -> int:
        """Number of labels."""

    @abstractmethod
    def stored_rows(self) -> int | None:
        """Training images before ``val`` is held out, at most; None where only a file tells that is not here."""

    def train_rows(self) -> int | None:
        """Images that a run learns from, at most; None where :meth:`stored_rows` does not know."""
        rows = self.stored_rows()
        return None if rows is None else rows - int(rows * self.val_fraction)

    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as the network sees it."""
        channels, height, width = self.stored_shape()
        return (channels, self.resize or height, self.resize or width)


class OfficialArchives(DataPart):
    """A public set read from the files its authors publish."""

    path: str | None = outside_identity(None)
    """Folder that holds the official files, or their archive unpacked. Null is an error that says what is needed."""
    download: bool = outside_identity(False)
    """Let torchvision download the files into ``path`` when they are not there."""
    allow_partial: bool = False
    """Accept files of the official layout with fewer images than the official set."""


class Digits(DataPart):
    """1,797 real 8x8 grey digits in 10 classes, bundled with scikit-learn: 1,437 for training, 360 for test."""

    name: Literal["digits"] = "digits"

    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is stored."""
        return (1, 8, 8)

    def classes(self) -> int:
        """Number of labels."""
        return 10

    def stored_rows(self) -> int:
        """Training images before ``val`` is held out."""
        return 1_437


class Mnist(OfficialArchives):
    """70,000 grey 28x28 digits in 10 classes, from the four idx files (gzip or not)."""

    name: Literal["mnist"] = "mnist"

    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is stored."""
        return (1, 28, 28)

    def classes(self) -> int:
        """Number of labels."""
        return 10

    def stored_rows(self) -> int:
        """Training images before ``val`` is held out, at most."""
        return 60_000


class Cifar10(OfficialArchives):
    """60,000 colour 32x32 photographs in 10 classes, from the python or the binary archive."""

    name: Literal["cifar10"] = "cifar10"

    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is stored."""
        return (3, 32, 32)

    def classes(self) -> int:
        """Number of labels."""
        return 10

    def stored_rows(self) -> int:
        """Training images before ``val`` is held out, at most."""
        return 50_000


class Cifar100(OfficialArchives):
    """60,000 colour 32x32 photographs in 100 fine classes, from the python or the binary archive."""

    name: Literal["cifar100"] = "cifar100"

    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is stored."""
        return (3, 32, 32)

    def classes(self) -> int:
        """Number of labels."""
        return 100

    def stored_rows(self) -> int:
        """Training images before ``val`` is held out, at most."""
        return 50_000


class Synthetic(DataPart):
    """Uniform random images with random labels: for load tests and for sweeps of the tool itself."""

    name: Literal["synthetic"] = "synthetic"
    images: PositiveInt = 1024
    """Training images, before ``val`` is held out."""
    test_images: PositiveInt = 256
    """Test images."""
    channels: PositiveInt = 3
    """Channels of an image."""
    height: PositiveInt = 32
    """Rows of an image, in pixels."""
    width: PositiveInt = 32
    """Columns of an image, in pixels."""
    num_classes: Annotated[int, Field(ge=2)] = 10
    """Number of labels."""
    multi_label: bool = False
    """Give each image any number of labels, each of them with probability 1/4."""

    def labels(self) -> Labels:
        """Whether an image has one label or several."""
        return "multi" if self.multi_label else "single"

    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is stored."""
        return (self.channels, self.height, self.width)

    def classes(self) -> int:
        """Number of labels."""
        return self.num_classes

    def stored_rows(self) -> int:
        """Training images before ``val`` is held out."""
        return self.images


Residency = Literal["auto", "device", "memory", "mmap", "pread"]


class Shards(DataPart):
    """Images that a script of ``data_prep/`` has converted; ``normhpc shards info DIR`` prints these fields."""

    name: Literal["shards"] = "shards"
    dataset: str
    """The set that the shards must hold, as their index names it: ``coco``, ``bigearthnet`` ..."""
    path: str | None = outside_identity(None)
    """Folder with a folder of shards for each split. Null is an error that says what is needed."""
    train: str = "train"
    """Split that is learned from."""
    val: str | None = None
    """Split that choices are made on; null holds ``val_fraction`` of ``train`` out."""
    test: str = "test"
    """Split that is reported."""
    height: PositiveInt
    """Rows of an image, in pixels; of the band of the finest resolution where bands differ."""
    width: PositiveInt
    """Columns of an image, in pixels."""
    channels: PositiveInt = 3
    """Channels of an image."""
    bands: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    """Bands that the network sees, in this order; null for all as they are stored."""
    crop: PositiveInt | None = None
    """Side in pixels of a square cut from every image: anywhere in training, in the middle in evaluation and with
    ``augment: none``; null for the whole image."""
    num_classes: Annotated[int, Field(ge=2)]
    """Number of labels."""
    multi_label: bool = False
    """Whether an image has any number of labels instead of one."""
    residency: Residency = outside_identity("auto")
    """Where images wait: on the ``device``, in ``memory``, or in their files, mapped (``mmap``) or read (``pread``).
    ``auto``: on the device up to 2 GiB, else mapped on this machine's disks and read from network file systems."""
    threads: PositiveInt = outside_identity(2)
    """Threads per rank that gather batches; with ``pread`` four times as many."""

    @field_validator("bands")
    @classmethod
    def _bands_differ(cls, bands: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = [band for number, band in enumerate(bands or ()) if band in (bands or ())[:number]]
        if twice:
            raise ValueError(f"expected every band once, got {twice[0]!r} again; leave it out")
        return bands

    def labels(self) -> Labels:
        """Whether an image has one label or several."""
        return "multi" if self.multi_label else "single"

    def has_val(self) -> bool:
        """Whether there are images to make choices on."""
        return self.val is not None or self.val_fraction > 0

    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is stored."""
        return (self.channels, self.height, self.width)

    def classes(self) -> int:
        """Number of labels."""
        return self.num_classes

    def stored_rows(self) -> int | None:
        """Images of the split ``train``, as its index says; None where no index can be read from here."""
        if self.path is None:
            return None
        try:
            rows = json.loads((Path(self.path).expanduser() / self.train / INDEX_NAME).read_bytes())["rows"]
        except (OSError, ValueError, LookupError, TypeError):
            return None  # whoever reads the images says what is wrong with it
        return rows if isinstance(rows, int) else None

    def train_rows(self) -> int | None:
        """Images that a run learns from; None where :meth:`stored_rows` does not know."""
        return self.stored_rows() if self.val is not None else super().train_rows()

    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as the network sees it."""
        side = self.resize or self.crop
        return (self.channels, side or self.height, side or self.width)


DataConfig = Annotated[Digits | Mnist | Cifar10 | Cifar100 | Synthetic | Shards, OneOf("data set", default="digits")]
