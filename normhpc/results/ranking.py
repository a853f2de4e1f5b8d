"""Which method is best over many blocks: the table of runs, ranked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normhpc.errors import InputError, Problem, did_you_mean
from normhpc.results.names import better
from normhpc.results.records import listed
from normhpc.results.statistics.intervals import Estimate
from normhpc.results.statistics.paired import median_difference
from normhpc.results.statistics.ranks import (
    AgainstControl,
    Friedman,
    Pairwise,
    block_ranks,
    complete_blocks,
    friedman,
    nemenyi,
    wilcoxon_against,
    wilcoxon_holm,
)
from normhpc.results.summary import checked_metrics, field_columns


@dataclass(frozen=True, slots=True)
class RankedMethod:
    """One method: its average rank and mean over blocks, and how far it lies from the reference."""

    name: str
    rank: float
    mean: float
    difference: Estimate
    """Median over blocks of this method minus the reference, in the unit of the metric."""
    p: float | None
    """Against the control by Wilcoxon and Holm; None for the control, without one, and where the test was refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Methods over ``n`` complete blocks, best first; methods of ``nemenyi`` and ``wilcoxon`` are in this order too.

    ``str`` of it is a table with everything below. A test that was refused for too few blocks is None, and a note
    says how many it needs.
    """

    metric: str
    method: tuple[str, ...]
    blocks: tuple[str, ...]
    n: int
    methods: tuple[RankedMethod, ...]
    reference: str
    """The control, or the method of the best average rank when none was named."""
    friedman: Friedman
    nemenyi: Pairwise
    wilcoxon: Pairwise | None
    against_control: AgainstControl | None
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The methods, best first."""
        return tuple(method.name for method in self.methods)

    def clique_names(self, pairwise: Pairwise) -> tuple[tuple[str, ...], ...]:
        """The cliques of ``nemenyi`` or ``wilcoxon`` by name: methods between which no difference was found."""
        return tuple(tuple(self.names[member] for member in clique) for clique in pairwise.cliques)

    def __str__(self) -> str:
        test = self.friedman
        width = max(len(name) for name in ("method", *self.names))
        lines = [
            f"{self.metric}: {len(self.methods)} methods over {self.n} blocks of {', '.join(self.blocks)}",
            f"Friedman chi2 {test.chi_square:.2f} (p {test.p:.2g}), Iman-Davenport F {test.f:.2f} (p {test.f_p:.2g}); "
            f"Nemenyi critical difference {self.nemenyi.critical_difference:.2f} at {self.nemenyi.alpha:g}",
            f"{'method':<{width}}  rank   mean     median difference from {self.reference}",
        ]
        for row in self.methods:
            found = row.difference
            interval = "" if found.low is None or found.high is None else f" [{found.low:+.4g}, {found.high:+.4g}]"
            p = f", p {row.p:.2g}" if row.p is not None else ""
            apart = "reference" if row.name == self.reference else f"{found.value:+.4g}{interval}{p}"
            lines.append(f"{row.name:<{width}}  {row.rank:5.2f}  {row.mean:<7.4g}  {apart}")
        for pairwise in filter(None, (self.nemenyi, self.wilcoxon)):
            groups = ["{" + ", ".join(names) + "}" for names in self.clique_names(pairwise)]
            lines.append(f"no difference found within, {pairwise.method}: {' '.join(groups) or 'no group'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def rank_methods(
    runs: pd.DataFrame,
    metric: str,
    method: str | Sequence[str] = "norm.name",
    blocks: Sequence[str] | None = None,
    *,
    control: str | None = None,
    leave_out: Sequence[str] = (),
    higher_is_better: bool | None = None,
    score_of_diverged: float | None = None,
    alpha: float = 0.05,
) -> Ranking:
    """Rank the methods of ``runs``, a table of :func:`~normhpc.results.load_runs`, by ``metric`` over blocks.

    A method is a value of the field ``method``, or a combination of several, spelled ``norm.name=group norm.groups=4``.
    A block is a combination of the fields ``blocks``: by default of all that do not belong to the part of the
    configuration that ``method`` is of. A method's value in a block is the mean over its runs there. Only blocks
    with a value of every method count; the others are told in the notes, with the methods that cost them.

    ``control`` compares all with one method, which needs fewer blocks than all pairs. ``leave_out`` names methods to do
    without. ``score_of_diverged`` stands for the missing value of a diverged run, 0.1 say for chance on ten classes;
    by default such a run has none, and the block in which a method always diverges is lost for all.

    Raises :class:`InputError` for unknown fields, metrics and methods, and for fewer than two methods or blocks.
    """
    checked_metrics(runs, [metric])
    direction = better(metric) if higher_is_better is None else (1 if higher_is_better else -1)
    if direction == 0:
        raise InputError(f"metric: neither more nor less {metric} is better by itself; say which by higher_is_better")
    fields = (method,) if isinstance(method, str) else tuple(method)
    chosen = tuple(blocks) if blocks is not None else _other_parts(runs, fields)
    _check_fields(runs, fields, chosen)
    values = runs[metric].where(runs[metric].notna() | (runs["state"] != "diverged"), score_of_diverged)
    labels = _method_labels(runs, fields)
    known = list(dict.fromkeys(labels))
    for name in [*leave_out, *([] if control is None else [control])]:
        if name not in known:
            hint = did_you_mean(name, known) or "."
            raise InputError(f"no method of these runs is called {name!r}{hint} There are: {', '.join(known)}")
    if control is not None and control in leave_out:
        raise InputError(f"control: {control} is also in leave_out; name another one")
    kept = ~labels.isin(list(leave_out))
    places = pd.Series([" ".join(map(_spelled, row)) for row in runs[list(chosen)].itertuples(index=False)], runs.index)
    cells = pd.DataFrame({"value": values, "method": labels, "place": places})[kept]
    table = cells.groupby(["place", "method"], sort=False)["value"].mean().unstack()
    table = table[[name for name in known if name not in leave_out]]
    complete, notes = _complete(table)
    notes += _mean_notes(runs[kept & values.notna()], labels, places, fields, chosen)
    notes += _absence_notes(runs[kept], metric, score_of_diverged)
    return _ranking(complete, metric, fields, chosen, direction > 0, control, alpha, notes)


