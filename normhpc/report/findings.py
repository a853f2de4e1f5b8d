"""What ``normhpc analyze`` left in the runs' folders ``posthoc``: its numbers by method, with n."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from normhpc.report.common import again, with_common
from normhpc.report.elements import Column, Datum, Table
from normhpc.report.finding import Found
from normhpc.report.study import Study
from normhpc.results.figures import counted
from normhpc.results.human import MISSING, format_interval
from normhpc.results.records import listed
from normhpc.results.statistics.intervals import mean_of

FOLDER = "posthoc"

QUANTITIES = {
    "misclassified": ("mistakes", "error"),
    "calibration": (
        "ece_equal_width",
        "ece_equal_width_floor",
        "ece_equal_width_floor_high",
        "nll",
        "brier",
        "temperature",
    ),
    "similarity": ("class_similarity", "centred_similarity_std", "nc1"),
    "saliency": (
        "srg_retention",
        "srg_retention_common",
        "srg_retention_random",
        "srg_retention_fresh",
        "sensitivity_max",
        "zero_maps",
    ),
    "hessian": (
        "eval.lambda_max",
        "eval.trace",
        "train.lambda_max",
        "train.trace",
        "eval.lambda_max_scale_free",
        "train.lambda_max_scale_free",
        "eval.checks_failed",
        "train.checks_failed",
    ),
    "loss_line": ("loss", "random_rise_at_0.1"),
}
"""Of each analysis the numbers that a report tells among explanations; the files of the runs have more."""


def findings(study: Study) -> tuple[list[Found], list[str]]:
    """Every result that can be read, in the order of runs and names, and notes on those that cannot."""
    found: list[Found] = []
    notes: list[str] = []
    for run, record in enumerate(study.records):
        folder = record.folder.path / FOLDER
        for file in sorted(folder.glob("*.json")):
            try:
                content: Any = json.loads(file.read_bytes())
                values = _numbers(content["values"])
                files = tuple(str(name) for name in content.get("files", ()))
                counts = content.get("n", {})
                images = counts.get("test_images", counts.get("train_images"))
                images = images if isinstance(images, int) else None
                found.append(Found(run, file.stem, str(content["method"]), values, content, folder, files, images))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                notes.append(f"{record.run_id}: {FOLDER}/{file.name} cannot be read; normhpc analyze writes it again")
    found, without = with_common(study, found)
    return found, [*notes, *_not_alike(study, found), *_failed_checks(study, found), *without]


def _failed_checks(study: Study, found: Sequence[Found]) -> Iterator[str]:
    """Which check of which analysis failed in which runs."""
    failing: dict[tuple[str, str], list[str]] = {}
    for one in found:
        run = f"{study.cell_name(int(study.cell_of[one.run]))}, seed {study.records[one.run].seed}"
        for name in _named_failures(one.document["values"]):
            failing.setdefault((one.what, name), []).append(run)
    for (what, name), runs in failing.items():
        count = sum(one.what == what for one in found)
        yield (
            f"{what}: the check {name} fails in {len(runs)} of {count} runs; what it compares is not to be believed there: "
            f"{listed(runs)}"
        )


def _named_failures(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """``eval traces``: the checks among ``values`` that do not hold, with what they are part of."""
    for name, value in values.items():
        if name == "checks" and isinstance(value, dict):
            yield from (f"{prefix}{check}" for check, holds in value.items() if not holds)
        elif isinstance(value, dict):
            yield from _named_failures(value, f"{prefix}{name} ")


def _not_alike(study: Study, found: list[Found]) -> Iterator[str]:
    """Analyses whose means are over results that were not made alike."""
    for what in dict.fromkeys(one.what for one in found):
        own = [one for one in found if one.what == what]
        if len({one.method for one in own}) > 1:
            yield (
                f"{what}: some results were made by an older version in another way, and means are over both; "
                f"{again(study, what)} makes them alike"
            )
        for block, name in enumerate(study.blocks):
            counts = {one.images for one in own if study.cell_block[study.cell_of[one.run]] == block and one.images}
            if len(counts) > 1:
                where = f"{what}, {name}" if len(study.blocks) > 1 else what
                yield (
                    f"{where}: over {' and '.join(map(str, sorted(counts)))} images, so methods are not compared on the same; "
                    f"{again(study, what)} with one --images makes them alike"
                )


def finding_tables(study: Study, found: Sequence[Found]) -> Iterator[tuple[str, Table]]:
    """For each analysis the method in words, and a row a cell."""
    for what in dict.fromkeys([*QUANTITIES, *sorted({one.what for one in found})]):
        of_it = [one for one in found if one.what == what]
        names = [name for name in QUANTITIES.get(what, ()) if any(name in one.values for one in of_it)]
        if names:
            yield of_it[0].method, _table(study, what, names, of_it)


def _table(study: Study, what: str, names: Sequence[str], found: Sequence[Found]) -> Table:
    several = len(study.blocks) > 1
    columns = [Column("method", "method", numeric=False)]
    columns += [Column("block", "block", numeric=False)] if several else []
    columns.append(Column("n", "n"))
    for name in names:
        columns += [Column(name, header_words(name)), Column(f"{name}_half", "±")]
    rows = []
    for cell in range(len(study.cells)):
        own = [one.values for one in found if study.cell_of[one.run] == cell]
        if not own:
            continue
        datums = [Datum(study.methods[study.cell_method[cell]])]
        datums += [Datum(study.blocks[study.cell_block[cell]])] if several else []
        datums.append(Datum(str(len(own)), float(len(own))))
        for name in names:
            datums += _mean_and_half([values[name] for values in own if name in values])
        rows.append(tuple(datums))
    caption = f"{what}: mean over seeds and half of its 95 % Student t interval; n runs were analysed"
    counts = [int(one.values["common_images"]) for one in found if "common_images" in one.values]
    if counts:
        caption += f"; common: over the images that all runs of a block are right about, {counted(counts)}"
    return Table(f"posthoc-{what}", caption, tuple(columns), tuple(rows))


def header_words(name: str) -> str:
    """``train.lambda_max`` as train lambda max; the point of ``rise_at_0.1`` stays."""
    return re.sub(r"\.(?=\D)", " ", name).replace("_", " ")


def _mean_and_half(values: list[float]) -> tuple[Datum, Datum]:
    if not values:
        return Datum(MISSING), Datum(MISSING)
    found = mean_of(np.array(values))
    half = math.nan if found.half is None else found.half
    text, width = format_interval("", found.mean, half)
    return Datum(text, found.mean), Datum(width, half) if width else Datum(MISSING)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Finite numbers by dotted name; of checks how many failed."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if name == "checks" and isinstance(value, dict):
            found[f"{prefix}checks_failed"] = float(sum(not holds for holds in value.values()))
        elif isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found
