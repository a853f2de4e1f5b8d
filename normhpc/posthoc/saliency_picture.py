"""The picture of an analysis of saliency: test images beside the maps of what the network says of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from normhpc.posthoc.kept import Tile
from normhpc.posthoc.pictures import grid, overlaid, shown, side_by_side
from normhpc.posthoc.subject import Subject

SHOWN = 24
"""Maps of answers in the picture, the first ones."""


def picture_of(
    subject: Subject, answers: Mapping[str, NDArray[Any]], maps: Mapping[str, NDArray[Any]]
) -> tuple[Image.Image, list[Tile]]:
    """Images of ``test`` (P,), each beside its map (P, H, W) in ``maps``: the picture, and an image with its maps as a tile.

    ``answers`` are the arrays (P,) of :class:`~normhpc.posthoc.saliency.Answers`. With one label the map is of the
    predicted class, and beside it is that of the true one (``true_maps``); with several it is of a label, which was found
    or missed.
    """
    rows, names = answers["rows"][:SHOWN], dict(enumerate(subject.data.classes))
    images, at = np.unique(rows, return_inverse=True)
    stored = subject.pictures(subject.data.test, images)
    pictures: list[Image.Image] = []
    captions: list[tuple[str, ...]] = []
    for number, row in enumerate(rows):
        pixels, of = stored[at[number]], int(answers["classes"][number])
        said = ("found" if answers["right"][number] else "missed") if subject.multiple else "predicted"
        told = {"maps": f"{said}: {names.get(of, of)}"}
        if "true_maps" in maps:
            told["true_maps"] = f"true: {names[int(answers['labels'][number])]}"
        pictures.append(shown(pixels))
        captions.append((f"test {row}",))
        for name, caption in told.items():
            pictures.append(overlaid(pixels, _resized(maps[name][number], pixels.shape[:2])))
            captions.append((caption,))
    sheet, tiles = grid(pictures, captions, columns=2 * (1 + len(maps)))
    return sheet, side_by_side(tiles, 1 + len(maps))


def _resized(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    """A map in the size of the stored image."""
    given = torch.from_numpy(values.astype(np.float32))[None, None]
    large: NDArray[np.float32] = F.interpolate(given, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return large
