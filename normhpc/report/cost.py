"""What accuracy costs: each method's quality against its seconds and memory, and which methods nobody beats in both."""

from collections.abc import Sequence

from normhpc.report.elements import Column, Datum, Section, Table, figure, paragraph
from normhpc.report.study import Study
from normhpc.report.svg import Plot, axis_over, legend
from normhpc.report.tables import mean_and_half, title_of
from normhpc.results.names import better

MOST_BLOCKS = 8
AXES = ("seconds_per_epoch", "peak_memory_mb")
_WORDED = 12
"""Points of a drawing that still have room for their names."""


def cost_section(study: Study) -> Section:
    """Drawings of the blocks with two methods or more, and the table they are made of."""
    drawings: list[str] = []
    for block in range(len(study.blocks)):
        plots = [plot for cost in AXES if (plot := _plot(study, block, cost))]
        if plots and len(drawings) < MOST_BLOCKS:
            drawings.append(figure(plots, study.blocks[block] if len(study.blocks) > 1 else ""))
    title = "Cost against accuracy"
    if not drawings:
        return Section("cost", title, (paragraph("No block has a result of two methods: no cost to weigh."),))
    if len(study.blocks) > len(drawings):
        drawings.append(paragraph(f"Drawn are {len(drawings)} of {len(study.blocks)} blocks; the table has all."))
    return Section("cost", title, (legend(study.methods), paragraph(_CAPTION), *drawings, _table(study)))


_CAPTION = (
    "Means over seeds, vertical lines 95 % Student t intervals; the stepped line joins the methods that no other beats "
    "in both (Pareto front, by means alone). Times of different machines do not compare."
)


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """The numbers of the points that no other is at least as good as in both and better in one, by ascending cost.

    Less of ``costs`` and more of ``scores`` is better; NaN is on no front.
    """
    points = [index for index in range(len(costs)) if costs[index] == costs[index] and scores[index] == scores[index]]
    front: list[int] = []
    for index in sorted(points, key=lambda one: (costs[one], -scores[one])):
        equal = front and (costs[index], scores[index]) == (costs[front[-1]], scores[front[-1]])
        if not front or scores[index] > scores[front[-1]] or equal:
            front.append(index)
    return front


def _front_of(study: Study, block: int, cost: str) -> list[int]:
    members = study.cells_in(block)
    costs = [-better(cost) * float(study.rows[cell][f"{cost}_mean"]) for cell in members]
    scores = [study.direction * float(study.rows[cell][f"{study.metric}_mean"]) for cell in members]
    return [members[index] for index in pareto_front(costs, scores)]


def _plot(study: Study, block: int, cost: str) -> str | None:
    rows, metric = study.rows, study.metric
    members = [
        cell
        for cell in study.cells_in(block)
        if rows[cell][f"{cost}_mean"] == rows[cell][f"{cost}_mean"]
        and rows[cell][f"{metric}_mean"] == rows[cell][f"{metric}_mean"]
    ]
    if len(members) < 2:
        return None
    xs = [float(rows[cell][f"{cost}_mean"]) for cell in members]
    heights = [float(rows[cell][f"{metric}_{name}"]) for cell in members for name in ("mean", "low", "high")]
    x = axis_over(title_of(cost), xs, log=min(xs) > 0 and max(xs) > 10 * min(xs))
    plot = Plot(f"{metric} and {cost}", x, axis_over(metric, heights), says=f"{len(members)} methods.")
    front = _front_of(study, block, cost)
    plot.line(0, [rows[cell][f"{cost}_mean"] for cell in front], [rows[cell][f"{metric}_mean"] for cell in front],
              kind="front", steps=True)  # fmt: skip
    for cell in members:
        series, at = study.cell_method[cell], float(rows[cell][f"{cost}_mean"])
        mean = float(rows[cell][f"{metric}_mean"])
        plot.whisker(series, at, float(rows[cell][f"{metric}_low"]), float(rows[cell][f"{metric}_high"]))
        plot.dot(series, at, mean, f"{study.cell_name(cell)}: {metric} {mean:.4g}, {title_of(cost)} {at:.4g}")
        if len(members) <= _WORDED or cell in front:
            plot.word(series, at, mean, study.methods[series])
    return plot.svg()


def _table(study: Study) -> Table:
    metric = study.metric
    columns = [Column("method", "method", numeric=False)]
    if len(study.blocks) > 1:
        columns.append(Column("block", "block", numeric=False))
    columns += [Column("n", "n"), Column(metric, metric), Column(f"{metric}_half", "±")]
    for cost in AXES:
        columns += [Column(cost, title_of(cost)), Column(f"{cost}_half", "±")]
        columns.append(Column(f"{cost}_front", "on the front", numeric=False))
    rows = []
    for block in range(len(study.blocks)):
        fronts = {cost: _front_of(study, block, cost) for cost in AXES}
        for cell in study.cells_in(block):
            row = study.rows[cell]
            datums = [Datum(study.methods[study.cell_method[cell]])]
            datums += [Datum(study.blocks[block])] if len(study.blocks) > 1 else []
            datums += [
                Datum(str(row["n"]), float(row["n"])),
                *mean_and_half(metric, row[f"{metric}_mean"], row[f"{metric}_half"]),
            ]
            for cost in AXES:
                datums += mean_and_half(cost, row[f"{cost}_mean"], row[f"{cost}_half"])
                datums.append(Datum("yes" if cell in fronts[cost] else "no"))
            rows.append(tuple(datums))
    return Table(
        "cost", "Cost and accuracy of each method; yes: on the Pareto front of its block", tuple(columns), tuple(rows)
    )
