"""Images on which norms disagree: all seeds of one wrong, all seeds of the other right; counted, listed and shown."""

import base64
import io
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normhpc.errors import InputError
from normhpc.report.elements import Column, Datum, Section, Table, bullets, escaped, paragraph
from normhpc.report.study import Study
from normhpc.results.disagreement import Disagreement, Disputed, NormAnswers, compare, joined
from normhpc.results.human import MISSING
from normhpc.results.predictions import class_names, kept_pictures, read_answers
from normhpc.results.records import listed

MOST_BLOCKS = 8
MOST_METHODS = 40
"""Compared in a block, the first that have predictions."""

MOST_ROWS = 25
"""In the table, of what one norm gets wrong and another right."""
MOST_ROWS_OF_BLOCK = 400

MOST_PAIRS = 3
"""Norms of which images are shown, in a block."""
MOST_IMAGES = 8
"""Shown of those that one norm gets wrong and another right."""
MOST_PICTURES = 64
"""In the whole page."""


_NO_PICTURE = "<div>no picture</div>"


class ComparedBlock(NamedTuple):
    """The methods of a block that have predictions, at least two."""

    block: int
    disagreement: Disagreement
    classes: tuple[str, ...]
    suffix: str
    """Of the names of its tables."""

    def directions(self) -> Iterator[tuple[int, int]]:
        """(wrong, right) of all pairs, each one way and then the other, those with most disagreement first."""
        for first, second in self.disagreement.pairs():
            ways = sorted([(first, second), (second, first)], key=lambda way: -self.disagreement.wrong_right[way])
            yield from ways

    def disputed(self, wrong: int, right: int) -> list[Disputed]:
        """See :meth:`normhpc.results.disagreement.Disagreement.disputed`."""
        return self.disagreement.disputed(wrong, right, self.classes)


def disagreement_section(study: Study) -> Section | None:
    """Counts, pictures and a table for each block with predictions of two methods; None where there is none."""
    compared, notes = compared_blocks(study)
    parts: list[str | Table] = [*_explained(compared)]
    room = MOST_PICTURES
    for one in compared:
        if len(study.blocks) > 1:
            parts.append(f"<h3>{escaped(study.blocks[one.block])}</h3>")
        parts += [counts_table(one), shared_table(one)]
        galleries, shown = _galleries(one, room)
        room -= shown
        if any(_NO_PICTURE in gallery for gallery in galleries):
            places = " ".join(map(shlex.quote, study.dirs))
            notes.append(
                f"Pictures that are missing: normhpc analyze {places} --what misclassified keeps them, 1 MB a run, the most "
                "confident mistakes first; --again where an older version has not."
            )
        images = images_table(one)
        parts += [*galleries, *([images] if images.rows else [])]
    if not parts and not notes:
        return None
    told = bullets(dict.fromkeys(notes), "notes")
    return Section("disagreement", "Images on which norms disagree", (*parts, told))


def compared_blocks(study: Study) -> tuple[list[ComparedBlock], list[str]]:
    """The blocks whose methods can be compared, and notes on predictions that are missing, damaged or of other images."""
    found: list[ComparedBlock] = []
    notes: list[str] = []
    for block in range(len(study.blocks)):
        if len(found) == MOST_BLOCKS:
            notes.append(f"Compared are the first {MOST_BLOCKS} of {len(study.blocks)} blocks that have predictions.")
            break
        cells = study.cells_in(block)
        there = {cell: norm for cell in cells if (norm := _norm(study, cell, notes)) is not None}
        chosen = tuple(islice(there, MOST_METHODS))
        if len(chosen) < 2:
            continue
        try:
            disagreement = compare([there[cell] for cell in chosen])
        except InputError as error:
            notes.append(str(error))
            continue
        if len(there) > len(chosen):
            notes.append(f"{study.blocks[block]}: compared are the first {len(chosen)} of {len(there)} methods.")
        notes += _caveats(study, cells, disagreement)
        suffix = f"-{block + 1}" if len(study.blocks) > 1 else ""
        found.append(ComparedBlock(block, disagreement, _classes(study, chosen), suffix))
    return found, notes


