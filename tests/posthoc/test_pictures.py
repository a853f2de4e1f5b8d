"""Grids of pictures: where each part lies, so that others can show it with words of their own."""

import numpy as np
from PIL import Image

from normhpc.posthoc.pictures import grid, side_by_side


def plain(number: int) -> Image.Image:
    return Image.new("RGB", (8, 4), (number, 0, 255 - number))


def test_every_part_of_a_grid_lies_where_its_tile_says() -> None:
    words = [(f"test {number}", "a name of more letters than there is room for in the picture") for number in range(7)]
    sheet, tiles = grid([plain(number) for number in range(7)], words, columns=3)
    assert [tile.words for tile in tiles] == words
    for number, tile in enumerate(tiles):
        part = np.asarray(sheet.crop(tile.box))
        # 8 pixels across become 128
        assert part.shape == (64, 128, 3)
        assert (part == (number, 0, 255 - number)).all()
    assert grid([], [], 3)[1] == []


def test_neighbours_become_one_tile_with_all_words() -> None:
    _, tiles = grid([plain(number) for number in range(6)], [(str(number),) for number in range(6)], columns=6)
    first, second = side_by_side(tiles, 3)
    assert (first.words, second.words) == (("0", "1", "2"), ("3", "4", "5"))
    assert first.box == (tiles[0].box[0], tiles[0].box[1], tiles[2].box[2], tiles[2].box[3])
    assert second.box == (tiles[3].box[0], tiles[3].box[1], tiles[5].box[2], tiles[5].box[3])