def _ranking(
    table: pd.DataFrame,
    metric: str,
    fields: tuple[str, ...],
    blocks: tuple[str, ...],
    higher_is_better: bool,
    control: str | None,
    alpha: float,
    notes: list[str],
) -> Ranking:
    ranks = block_ranks(table.to_numpy(np.float64), higher_is_better=higher_is_better)
    order = np.argsort(ranks.mean(axis=0), kind="stable")
    names = [str(table.columns[index]) for index in order]
    scores: NDArray[np.float64] = table.to_numpy(np.float64)[:, order]
    ranks = ranks[:, order]
    reference = names.index(control) if control is not None else 0
    wilcoxon, against = None, None
    try:
        wilcoxon = wilcoxon_holm(scores, alpha, higher_is_better=higher_is_better)
    except InputError as refusal:
        notes.append(str(refusal))
    if control is not None:
        try:
            against = wilcoxon_against(scores, reference, alpha)
        except InputError as refusal:
            notes.append(str(refusal))
    rows = tuple(
        RankedMethod(
            name=name,
            rank=float(ranks[:, index].mean()),
            mean=float(scores[:, index].mean()),
            difference=median_difference(scores[:, index], scores[:, reference]),
            p=float(against.p[index]) if against is not None and index != reference else None,
        )
        for index, name in enumerate(names)
    )
    return Ranking(
        metric=metric,
        method=fields,
        blocks=blocks,
        n=len(scores),
        methods=rows,
        reference=names[reference],
        friedman=friedman(ranks),
        nemenyi=nemenyi(ranks, alpha),
        wilcoxon=wilcoxon,
        against_control=against,
        notes=tuple(notes),
    )