def counts_table(one: ComparedBlock) -> Table:
    """Of each norm its seeds, their consistency, and how many images it gets wrong that another gets right."""
    disagreement = one.disagreement
    columns = [
        Column("wrong", "all seeds wrong", numeric=False),
        Column("n", "n"),
        Column("consistent", "same answer"),
        *(Column(f"right:{norm.name}", f"{norm.name} right") for norm in disagreement.norms),
    ]
    rows = []
    for number, norm in enumerate(disagreement.norms):
        same = Datum(f"{norm.consistent:.4f}", norm.consistent) if norm.seeds > 1 else Datum(MISSING)
        counts = list(_counts(disagreement.wrong_right[number], disagreement))
        counts[number] = Datum(MISSING)
        rows.append((Datum(norm.name), Datum(str(norm.seeds), float(norm.seeds)), same, *counts))
    caption = (
        f"Of {disagreement.images} images those that all n seeds of the row get wrong{_in_a_label(disagreement)} and all "
        "seeds of the column right. Same answer: share of images to which all seeds of the row answer the same"
    )
    return Table(f"disagreement{one.suffix}", caption, tuple(columns), tuple(rows))


def shared_table(one: ComparedBlock) -> Table:
    """Images that all seeds of two norms get wrong."""
    disagreement = one.disagreement
    columns = [
        Column("wrong", "all seeds wrong", numeric=False),
        *(Column(f"wrong:{norm.name}", f"{norm.name} wrong") for norm in disagreement.norms),
    ]
    rows = [
        (Datum(norm.name), *_counts(row, disagreement))
        for norm, row in zip(disagreement.norms, disagreement.both_wrong, strict=True)
    ]
    caption = (
        f"Of {disagreement.images} images those that all seeds of row and column get wrong"
        f"{' in the same label' if disagreement.multiple else ''}; where these are one norm, all that it always gets wrong"
    )
    return Table(f"shared-mistakes{one.suffix}", caption, tuple(columns), tuple(rows))


def images_table(one: ComparedBlock) -> Table:
    """The images of :func:`counts_table`, the first of each two norms, one way and the other."""
    several = one.disagreement.multiple
    columns = (
        Column("norm_wrong", "all seeds wrong", numeric=False),
        Column("norm_right", "all seeds right", numeric=False),
        Column("row", "row"),
        Column("true", "class" if several else "true class", numeric=False),
        Column("predicted", "mistake" if several else "taken for", numeric=False),
        Column("confidence", "confidence"),
        Column("seeds_agreeing", "seeds"),
        Column("seeds_wrong", "of"),
        Column("seeds_right", "seeds right"),
    )
    rows: list[tuple[Datum, ...]] = []
    for wrong, right in one.directions():
        room = min(MOST_ROWS, MOST_ROWS_OF_BLOCK - len(rows))
        rows += map(_row, one.disputed(wrong, right)[:room])
    caption = (
        "Rows of the test split as it is stored; confidence: mean over the seeds that are wrong of the probability of their "
        f"own answer; seeds: how many of them answer so. The first {MOST_ROWS} of each two norms, {MOST_ROWS_OF_BLOCK} in all; "
        "analysis/disagreement_grid.py writes all of them"
    )
    return Table(f"disputed-images{one.suffix}", caption, columns, tuple(rows))


def _row(image: Disputed) -> tuple[Datum, ...]:
    counts = (image.seeds_agreeing, image.seeds_wrong, image.seeds_right)
    return (
        *(Datum(text) for text in (image.norm_wrong, image.norm_right)),
        Datum(str(image.row), float(image.row)),
        *(Datum(text) for text in (image.true, image.predicted)),
        Datum(f"{image.confidence:.3f}", image.confidence),
        *(Datum(str(count), float(count)) for count in counts),
    )


def _counts(counts: NDArray[np.int64], disagreement: Disagreement) -> Iterator[Datum]:
    for count in counts.tolist():
        text = f"{count} ({count / disagreement.images:.1%})" if count else "0"
        yield Datum(text, float(count))


def _in_a_label(disagreement: Disagreement) -> str:
    return " in a label" if disagreement.multiple else ""


def _norm(study: Study, cell: int, notes: list[str]) -> NormAnswers | None:
    """What the seeds of ``cell`` say together; None without predictions."""
    answers = []
    for run in study.runs_of(cell):
        try:
            own = read_answers(study.records[run].folder)
        except InputError as error:
            notes.append(str(error))
            continue
        answers += [own] if own is not None else []
    try:
        return joined(study.methods[study.cell_method[cell]], answers) if answers else None
    except InputError as error:
        notes.append(str(error))
        return None


