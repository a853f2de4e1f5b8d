"""What a study found, in sentences with numbers."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from normhpc.report.comparison import Comparison
from normhpc.report.elements import Section, bullets, paragraph
from normhpc.report.study import Study
from normhpc.results.human import format_interval, format_number
from normhpc.results.names import quality_of
from normhpc.results.records import listed

_MOST_BLOCKS = 8


def summary_section(study: Study, comparisons: Sequence[Comparison]) -> Section:
    """What there is, what is best and how sure that is, what failed, what must not be compared."""
    parts = [paragraph(text) for text in [*_what_there_is(study), *_findings(study, comparisons), *_ends(study)]]
    notes = study.cells.attrs["notes"]
    if notes:
        parts += ["<h3>Before comparing anything</h3>", bullets(notes, "notes")]
    return Section("summary", "Summary", tuple(parts))


def _what_there_is(study: Study) -> Iterator[str]:
    runs = study.runs
    seeds = np.unique(runs["seed"])
    told = f"seeds {', '.join(map(str, seeds))}" if len(seeds) <= 10 else f"{len(seeds)} seeds"
    told = f"seed {seeds[0]} alone" if len(seeds) == 1 else told
    yield (
        f"{_count(len(runs), 'run')} in {_count(len(study.cells), 'cell')} "
        f"({_count(len(study.methods), 'method')}, {_count(len(study.blocks), 'block')}), {told}, of "
        f"{'the sweep' if runs['sweep'].nunique() == 1 else 'the sweeps'} {', '.join(runs['sweep'].unique())}. "
        f"A cell is one configuration with its seeds; a method is told by {', '.join(study.method_fields)}, a block by all else."
    )
    if len(seeds) == 1:
        yield "One seed shows no spread: there are no intervals, and no difference here can be judged."
    valued = runs[study.metric].notna()
    if not valued.any():
        yield f"No run has a result: nothing can be said about {study.metric}."
        return
    without = [
        name
        for name in runs.columns[runs.columns.get_loc("state") :]
        if str(name) != study.metric
        and quality_of(str(name)) in ("top1", "map_macro")
        and str(name).startswith("test_")
        and (runs[name].notna() & ~valued).any()
    ]
    if without:
        count = int((runs[without].notna().any(axis="columns") & ~valued).sum())
        yield (
            f"This report is about {study.metric}, which {int(valued.sum())} runs have; {count} with a result have "
            f"{', '.join(map(str, without))} instead and are not compared: give --metric."
        )


def _findings(study: Study, comparisons: Sequence[Comparison]) -> Iterator[str]:
    alone = [one for one in comparisons if len(study.cells_in(one.block)) == 1] if len(study.blocks) > 1 else []
    compared = [one for one in comparisons if one not in alone]
    for comparison in compared[:_MOST_BLOCKS]:
        yield _about_block(study, comparison)
    if len(compared) > _MOST_BLOCKS:
        yield f"{len(compared) - _MOST_BLOCKS} more blocks are in the table of results."
    if alone:
        yield f"{_count(len(alone), 'block')} with one method alone, which there is nothing to compare with."


def _about_block(study: Study, comparison: Comparison) -> str:
    row = study.rows[comparison.best]
    metric = study.metric
    mean, low, high = (float(row[f"{metric}_{name}"]) for name in ("mean", "low", "high"))
    text, _ = format_interval(metric, mean, float(row[f"{metric}_half"]))
    where = f"On {study.blocks[comparison.block]}: " if len(study.blocks) > 1 else ""
    interval = "" if high != high else f" [{_like(text, low)}, {_like(text, high)}]"
    name = _names(study, [comparison.best])
    if not (comparison.tied or comparison.worse or comparison.unjudged):
        return f"{where}{name} has {metric} {text}{interval} (n = {row['n']}); nothing there is to compare it with."
    lead = f"{where}{'b' if where else 'B'}est {metric}: {name}, {text}{interval} (n = {row['n']})."
    words = [lead]
    if comparison.tied:
        words.append(f"Not distinguishable from it: {_names(study, comparison.tied)}.")
    elif comparison.worse:
        words.append("All others that can be judged differ from it." if comparison.unjudged else "All others differ.")
    if comparison.worse and comparison.tied:
        words.append(f"Distinguishable: {_names(study, comparison.worse)}.")
    if comparison.unjudged:
        words.append(f"Not judged, for want of two seeds in common: {_names(study, comparison.unjudged)}.")
    power = comparison.power
    if power is not None and len(study.blocks) > 1:
        many = format_number(metric, power.all_with_best)
        words.append(
            f"Differences from {many} on can be seen ({_count(power.comparisons, 'comparison')}, n = {power.seeds}, standard "
            f"deviation {power.std:.2g}, power 0.8)."
        )
    elif power is not None:
        one, many = format_number(metric, power.one), format_number(metric, power.all_with_best)
        words.append(
            f"The smallest difference this study can see there is {many} with {_count(power.comparisons, 'comparison')}, "
            f"{one} for a single one decided on beforehand (n = {power.seeds}, pooled standard deviation "
            f"{power.std:.2g} over {_count(power.cells, 'cell')}, power 0.8); half of the former needs "
            f"{power.seeds_for_half} seeds."
        )
    return " ".join(words)


def _ends(study: Study) -> Iterator[str]:
    states = study.runs["state"].value_counts()
    counts = {str(state): int(count) for state, count in sorted(states.items())}
    bad = {state: counts.pop(state) for state in ("failed", "diverged") if state in counts}
    finished = counts.pop("finished", 0)
    waiting = f"; not ended: {', '.join(f'{count} {state}' for state, count in counts.items())}" if counts else ""
    told = ", ".join(f"{count} {state}" for state, count in bad.items()) or "none failed or diverged"
    yield f"{finished} of {len(study.runs)} runs finished, {told}{waiting}."


def _names(study: Study, cells: Iterable[int]) -> str:
    return listed((f"“{study.methods[study.cell_method[cell]]}”" for cell in cells), limit=12)


def _like(text: str, value: float) -> str:
    """``value`` with as many digits after the point as ``text``."""
    return f"{value:.{len(text.partition('.')[2])}f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
