"""Pictures of results: rows of small images with words under them, maps laid over images, matrices."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from normhpc.config.data import DataPart, Shards
from normhpc.data import ImageData, Split, in_memory, values
from normhpc.posthoc.kept import Tile

_WIDTH = 128
"""Least pixels across an image of a grid."""
_LINE = 13
_MARGIN = 4
_TEXT = (32, 32, 32)
_PAPER = (255, 255, 255)
_RED_GREEN_BLUE = ("B04", "B03", "B02")
"""Bands of Sentinel-2."""


def to_look_at(data: ImageData, config: DataPart, split: Split, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(N, H, W, C) of the given rows: what is cut from the images for evaluation, its bytes as they are stored.

    Values of more than 8 bits are shown from 0 to two deviations above the mean of their channel, floats from two
    deviations below it on; of satellite images red, green and blue where they have these bands.
    """
    stored = in_memory(split, rows).images
    if isinstance(config, Shards) and config.crop is not None:
        top, left = (stored.shape[1] - config.crop) // 2, (stored.shape[2] - config.crop) // 2
        stored = stored[:, top : top + config.crop, left : left + config.crop]
    if stored.dtype == torch.uint8:
        return stored.numpy()
    moments = torch.tensor([data.mean, data.std], dtype=torch.float64) * data.unit
    black = moments[0] - 2 * moments[1] if stored.is_floating_point() else torch.zeros_like(moments[0])
    span = moments[0] + 2 * moments[1] - black
    span[span == 0] = 1.0
    shares = values(stored, torch.float32).sub_(black.float()).div_(span.float()).clamp_(0, 1)
    bands = (config.bands if isinstance(config, Shards) else None) or ()
    if set(_RED_GREEN_BLUE) <= set(bands):
        shares = shares[..., [bands.index(band) for band in _RED_GREEN_BLUE]]
    return shares.mul_(255).round_().to(torch.uint8).numpy()


def shown(pixels: NDArray[np.uint8]) -> Image.Image:
    """(H, W, C) stored values as an RGB picture of H x W; other than 1 or 3 channels as the mean of all, in grey."""
    if pixels.shape[2] != 3:
        grey = np.round(pixels.mean(axis=2)).astype(np.uint8)
        pixels = np.repeat(grey[:, :, None], 3, axis=2)
    return Image.fromarray(pixels)


def thumbnail(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """What is :func:`shown` of (H, W, C) stored values as (h, w, 3), made smaller where a side has more than ``side``."""
    picture = shown(pixels)
    factor = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W) of 0 to 1 as colours (H, W, 3): black, red, yellow, white, brighter in each step."""
    level = np.clip(values, 0, 1)[:, :, None] * 3 - np.arange(3)
    colours: NDArray[np.uint8] = np.round(np.clip(level, 0, 1) * 255).astype(np.uint8)
    return colours


def overlaid(pixels: NDArray[np.uint8], values: NDArray[np.floating], share: float = 0.55) -> Image.Image:
    """The picture of (H, W, C) stored values, with :func:`heat` of the map ``values`` (H, W) mixed in."""
    under = np.asarray(shown(pixels)).astype(np.float64)
    return Image.fromarray(np.round((1 - share) * under + share * heat(values)).astype(np.uint8))


def grid(
    pictures: Sequence[Image.Image], captions: Sequence[Sequence[str]], columns: int
) -> tuple[Image.Image, list[Tile]]:
    """Pictures of one size, row by row, each over the lines of its caption; small ones are enlarged pixel by pixel.

    With them where each lies, and its caption.
    """
    width, height = pictures[0].size if pictures else (1, 1)
    factor = max(1, -(-_WIDTH // max(width, height)))
    width, height = width * factor, height * factor
    across, down = width + _MARGIN, height + _LINE * max((len(lines) for lines in captions), default=0) + _MARGIN
    rows = max(1, -(-len(pictures) // columns))
    sheet = Image.new("RGB", (columns * across + _MARGIN, rows * down + _MARGIN), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    tiles: list[Tile] = []
    for number, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        left, top = _MARGIN + number % columns * across, _MARGIN + number // columns * down
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        tiles.append(Tile((left, top, left + width, top + height), tuple(lines)))
        for line, text in enumerate(lines):
            pen.text((left, top + height + line * _LINE), _fitted(text, width, font), fill=_TEXT, font=font)
    return sheet, tiles


def side_by_side(tiles: Sequence[Tile], count: int) -> list[Tile]:
    """Every ``count`` neighbours in a row of a :func:`grid` as one tile, with the words of all."""
    return [
        Tile(
            (*tiles[at].box[:2], *tiles[at + count - 1].box[2:]),
            tuple(word for tile in tiles[at : at + count] for word in tile.words),
        )
        for at in range(0, len(tiles), count)
    ]


def _fitted(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """``text``, cut at its end to so many pixels."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def matrix(values: NDArray[np.floating], names: Sequence[str], side: int = 640) -> Image.Image:
    """(K, K) shares as squares, white for 0, dark blue for 1; up to 25 ``names`` beside rows and numbers in squares."""
    count = len(values)
    cell = max(3, side // max(1, count))
    told = count <= 25
    font = ImageFont.load_default()
    edge = int(max((font.getlength(name) for name in names), default=0)) + 2 * _MARGIN if told else _MARGIN
    edge = min(edge, side // 3)
    sheet = Image.new("RGB", (edge + count * cell + _MARGIN, _LINE + _MARGIN + count * cell + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((edge, 0), "rows: true class, columns: predicted class, same order", fill=_TEXT, font=font)
    dark = np.array([8, 48, 107])
    for row in range(count):
        top = _LINE + _MARGIN + row * cell
        if told:
            pen.text((_MARGIN, top + (cell - _LINE) // 2), _fitted(names[row], edge, font), fill=_TEXT, font=font)
        for column in range(count):
            share = float(values[row, column])
            colour = tuple(int(part) for part in np.round(255 + (dark - 255) * share))
            left = edge + column * cell
            pen.rectangle((left, top, left + cell - 1, top + cell - 1), fill=colour)
            if told and share > 0:
                ink = _PAPER if share > 0.5 else _TEXT
                pen.text((left + 2, top + (cell - _LINE) // 2), f"{share:.2f}", fill=ink, font=font)
    return sheet