def _other_parts(runs: pd.DataFrame, fields: Sequence[str]) -> tuple[str, ...]:
    parts = {field.partition(".")[0] for field in fields}
    return tuple(name for name in field_columns(runs) if name.partition(".")[0] not in parts)


def _check_fields(runs: pd.DataFrame, fields: Sequence[str], blocks: Sequence[str]) -> None:
    allowed = [*field_columns(runs), "sweep", "seed"]
    problems = [
        Problem(f"no field of these runs is called {name!r}{did_you_mean(name, allowed) or '.'}", path=path)
        for path, names in (("method", fields), ("blocks", blocks))
        for name in names
        if name not in allowed
    ]
    if not problems and not blocks:
        problems = [Problem("expected at least one field, got none; data.name and model.name are usual", path="blocks")]
    both = [name for name in fields if name in blocks]
    if both:
        problems.append(Problem(f"{', '.join(both)} is what tells methods apart, so it makes no blocks", path="blocks"))
    if problems:
        raise InputError(problems)


def _method_labels(runs: pd.DataFrame, fields: Sequence[str]) -> pd.Series:
    if len(fields) == 1:
        return runs[fields[0]].astype("str")
    texts = [[f"{name}={_spelled(value)}" if pd.notna(value) else "" for value in runs[name]] for name in fields]
    return pd.Series([" ".join(filter(None, parts)) for parts in zip(*texts, strict=True)], runs.index, dtype="str")


def _spelled(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _complete(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The blocks that have all methods, and the note on those that have not."""
    found = complete_blocks(table.to_numpy(np.float64))
    gaps = [f"{name} in {count}" for name, count in zip(table.columns, found.missing, strict=True) if count]
    if table.shape[1] < 2 or len(found.kept) < 2:
        lacking = f"; without a value: {listed(gaps)}; leave_out does without a method" if gaps else ""
        raise InputError(
            f"a ranking needs at least 2 methods and 2 blocks with a value of each, got {table.shape[1]} methods and "
            f"{len(found.kept)} such blocks of {len(table)}{lacking}"
        )
    notes = []
    if found.dropped:
        notes.append(
            f"{len(found.dropped)} of {len(table)} blocks dropped, they lack a method ({listed(gaps)}): "
            "the ranking says nothing about them"
        )
    return table.iloc[list(found.kept)], notes


def _mean_notes(
    runs: pd.DataFrame, labels: pd.Series, places: pd.Series, fields: Sequence[str], blocks: Sequence[str]
) -> list[str]:
    """What the value of a method in a block is a mean of, where that is not the same everywhere."""
    cells = runs.groupby([places[runs.index], labels[runs.index]])
    notes = []
    others = [name for name in field_columns(runs) if name not in (*fields, *blocks)]
    mixed = [name for name in others if (cells[name].nunique(dropna=False) > 1).any()]
    if mixed:
        notes.append(f"values are means over different {', '.join(mixed)}; as part of method or blocks it would show")
    counts = cells.size()
    if counts.nunique() > 1:
        notes.append(f"values are means of {counts.min()} to {counts.max()} runs, not equally sure")
    if "seed" in blocks:
        notes.append("every seed is a block of its own, so blocks are not independent: p values are too small")
    return notes


def _absence_notes(runs: pd.DataFrame, metric: str, score_of_diverged: float | None) -> list[str]:
    """Runs without a value by state: those that count with another number, and those that do not count."""
    counts = {str(state): int(count) for state, count in runs["state"][runs[metric].isna()].value_counts().items()}
    notes = []
    if score_of_diverged is not None and "diverged" in counts:
        notes.append(f"{counts.pop('diverged')} diverged runs count with {metric} {score_of_diverged:g}")
    if counts:
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        notes.append(f"{sum(counts.values())} of {len(runs)} runs have no {metric} ({states})")
    return notes
