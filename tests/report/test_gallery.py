"""Pictures of analyses in a page: parts with words as text, matrices as drawings."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report.pages import Reader, written
from results.fabricate import sealed_run

from normhpc.report import gallery
from normhpc.report.confusion import MOST_CLASSES, confusion_drawing
from normhpc.report.elements import escaped


def keep(
    runs: Path, what: str, tiles: Any, values: dict[str, Any] | None = None, size: tuple[int, int] = (300, 400)
) -> None:
    """A run whose analysis ``what`` left a picture that is red to the left of pixel 100, blue to the right of it."""
    folder = sealed_run(runs, {"norm": "batch", "seed": 0}, 0.9, swept={"norm": "batch"}).path / "posthoc"
    folder.mkdir()
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, :100, 0], pixels[:, 100:, 2] = 255, 255
    Image.fromarray(pixels).save(folder / f"{what}.png")
    document = {"what": what, "method": "m", "values": values or {}, "files": [f"{what}.png"]}
    (folder / f"{what}.json").write_text(json.dumps(document | {"tiles": {f"{what}.png": tiles}}))


def images(page: Reader) -> list[tuple[Image.Image, str]]:
    found = []
    for tag, given in page.elements:
        if tag == "img":
            content = base64.b64decode(str(given["src"]).partition(",")[2])
            found.append((Image.open(io.BytesIO(content)), str(given["alt"])))
    return found


def test_parts_stand_over_their_words_as_text_of_the_page(tmp_path: Path) -> None:
    tiles = [
        {"box": [0, 0, 100, 100], "words": ["test 0", "predicted: <cat>", "true: dog"]},
        {"box": [100, 0, 300, 256], "words": ["test 1"]},
    ]
    keep(tmp_path / "runs", "saliency", tiles)
    text = written(tmp_path / "runs")
    assert "<figcaption>test 0, predicted: &lt;cat&gt;, true: dog</figcaption>" in text
    (first, alt), (second, _) = images(Reader(text))
    assert alt == "saliency of batch: test 0; predicted: <cat>; true: dog"
    assert (first.size, second.size) == ((100, 100), (100, 128))
    assert np.abs(np.asarray(first).mean(axis=(0, 1)) - (254, 0, 0)).max() < 3
    assert np.abs(np.asarray(second).mean(axis=(0, 1)) - (0, 0, 254)).max() < 3


@pytest.mark.parametrize(("what", "most"), [("saliency", 8), ("misclassified", 12)])
def test_the_first_parts_are_shown(tmp_path: Path, what: str, most: int) -> None:
    assert gallery.MOST_TILES[what] == most
    keep(tmp_path / "runs", what, [{"box": [0, 0, 20, 20], "words": [f"test {number}"]} for number in range(30)])
    told = [alt for _, alt in images(Reader(written(tmp_path / "runs")))]
    assert told == [f"{what} of batch: test {number}" for number in range(most)]


@pytest.mark.parametrize(
    "tiles",
    [
        None,
        "abc",
        [1],
        [{"box": [0, 0, 10], "words": []}],
        [{"box": [0, 0, 10, 401], "words": []}],
        [{"box": [-1, 0, 10, 10], "words": []}],
        [{"box": [5, 0, 5, 10], "words": []}],
        [{"box": [0, 0, 10.5, 10], "words": []}],
        [{"box": [0, 0, 10, 10], "words": "abc"}],
    ],
)
def test_a_picture_that_does_not_say_what_is_where_is_shown_whole(tmp_path: Path, tiles: Any) -> None:
    keep(tmp_path / "runs", "saliency", tiles)
    [(whole, alt)] = images(Reader(written(tmp_path / "runs")))
    assert (whole.size, alt) == ((300, 400), "saliency of batch")


def test_confusion_is_drawn_with_names_and_numbers(tmp_path: Path) -> None:
    matrix = [[6, 2, 0, 2], [0, 5, 0, 0], [0, 0, 0, 0]]
    keep(tmp_path / "runs", "confusion", None, {"classes": ["cat", "<dog>", "eel"], "matrix": matrix})
    text = written(tmp_path / "runs")
    assert images(Reader(text)) == []
    drawing = re.search(r'<svg class="matrix".*?</svg>', text).group()
    # rows and columns; the output that is no class counts in its row
    assert drawing.count(">cat</text>") == drawing.count(">&lt;dog&gt;</text>") == 2
    assert re.findall(r'<rect class="f(\d)"', drawing) == ["5", "1", "0", "0", "8", "0", "0", "0", "0"]
    assert re.findall(r'<text class="n\d"[^>]*>(\d+)</text>', drawing) == ["60", "20", "100"]
    assert escaped("cat, taken for <dog>: 2 (20.0%)") in drawing


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"classes": ["a"], "matrices": [[[1, 2], [3, 4]]]},
        {"classes": ["a", "b"], "matrix": [[1, 0]]},
        {"classes": ["a"], "matrix": [["x"]]},
        {"classes": ["a"], "matrix": [[None]]},
        {"classes": ["a"] * (MOST_CLASSES + 1), "matrix": np.eye(MOST_CLASSES + 1).tolist()},
    ],
)
def test_what_cannot_be_drawn_is_left_to_the_picture(tmp_path: Path, values: dict[str, Any]) -> None:
    assert confusion_drawing(values, "confusion of batch") is None
    keep(tmp_path / "runs", "confusion", None, values)
    assert [alt for _, alt in images(Reader(written(tmp_path / "runs")))] == ["confusion of batch"]
