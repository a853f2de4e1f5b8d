"""A split of shards whose images a network is asked about, in parts that fit in memory."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normhpc.config.data import DataPart
from normhpc.config.data import Shards as ShardsConfig
from normhpc.errors import DataError, Problem
from normhpc.posthoc.parts import parts_of
from normhpc.shards import open_shards
from normhpc.shards.index import INDEX_NAME


class GivenShards:
    """The images of the split in ``folder``, as the run's ``data`` has them: its bands, its shape.

    Raises :class:`~normhpc.errors.DataError` for shards of other images.
    """

    key = "id"
    """What tells images apart in what is written about them."""

    def __init__(self, folder: Path, data: DataPart) -> None:
        # loads torch, which comes last when there are no shards to look at
        from normhpc.data import stored_split

        self._split = stored_split(open_shards(folder.parent, folder.name), data.stored_shape(), bands_of(data))
        ids = self._split.images.shards.ids()
        self.names: Sequence[str] = [name.decode() if isinstance(name, bytes) else str(name) for name in ids.tolist()]

    def __len__(self) -> int:
        return len(self.names)

    def blocks(self) -> Iterator[NDArray[np.generic]]:
        """Stored values (N, H, W, C) of all images, one part after another."""
        images = self._split.images
        for places in parts_of(len(self), math.prod(images.shape) * images.planes.dtype.itemsize):
            yield images.subset(places).everything().numpy()


def bands_of(data: DataPart) -> Sequence[str] | None:
    """The bands that a run chose."""
    return data.bands if isinstance(data, ShardsConfig) else None


def is_split(place: Path) -> bool:
    """Whether ``place`` is a split of shards. Raises :class:`DataError` for a folder of several, which it names."""
    if (place / INDEX_NAME).is_file():
        return True
    splits = sorted(entry.name for entry in place.iterdir() if (entry / INDEX_NAME).is_file())
    if splits:
        message = f"a folder of splits; give one of them: {', '.join(str(place / name) for name in splits)}"
        raise DataError(Problem(message, path="--images", file=str(place)))
    return False
