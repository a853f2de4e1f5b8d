"""What a reader of an image set hands over, before ``val`` is held out."""

from typing import NamedTuple

from normhpc.data.images import ImageSplit


class Source(NamedTuple):
    """The splits as their authors published them."""

    train: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]
    """Name of each label."""
