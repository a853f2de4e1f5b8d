"""Numbers of explanations over what all runs of a block are right about, so that methods are compared on the same images."""

import shlex
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normhpc.report.finding import Found
from normhpc.report.study import Study
from normhpc.results.explained import own_and_common

MEASURE = "srg_retention"
_NEEDED = ("rows", "labels", "right", "counted", MEASURE)


def again(study: Study, what: str) -> str:
    """The command that makes the results of the analysis ``what`` anew."""
    return f"normhpc analyze {' '.join(map(shlex.quote, study.dirs))} --what {what} --again"


def with_common(study: Study, found: list[Found]) -> tuple[list[Found], list[str]]:
    """``found``, the results of saliency with two values more: ``srg_retention_common`` and ``common_images``; and notes.

    Those are the mean over the answers that all analysed runs of its block get right, and the number of their images. A
    block has them when the arrays of all its results can be read; what cannot is noted.
    """
    notes: list[str] = []
    changed = dict(enumerate(found))
    for block in range(len(study.blocks)):
        own = [
            number
            for number, one in enumerate(found)
            if one.what == "saliency" and study.cell_block[study.cell_of[one.run]] == block
        ]
        arrays = [_arrays(found[number]) for number in own]
        whole = [each for each in arrays if each is not None]
        if len(whole) < len(own):
            where = f" of {study.blocks[block]}" if len(study.blocks) > 1 else ""
            notes.append(
                f"saliency{where}: no mean over common answers, since {len(own) - len(whole)} of {len(own)} saliency.npz "
                f"are damaged or of an older version; {again(study, 'saliency')} makes them anew"
            )
            continue
        for number, (_, common) in zip(own, own_and_common(whole, MEASURE), strict=True):
            if common is not None:
                values = {f"{MEASURE}_common": common.mean, "common_images": float(common.n)}
                changed[number] = replace(found[number], values={**found[number].values, **values})
    return list(changed.values()), notes


def _arrays(one: Found) -> dict[str, NDArray[Any]] | None:
    """What is needed of ``saliency.npz``; None when it cannot be read, or was written before it had that."""
    try:
        with np.load(one.folder / "saliency.npz") as content:
            return {name: content[name] for name in _NEEDED}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