def _caveats(study: Study, cells: Sequence[int], disagreement: Disagreement) -> Iterator[str]:
    """What one must know before believing the counts of a block of ``cells``."""
    finished = sum(study.records[run].status.state == "finished" for cell in cells for run in study.runs_of(cell))
    missing = finished - sum(norm.seeds for norm in disagreement.norms)
    if missing > 0:
        places = " ".join(map(shlex.quote, study.dirs))
        yield (
            f"{missing} of {finished} finished runs have no predictions and are not in it; "
            f"normhpc analyze {places} --what misclassified makes them."
        )
    alone = [norm.name for norm in disagreement.norms if norm.seeds < 2]
    if alone:
        yield f"One seed alone shows what one network does, not what its norm does: {listed(alone)}."
    weights = sorted({name for norm in disagreement.norms for name in norm.weights})
    if len(weights) > 1:
        yield f"Predictions are of different weights, {' and '.join(weights)}: normhpc analyze --weights takes one of them."


def _classes(study: Study, cells: Iterable[int]) -> tuple[str, ...]:
    """Names of the labels, as the first run has them that has any."""
    found = (class_names(study.records[run].summary) for cell in cells for run in study.runs_of(cell))
    return next(filter(None, found), ())


def _explained(compared: Sequence[ComparedBlock]) -> Iterator[str]:
    if compared:
        text = (
            "Images that every seed of one method gets wrong and every seed of another right; what single seeds get wrong "
            f"does not count. Shown are up to {MOST_IMAGES} either way of the {MOST_PAIRS} pairs of methods that disagree "
            f"most, {MOST_PICTURES} images at most, as far as normhpc analyze --what misclassified kept them."
        )
        several = " Of images with several labels a false positive or a false negative of all seeds is a mistake."
        yield paragraph(text + (several if any(one.disagreement.multiple for one in compared) else ""))


def _galleries(one: ComparedBlock, room: int) -> tuple[list[str], int]:
    """The pictures of a block, and how many images there are on them; at most ``room``."""
    found, shown = [], 0
    for wrong, right in islice(one.directions(), 2 * MOST_PAIRS):
        images: dict[int, list[Disputed]] = {}
        for image in one.disputed(wrong, right):
            images.setdefault(image.row, []).append(image)
        chosen = list(images.values())[: min(MOST_IMAGES, room - shown)]
        if not chosen:
            continue
        shown += len(chosen)
        pictures = kept_pictures(one.disagreement.norms[wrong].places, [image[0].row for image in chosen])
        first = chosen[0][0]
        caption = (
            f"{first.norm_wrong} wrong ({_seeds(first.seeds_wrong)}), {first.norm_right} right ({_seeds(first.seeds_right)}): "
            f"{len(images)} of {one.disagreement.images} images"
            + (f", the first {len(chosen)}" if len(chosen) < len(images) else "")
        )
        cells = "".join(_cell(image, pictures.get(image[0].row), one.disagreement.multiple) for image in chosen)
        found.append(f'<figure><figcaption>{escaped(caption)}</figcaption><div class="thumbs">{cells}</div></figure>')
    return found, shown


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"all {count} seeds"


def _cell(image: Sequence[Disputed], pixels: NDArray[np.uint8] | None, multiple: bool) -> str:
    """One image with what is wrong about it: ``image`` has its labels that are, one where labels are not several."""
    first = image[0]
    if multiple:
        lines = [
            f"{kind}: {', '.join(names)}"
            for kind in ("false positive", "false negative")
            if (names := [one.true for one in image if one.predicted == kind])
        ]
    else:
        lines = [f"{first.true}, taken for {first.predicted}"]
    seeds = f"{first.confidence:.3f}, {first.seeds_agreeing}/{first.seeds_wrong} seeds"
    words = "<br>".join(escaped(line) for line in (f"row {first.row}", *lines, seeds))
    alt = escaped(f"test image {first.row}: {'; '.join(lines)}")
    drawn = f'<img src="{_address(pixels)}" alt="{alt}">' if pixels is not None else _NO_PICTURE
    return f"<figure>{drawn}<figcaption>{words}</figcaption></figure>"


def _address(pixels: NDArray[np.uint8]) -> str:
    """(H, W, 3) as the address of a PNG, in grey where there are no colours."""
    grey = bool((pixels == pixels[..., :1]).all())
    packed = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(packed, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
