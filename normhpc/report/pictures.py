"""Explanations: pictures of one run of each method side by side, and the numbers that say what they are worth."""

import base64
import io
from collections.abc import Iterator

from PIL import Image

from normhpc.report.elements import Section, Table, bullets, escaped, paragraph
from normhpc.report.finding import Found
from normhpc.report.findings import finding_tables, findings
from normhpc.report.reliability import reliability_figure
from normhpc.report.study import Study

SHOWN = {
    "saliency": (
        "Grad-CAM. One label: each test image, then its map for the predicted and for the true class; several labels: a map for "
        "each label. Bright is important, each map by its own maximum."
    ),
    "misclassified": "Test images with a wrong answer, the most confident first.",
    "confusion": "Rows are true classes, columns predicted ones; dark is a large share of the true class.",
}
"""Analyses whose pictures are shown, the first before all others, and what is to be seen: words in pictures get small."""

MOST_BYTES = 2_000_000
"""For all pictures together, as they stand in the page."""

_SIDE = (420, 560)
_QUALITY = 72


def explanations_section(study: Study) -> Section | None:
    """Pictures and numbers; None when no run was analysed."""
    found, notes = findings(study)
    if not found and not notes:
        return None
    parts: list[str | Table] = [*_galleries(study, found)]
    parts += reliability_figure(study, found)
    methods = []
    for method, table in finding_tables(study, found):
        parts.append(table)
        methods.append(f"<dt>{escaped(table.name.removeprefix('posthoc-'))}</dt><dd>{escaped(method)}</dd>")
    if methods:
        parts.append(f"<details><summary>How these were computed</summary><dl>{''.join(methods)}</dl></details>")
    return Section("explanations", "Explanations", (*parts, bullets(notes, "notes")))


def _galleries(study: Study, found: list[Found]) -> Iterator[str]:
    """For each analysis and block a row of pictures, that of the lowest seed of each method, while there is room."""
    room, left_out, shown = MOST_BYTES, 0, 0
    for what, says in SHOWN.items():
        firsts: dict[int, Found] = {}
        for one in found:
            if one.what == what and f"{what}.png" in one.files:
                firsts.setdefault(int(study.cell_of[one.run]), one)
        for block in range(len(study.blocks)):
            cells = []
            for cell, one in firsts.items():
                if study.cell_block[cell] != block:
                    continue
                address = _picture(one, f"{what}.png")
                if address is None:
                    continue
                if len(address) > room:
                    left_out += 1
                    continue
                room -= len(address)
                shown += 1
                cells.append(_cell(study, what, cell, one, address))
            if cells:
                where = f", {study.blocks[block]}" if len(study.blocks) > 1 else ""
                yield f"<h3>{escaped(what + where)}</h3>{paragraph(says)}"
                yield f'<div class="gallery">{"".join(cells)}</div>'
    if left_out:
        yield paragraph(
            f"{left_out} of {shown + left_out} pictures are left out: together they may take {MOST_BYTES / 1e6:g} MB; "
            "all of them lie in the folders posthoc of their runs."
        )


def _cell(study: Study, what: str, cell: int, one: Found, address: str) -> str:
    row = study.runs.iloc[one.run]
    series = study.cell_method[cell]
    text = f"{study.methods[series]}, seed {row['seed']}"
    alt = escaped(f"{what} of {study.cell_name(cell)}, run {row['run_id']}")
    caption = f"<figcaption>{escaped(text)}</figcaption>"
    return f'<figure data-s="{series}"><img src="{address}" alt="{alt}">{caption}</figure>'


def _picture(one: Found, name: str) -> str | None:
    """The picture, made smaller, as an address; None when it cannot be read or lies elsewhere."""
    try:
        with Image.open(one.folder / name) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    width = min(picture.width, _SIDE[0])
    picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.BOX)
    picture = picture.crop((0, 0, width, min(picture.height, _SIDE[1])))
    packed = io.BytesIO()
    picture.save(packed, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
