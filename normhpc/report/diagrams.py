"""Methods ranked over blocks: the critical-difference diagram, or why there is none."""

from collections.abc import Iterator

from normhpc.errors import InputError
from normhpc.report.elements import Column, Datum, Section, Table, bullets, escaped, paragraph
from normhpc.report.study import Study
from normhpc.report.svg import paint
from normhpc.results import rank_methods
from normhpc.results.human import MISSING, format_number
from normhpc.results.ranking import Ranking
from normhpc.results.statistics.ranks import Pairwise, blocks_needed

_WIDTH, _LEFT, _RIGHT, _TOP, _LINE = 900, 190, 710, 70, 18


def ranking_section(study: Study) -> Section:
    """The diagram and the table of ranks where there are two blocks or more, otherwise what is missing."""
    title = "Ranks over blocks"
    ranking = ranking_of(study)
    if isinstance(ranking, str):
        methods = len(study.methods)
        pairs = methods * (methods - 1) // 2
        floor = (
            f" All pairs of {methods} methods need {blocks_needed(pairs)} blocks by Wilcoxon and Holm, one control "
            f"against all others {blocks_needed(methods - 1)}: with fewer no p value can be small enough."
            if pairs
            else ""
        )
        text = f"No critical-difference diagram: {ranking}.{floor} Seeds are no blocks."
        return Section("ranks", title, (paragraph(text),))
    test = ranking.friedman
    told = (
        f"{len(ranking.methods)} methods over {ranking.n} blocks of {', '.join(ranking.blocks)}: Friedman chi-square "
        f"{test.chi_square:.2f} (p {test.p:.2g}), Iman-Davenport F {test.f:.2f} (p {test.f_p:.2g}), Nemenyi critical "
        f"difference {ranking.nemenyi.critical_difference:.2f} at {ranking.nemenyi.alpha:g}."
    )
    caption = (
        "Average ranks, 1 is best. A bar joins methods between which no difference was found: solid by Nemenyi"
        + (", dashed by Wilcoxon and Holm." if ranking.wilcoxon else ".")
    )
    drawing = f"<figure>{_diagram(study, ranking)}<figcaption>{escaped(caption)}</figcaption></figure>"
    return Section("ranks", title, (paragraph(told), drawing, _table(study, ranking), bullets(ranking.notes, "notes")))


def ranking_of(study: Study) -> Ranking | str:
    """The ranking by the study's metric, or what keeps there from being one."""
    if len(study.blocks) < 2 or len(study.methods) < 2:
        return (
            "a ranking needs at least 2 methods and 2 blocks, these runs have "
            f"{len(study.methods)} and {len(study.blocks)}"
        )
    fields = study.method_fields
    blocks = [name for name in study.fields if name not in fields]
    try:
        return rank_methods(study.runs, study.metric, fields[0] if len(fields) == 1 else fields, blocks)
    except InputError as error:
        return str(error)


def _short(ranking: Ranking, name: str) -> str:
    """The name of a method as the rest of the page has it: ``group groups=4`` for ``norm.name=group norm.groups=4``."""
    first, *more = ranking.method
    if not more and not first.endswith(".name"):
        return f"{first.removeprefix('norm.')}={name}"
    return " ".join(word.removeprefix("norm.name=").removeprefix("norm.") for word in name.split(" "))


def _series(study: Study, name: str) -> int:
    return study.methods.index(name) if name in study.methods else 0


def _diagram(study: Study, ranking: Ranking) -> str:
    methods = len(ranking.methods)
    span = _RIGHT - _LEFT

    def place(rank: float) -> float:
        return _LEFT + (rank - 1) / max(1, methods - 1) * span

    bars = list(_bars(ranking))
    under = _TOP + 8 * len(bars) + 14
    height = under + _LINE * ((methods + 1) // 2) + 12
    marks = [f'<path class="axisline" d="M{_LEFT} {_TOP}H{_RIGHT}"/>']
    step = max(1, methods // 12)
    for rank in range(1, methods + 1, step):
        marks.append(f'<path class="axisline" d="M{place(rank):.1f} {_TOP - 5}V{_TOP}"/>')
        marks.append(f'<text class="tick" x="{place(rank):.1f}" y="{_TOP - 9}" text-anchor="middle">{rank}</text>')
    widest = ranking.nemenyi.critical_difference or 0.0
    end = min(place(1 + widest), float(_WIDTH - 20))
    marks.append(f'<path class="axisline" d="M{_LEFT} 18V28M{_LEFT} 23H{end:.1f}M{end:.1f} 18V28"/>')
    marks.append(f'<text class="tick" x="{_LEFT}" y="13">critical difference {widest:.2f}</text>')
    for number, (pairwise, first, last, kind) in enumerate(bars):
        del pairwise
        down = _TOP + 8 + 8 * number
        ends = (ranking.methods[first].rank, ranking.methods[last].rank)
        marks.append(f'<path class="clique {kind}" d="M{place(ends[0]) - 4:.1f} {down}H{place(ends[1]) + 4:.1f}"/>')
    half = (methods + 1) // 2
    for index, method in enumerate(ranking.methods):
        left = index < half
        down = under + _LINE * (index if left else methods - 1 - index)
        name = _short(ranking, method.name)
        series, x = _series(study, name), place(method.rank)
        edge, anchor = (_LEFT - 8, "end") if left else (_RIGHT + 8, "start")
        marks.append(f'<path class="stem {paint(series)}" data-s="{series}" d="M{x:.1f} {_TOP}V{down}H{edge}"/>')
        words = escaped(f"{name} {method.rank:.2f}")
        at = edge - 4 if left else edge + 4
        marks.append(
            f'<text class="name" data-s="{series}" x="{at}" y="{down + 4}" text-anchor="{anchor}">{words}</text>'
        )
    label = escaped(
        "Critical-difference diagram: " + ", ".join(f"{_short(ranking, m.name)} {m.rank:.2f}" for m in ranking.methods)
    )
    return f'<svg class="wide" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(marks)}</svg>'


def _bars(ranking: Ranking) -> Iterator[tuple[Pairwise, int, int, str]]:
    """First and last member of each clique, by test."""
    for pairwise, kind in ((ranking.nemenyi, "nemenyi"), (ranking.wilcoxon, "wilcoxon")):
        if pairwise is not None:
            for clique in pairwise.cliques:
                yield pairwise, min(clique), max(clique), kind


def _table(study: Study, ranking: Ranking) -> Table:
    reference = _short(ranking, ranking.reference)
    columns = (
        Column("method", "method", numeric=False),
        Column("rank", "average rank"),
        Column("mean", f"mean {ranking.metric}"),
        Column("difference", f"median difference from {reference}"),
        Column("low", "low"),
        Column("high", "high"),
        Column("blocks", "blocks"),
    )
    rows = []
    for method in ranking.methods:
        found = method.difference
        ends = [Datum(MISSING) if end is None else Datum(f"{end:+.4g}", end) for end in (found.low, found.high)]
        rows.append(
            (
                Datum(_short(ranking, method.name)),
                Datum(f"{method.rank:.2f}", method.rank),
                Datum(format_number(study.metric, method.mean), method.mean),
                Datum(f"{found.value:+.4g}", found.value),
                *ends,
                Datum(str(found.n), float(found.n)),
            )
        )
    caption = (
        f"Methods by average rank; median over blocks of each method minus {reference}, 95 % interval of the sign test"
    )
    return Table("ranks", caption, columns, tuple(rows))
