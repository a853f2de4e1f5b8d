"""A second count of the table of corruption robustness: the files of the run folders and plain arithmetic.

Of the first code nothing is used but which run is in which cell and block.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from normhpc.report.recount import Recount, statistics
from normhpc.report.study import Study


def recounted_robustness(study: Study) -> Iterator[Recount]:
    """Accuracies, mCE and relative mCE of each row, and what they are over."""
    row = 0
    for block in range(len(study.blocks)):
        cells = study.cells_in(block)
        own = {cell: _by_seed(study, cell) for cell in cells}
        controls = next((own[cell] for cell in cells if study.methods[study.cell_method[cell]] == "batch"), {})
        for cell in cells:
            for test_batch in (False, True):
                parts = {
                    seed: each["test_batch_statistics"] if test_batch else each for seed, each in own[cell].items()
                }
                parts = {seed: part for seed, part in parts.items() if part is not None}
                if not parts:
                    continue
                for key, value in _cells(parts, sorted(own[cell].keys() & controls.keys()), controls):
                    yield "corruption", row, key, value
                row += 1


def _cells(
    parts: dict[int, dict[str, Any]], seeds: Sequence[int], controls: dict[int, dict[str, Any]]
) -> Iterator[tuple[str, float | None]]:
    """A row of one predictor, ``parts`` by seed, against ``controls`` at the ``seeds`` that both have."""
    yield "n", float(len(parts))
    told = {
        "clean": [1 - part["clean_error"] for part in parts.values()],
        "corrupted": [1 - _mean([_mean(errors) for errors in _errors(part)]) for part in parts.values()],
    }
    comparable = bool(seeds) and all(seed in parts for seed in seeds)
    if comparable and len({tuple(of[seed]["in_mean"]) for of in (parts, controls) for seed in seeds}) == 1:
        references = [controls[seed] for seed in seeds]
        for key, less in (("mce", False), ("relative_mce", True)):
            told[key] = [_mce(parts[seed], references, less) for seed in seeds]
        yield "seeds", float(len(seeds))
    for key, values in told.items():
        mean, _, half = statistics(values if all(map(math.isfinite, values)) else [])
        yield key, mean
        yield f"{key}_half", half


def _mce(part: dict[str, Any], references: Sequence[dict[str, Any]], less_clean: bool) -> float:
    """Mean over corruptions of the ratio of sums over severities; NaN where the references make no error."""
    ratios = []
    for place, errors in enumerate(_errors(part)):
        own = math.fsum(error - less_clean * part["clean_error"] for error in errors)
        below = _mean(
            [math.fsum(error - less_clean * one["clean_error"] for error in _errors(one)[place]) for one in references]
        )
        ratios.append(own / below if below > 0 else math.nan)
    return _mean(ratios)


def _errors(part: dict[str, Any]) -> list[list[float]]:
    """The errors at five severities of each corruption that counts."""
    return [part["error_by_severity"][name] for name in part["in_mean"]]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _by_seed(study: Study, cell: int) -> dict[int, dict[str, Any]]:
    found = {}
    for run in study.runs_of(cell):
        file = Path(study.records[run].folder.path) / "posthoc" / "corruption.json"
        try:
            content = json.loads(file.read_bytes())
            values = content["values"]
            if "method" not in content or not _is_a(dict, content, "n") or not _is_a(list, content, "files"):
                continue
            for part in (values, values["test_batch_statistics"]):
                if part is not None:
                    _cells_can_be_made(part)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # told in the page, and in no row
        found[study.records[run].seed] = values
    return found


def _is_a(kind: type, content: dict[str, Any], key: str) -> bool:
    return isinstance(content.get(key, kind()), kind)


def _cells_can_be_made(part: dict[str, Any]) -> None:
    """Raise what reading a damaged file raises."""
    every = _errors(part)
    numbers = [part["clean_error"], part["mean_corruption_error"], *(one for errors in every for one in errors)]
    if not all(0 <= number <= 1 for number in numbers) or not every or any(len(errors) != 5 for errors in every):
        raise ValueError
