"""Image sets in memory and in shards, the order of their images, and batches of them.

To add a set: its config class in ``config/data.py``, a reader in this folder and a line in :data:`READERS`.
"""

from collections.abc import Callable
from typing import Any

from normhpc.config.data import Cifar10, Cifar100, DataConfig, DataPart, Digits, Mnist, Shards, Synthetic
from normhpc.data.batches import Batches as Batches
from normhpc.data.batches import TrainBatch as TrainBatch
from normhpc.data.cifar import read_cifar10, read_cifar100
from normhpc.data.digits import read_digits
from normhpc.data.images import ImageData as ImageData
from normhpc.data.images import ImageSplit as ImageSplit
from normhpc.data.images import Split as Split
from normhpc.data.images import assemble
from normhpc.data.images import centre_and_scale as centre_and_scale
from normhpc.data.images import in_memory as in_memory
from normhpc.data.mnist import read_mnist
from normhpc.data.order import draws as draws
from normhpc.data.order import order as order
from normhpc.data.order import rank_share as rank_share
from normhpc.data.order import step_seed as step_seed
from normhpc.data.order import uniform as uniform
from normhpc.data.planes import UNITS as UNITS
from normhpc.data.planes import values as values
from normhpc.data.sharded import open_sharded
from normhpc.data.sharded import stored_split as stored_split
from normhpc.data.source import Source
from normhpc.data.stored import StoredSplit as StoredSplit
from normhpc.data.synthetic import read_synthetic
from normhpc.shards import open_shards as open_shards

READERS: dict[type[DataPart], Callable[[Any], Source]] = {
    Digits: read_digits,
    Mnist: read_mnist,
    Cifar10: read_cifar10,
    Cifar100: read_cifar100,
    Synthetic: read_synthetic,
}
"""The reader of every image set that is read whole."""


def load(config: DataConfig) -> ImageData:
    """The image set of a run, with ``val`` held out of the training images: in memory, or shards where they lie.

    Raises :class:`~normhpc.errors.DataError` when files are missing, damaged or not as many as they should be.
    """
    if isinstance(config, Shards):
        return open_sharded(config)
    source = READERS[type(config)](config)
    return assemble(config.name, source.train, source.test, source.classes, config.val_fraction)
