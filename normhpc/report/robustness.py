"""Corruption robustness: accuracy on clean and on corrupted images, and errors in multiples of batch norm's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from normhpc.errors import InputError
from normhpc.report.common import again
from normhpc.report.elements import Column, Datum, Section, Table, bullets, escaped, paragraph
from normhpc.report.finding import Found
from normhpc.report.study import Study
from normhpc.results.human import MISSING, format_interval
from normhpc.results.robustness import (
    REFERENCE,
    TEST_BATCH,
    USUAL,
    Compared,
    compared,
    predicted_by,
)
from normhpc.results.statistics.intervals import MeanOfValues, mean_of

WHAT = "corruption"

_PREDICTORS = {USUAL: "usual", TEST_BATCH: "of test batches"}
"""Which statistics a norm of the batch takes, as a table names them."""

_SEVERITIES = 5

_RATIOS = ("mce", "relative_mce")

_EXPLAINED = (
    "Clean: accuracy on the test images analysed (several labels: macro average precision); corrupted: its mean over corruptions "
    "and five severities. mCE: mean over corruptions of summed errors over severities, divided by those of the reference, {}: "
    "mean errors of its runs at the same seeds with running statistics, taken as known. Below 1 is less error than its. Relative "
    "mCE: the same of errors less the clean one. With statistics of test batches a network is another predictor, whose answer "
    "to an image hangs on the others. Corruptions: {}; not the published mCE."
)

_CAPTION = (
    "Mean over the n analysed seeds and half of its 95 % Student t interval; mCE and relative mCE over those that the "
    "reference has too, as many as the last column says"
)


class _Row(NamedTuple):
    cell: int
    predictor: str
    documents: Sequence[Mapping[str, Any]]
    against: Compared | None


def robustness_section(study: Study, found: Sequence[Found]) -> Section | None:
    """The table; None when the analysis was made of no run."""
    own = [one for one in found if one.what == WHAT]
    if not own:
        return None
    rows, notes = _rows(study, own)
    parts: list[str | Table] = []
    if rows:
        names = dict.fromkeys(name for row in rows for one in row.documents for name in one["in_mean"])
        parts += [paragraph(_EXPLAINED.format(REFERENCE, ", ".join(names))), _table(study, rows)]
        method = f"<dt>{WHAT}</dt><dd>{escaped(own[0].method)}</dd>"
        parts.append(f"<details><summary>How these were computed</summary><dl>{method}</dl></details>")
    else:
        parts.append(paragraph("No result of this analysis can be shown."))
    return Section("robustness", "Corruption robustness", (*parts, bullets(notes, "notes")))


def reference_of(study: Study, block: int) -> int | None:
    """The cell of ``block`` that errors are divided by: batch norm as it is usually; None where there is none."""
    named = [cell for cell in study.cells_in(block) if study.methods[study.cell_method[cell]] == REFERENCE]
    return named[0] if named else None


def _rows(study: Study, found: Sequence[Found]) -> tuple[list[_Row], list[str]]:
    """A row for each cell and predictor, and notes on what is missing."""
    by_cell: dict[int, dict[int, Mapping[str, Any]]] = {}
    older = 0
    for one in found:
        values = one.document["values"]
        if _is_whole(values):
            by_cell.setdefault(int(study.cell_of[one.run]), {})[study.records[one.run].seed] = values
        else:
            older += 1
    rows: list[_Row] = []
    notes = (
        [f"{older} of {len(found)} results are damaged or of an older version: {again(study, WHAT)} makes them anew"]
        if older
        else []
    )
    for block, name in enumerate(study.blocks):
        cells = [cell for cell in study.cells_in(block) if cell in by_cell]
        where = f"{name}: " if len(study.blocks) > 1 else ""
        reference = reference_of(study, block)
        controls = by_cell.get(reference, {}) if reference is not None else {}
        if cells and not controls:
            notes.append(f"{where}no mCE, since there is no analysed run of {REFERENCE}, the reference")
        left_out: list[str] = []
        for cell in cells:
            try:
                against = {one.predictor: one for one in compared(by_cell[cell], controls)}
            except InputError as error:
                notes.append(f"{study.cell_name(cell)}: {error}")
                against = {}
            for predictor in _PREDICTORS:
                documents = [predicted_by(values, predictor) for _, values in sorted(by_cell[cell].items())]
                there = [document for document in documents if document is not None]
                if there:
                    rows.append(_Row(cell, predictor, there, against.get(predictor)))
            if controls and USUAL in against and against[USUAL].left_out:
                left_out.append(f"{study.methods[study.cell_method[cell]]} ({against[USUAL].left_out})")
        if left_out:
            notes.append(f"{where}seeds that {REFERENCE} lacks are in no mCE: {', '.join(left_out)}")
    return rows, notes


def _is_whole(values: Mapping[str, Any]) -> bool:
    """Whether all that is told here can be taken from ``values``."""
    try:
        parts = [part for predictor in _PREDICTORS if (part := predicted_by(values, predictor)) is not None]
        errors = [[part["error_by_severity"][name] for name in part["in_mean"]] for part in parts]
        numbers = [part[name] for part in parts for name in ("clean_error", "mean_corruption_error")]
        numbers += [number for each in errors for by_severity in each for number in by_severity]
    except (KeyError, TypeError, AttributeError):
        return False
    return (
        all(type(number) in (int, float) and 0 <= number <= 1 for number in numbers)
        and all(errors)
        and all(len(by_severity) == _SEVERITIES for each in errors for by_severity in each)
    )


def _table(study: Study, rows: Sequence[_Row]) -> Table:
    several = len(study.blocks) > 1
    columns = [Column("method", "method", numeric=False)]
    columns += [Column("block", "block", numeric=False)] if several else []
    columns += [Column("statistics", "statistics", numeric=False), Column("n", "n")]
    for key, title in (
        ("clean", "clean"),
        ("corrupted", "corrupted"),
        ("mce", "mCE"),
        ("relative_mce", "relative mCE"),
    ):
        columns += [Column(key, title), Column(f"{key}_half", "±")]
    columns.append(Column("seeds", "of"))
    lines = []
    for row in rows:
        datums = [Datum(study.methods[study.cell_method[row.cell]])]
        datums += [Datum(study.blocks[study.cell_block[row.cell]])] if several else []
        datums += [Datum(_PREDICTORS[row.predictor]), _count(len(row.documents))]
        for error in ("clean_error", "mean_corruption_error"):
            datums += _shown(mean_of([1 - float(one[error]) for one in row.documents]), "test_top1")
        measures = row.against.measures if row.against is not None else {}
        for measure in _RATIOS:
            datums += _shown(measures.get(measure), measure)
        datums.append(_count(len(row.against.seeds)) if row.against is not None else Datum(MISSING))
        lines.append(tuple(datums))
    return Table("corruption", _CAPTION, tuple(columns), tuple(lines))


def _count(number: int) -> Datum:
    return Datum(str(number), float(number))


def _shown(mean: MeanOfValues | None, metric: str) -> Iterator[Datum]:
    """A mean and half of its interval, with the digits of ``metric``."""
    if mean is None:
        yield from (Datum(MISSING), Datum(MISSING))
        return
    half = math.nan if mean.half is None else mean.half
    text, width = format_interval(metric, mean.mean, half)
    yield Datum(text, mean.mean)
    yield Datum(width, half) if width else Datum(MISSING)
