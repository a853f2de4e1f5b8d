"""Pictures that analyses left, a column for each method: parts of them with words in letters of the page."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from normhpc.report.confusion import confusion_drawing
from normhpc.report.elements import escaped, paragraph
from normhpc.report.finding import Found
from normhpc.report.study import Study

SHOWN = {
    "saliency": (
        "Grad-CAM. One label: each test image, then its map for the predicted and for the true class; several labels: a map for "
        "each label. Bright is important, each map by its own maximum."
    ),
    "misclassified": "Test images with a wrong answer, the most confident first.",
    "confusion": "Rows are true classes, columns predicted ones; dark is a large share of the true class.",
}
"""Analyses whose pictures are shown, the first before all others, and what is to be seen."""

MOST_TILES = {"saliency": 8, "misclassified": 12}
"""Parts of a picture that are shown, the first."""

MOST_BYTES = 2_000_000
"""For all pictures together, as they stand in the page."""

_SIDE = (420, 560)
"""Most pixels of a picture that does not say what is where in it."""
_TILE_HEIGHT = 128
_QUALITY = 72


def galleries(study: Study, found: Sequence[Found]) -> Iterator[str]:
    """For each analysis and block a row of pictures, that of the lowest seed of each method, while there is room."""
    room, left_out, shown = MOST_BYTES, 0, 0
    for what, says in SHOWN.items():
        firsts: dict[int, Found] = {}
        for one in found:
            if one.what == what and f"{what}.png" in one.files:
                firsts.setdefault(int(study.cell_of[one.run]), one)
        for block in range(len(study.blocks)):
            cells: list[str] = []
            kind = ""
            for cell, one in firsts.items():
                if study.cell_block[cell] != block:
                    continue
                content = _shown(one, f"{what} of {study.cell_name(cell)}")
                if content is None:
                    continue
                if len(content) > room:
                    left_out += 1
                    continue
                room -= len(content)
                shown += 1
                cells.append(_column(study, cell, one, content))
                # drawings have a size of their own
                kind = "matrices" if content.startswith("<svg") else "gallery"
            if cells:
                where = f", {study.blocks[block]}" if len(study.blocks) > 1 else ""
                yield f"<h3>{escaped(what + where)}</h3>{paragraph(says)}"
                yield f'<div class="{kind}">{"".join(cells)}</div>'
    if left_out:
        yield paragraph(
            f"{left_out} of {shown + left_out} pictures are left out: together they may take {MOST_BYTES / 1e6:g} MB; "
            "all of them lie in the folders posthoc of their runs."
        )


def _column(study: Study, cell: int, one: Found, content: str) -> str:
    series = study.cell_method[cell]
    text = f"{study.methods[series]}, seed {study.records[one.run].seed}"
    return f'<figure data-s="{series}"><figcaption>{escaped(text)}</figcaption>{content}</figure>'


def _shown(one: Found, name: str) -> str | None:
    """A picture as the page shows it; None when it cannot be read or lies elsewhere."""
    if one.what == "confusion" and (drawing := confusion_drawing(one.document["values"], name)) is not None:
        return drawing
    try:
        with Image.open(one.folder / f"{one.what}.png") as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    tiles = list(_tiles(one, picture.size))[: MOST_TILES.get(one.what, 0)]
    if tiles:
        # what is as wide as its column has room for its words side by side
        kind, between = ("strips", ", ") if one.what == "saliency" else ("thumbs", "<br>")
        parts = "".join(_part(picture.crop(box), words, between, name) for box, words in tiles)
        return f'<div class="{kind}">{parts}</div>'
    width = min(picture.width, _SIDE[0])
    picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.BOX)
    picture = picture.crop((0, 0, width, min(picture.height, _SIDE[1])))
    return f'<img src="{_address(picture)}" alt="{escaped(name)}">'


def _part(picture: Image.Image, words: Sequence[str], between: str, name: str) -> str:
    if picture.height > _TILE_HEIGHT:
        width = max(1, round(picture.width * _TILE_HEIGHT / picture.height))
        picture = picture.resize((width, _TILE_HEIGHT), Image.Resampling.BOX)
    told = between.join(map(escaped, words))
    alt = escaped(f"{name}: {'; '.join(words)}")
    return f'<figure><img src="{_address(picture)}" alt="{alt}"><figcaption>{told}</figcaption></figure>'


def _tiles(one: Found, size: tuple[int, int]) -> Iterator[tuple[tuple[int, int, int, int], list[str]]]:
    """Where what lies in a picture of ``size``, as its file says; nothing of what cannot be so, or is not said."""
    said = one.document.get("tiles")
    listed: Any = said.get(f"{one.what}.png") if isinstance(said, dict) else None
    for tile in listed if isinstance(listed, list) else ():
        box, words = (tile.get("box"), tile.get("words")) if isinstance(tile, dict) else (None, None)
        if not (isinstance(box, list) and len(box) == 4 and all(type(place) is int for place in box)):
            continue
        left, top, right, bottom = box
        if 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1] and isinstance(words, list):
            yield (left, top, right, bottom), [str(word) for word in words]


def _address(picture: Image.Image) -> str:
    packed = io.BytesIO()
    picture.save(packed, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
