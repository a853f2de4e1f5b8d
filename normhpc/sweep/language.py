"""The declared sweep: loaded from YAML, asked for its runs."""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path as FilePath
from typing import NamedTuple

from normhpc.config import RunConfig
from normhpc.errors import InputError, Problem
from normhpc.sweep.declaration import Declaration, read_declaration
from normhpc.sweep.expansion import Expansion
from normhpc.sweep.paths import Path, node_at
from normhpc.sweep.places import Mistakes, written
from normhpc.sweep.runs import Run
from normhpc.sweep.yaml12 import parse

_ALWAYS_SWEPT: tuple[Path, ...] = (("data", "name"), ("model", "name"), ("norm", "name"))


class AxisRow(NamedTuple):
    """One row of the table that shows what a sweep consists of: what varies, over how many values, which."""

    label: str
    size: int
    description: str


class Sweep:
    """A set of runs and the resources each gets, as a sweep file declares them. Made by :func:`load`."""

    def __init__(self, declaration: Declaration) -> None:
        self._declared = declaration
        self._count: int | None = None
        self._expansion = Expansion(declaration)
        self.name = declaration.name
        """Folder name of the sweep's records."""
        self.description = declaration.description
        """One line for people."""
        self.file = declaration.document.file
        """The sweep file."""
        only = declaration.only
        self.filtered = bool(only.conditions or only.seeds or only.run_ids)
        """Whether ``only`` left runs out, so that this is not the whole sweep."""
        self.swept_paths = tuple(".".join(path) for path in _swept(declaration))
        """Dotted paths of the fields that vary, without the seed; ``data.name``, ``model.name``, ``norm.name`` always."""

    def expand(self) -> Iterator[RunConfig]:
        """Every run's configuration, one after another. Raises :class:`InputError` where a run contradicts itself."""
        return (RunConfig.model_validate(run.values()) for run in self.runs())

    def runs(self) -> Iterator[Run]:
        """Every run, one after another, without building its :class:`~normhpc.config.RunConfig`.

        Raises :class:`InputError` where a run contradicts itself.
        """
        return self._expansion.runs(tuple(tuple(path.split(".")) for path in self.swept_paths))

    def count(self) -> int:
        """Number of runs: arithmetic where no run can be left out or merged, otherwise by expanding them all."""
        if self._count is None:
            if self._expansion.countable:
                seeds = self._declared.seeds
                self._count = self._expansion.combinations * (1 if seeds is None else len(seeds))
            else:
                self._count = sum(1 for _ in self.runs())
        return self._count

    def misfits(self) -> Iterator[Problem]:
        """What makes a run impossible to train with its network and images, each problem once."""
        return self._expansion.misfits()

    @property
    def merged(self) -> int | None:
        """Runs left out because they equal an earlier one; None before a whole pass over :meth:`runs`."""
        return self._expansion.merged

    @property
    def notes(self) -> list[str]:
        """What the user should know but is no mistake; complete after a whole pass over :meth:`runs`."""
        return [*self._declared.notes, *(self._expansion_notes() if self.merged is not None else ())]

    @property
    def axes(self) -> list[AxisRow]:
        """What the runs are made of: label, number of values, short description."""
        rows = [AxisRow(axis.label, len(axis.layers), axis.summary) for axis in self._declared.axes]
        if self._declared.ablations:
            rows.append(AxisRow("ablate", len(self._declared.ablations), "one at a time on top of base"))
        if self._declared.inclusions:
            rows.append(AxisRow("include", len(self._declared.inclusions), "extra runs on top of base"))
        if self._declared.seeds is not None:
            seeds = self._declared.seeds
            shown = ", ".join(map(str, seeds[:10])) + (", ..." if len(seeds) > 10 else "")
            rows.append(AxisRow("seeds", len(seeds), shown))
        return rows

    def _expansion_notes(self) -> Iterator[str]:
        expansion = self._expansion
        if expansion.merged:
            what = (
                "1 run equals an earlier one and was"
                if expansion.merged == 1
                else f"{expansion.merged} runs equal an earlier one and were"
            )
            yield f"{what} merged with it"
        for matcher in [rule.matches for rule in expansion.rules if rule.matches] + expansion.exclusions:
            if not matcher.matched:
                yield f"{written(matcher.condition.origin)} matches no run"
        for assignment in self._declared.base:
            if assignment.origin not in expansion.used:
                yield f"{written(assignment.origin)} is in no run; every run replaces it"


def load(path: str | PathLike[str], overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Sweep:
    """Read the sweep file at ``path``.

    ``overrides`` are ``KEY=VALUE`` texts, the value in YAML: each sets a path in every run, or the sweep's
    ``seeds`` or ``name``. ``only`` are ``KEY=VALUE`` texts that runs must match; the keys ``seed`` and ``run_id``
    (a prefix) work too, and ``KEY=a,b`` keeps both. Raises :class:`InputError` with all mistakes, each with its
    file, line and column.
    """
    file = str(path)
    try:
        text = FilePath(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(Problem(f"not UTF-8 text: {error.reason} at byte {error.start}", file=file)) from None
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", file=file)) from None
    document = parse(text, file)
    mistakes = Mistakes(document)
    sweep = Sweep(read_declaration(document, overrides, only, mistakes))
    sweep._expansion.check(mistakes)
    mistakes.raise_any()
    return sweep


def _swept(declared: Declaration) -> list[Path]:
    """Leaf paths that can differ between runs. One that an axis holds at a single value does not, as long as every run
    is a combination of the axes; with other runs beside, or rules, whatever they change or replace may differ."""
    singles = [
        (axis, assignment) for axis in declared.axes for column in axis.columns.values() for assignment in column
    ]
    others = [*declared.ablations, *declared.inclusions]
    others += [layer for rule in declared.rules if rule.condition for layer in rule.layer.values()]
    changed = [assignment for layer in others for assignment in layer]
    found = [assignment.path for axis, assignment in singles if others or len(axis.layers) > 1]
    found += [assignment.path for assignment in changed]
    if others:
        started = {one.path[:-1] for one in [*changed, *(single for _, single in singles)] if one.starts_part}
        found += [one.path for one in declared.base if any(one.path[: len(part)] == part for part in started)]
    return list(dict.fromkeys([*_ALWAYS_SWEPT, *filter(_is_result_field, found)]))


def _is_result_field(path: Path) -> bool:
    """Whether ``path`` can tell results apart: not the seed, nor what is outside the identity."""
    node = node_at(path)
    return path[0] not in ("seed", "resources") and node is not None and not node.outside_identity
