"""What the scripts in ``analysis/`` share: their command line, the runs they compare, their look, their files.

Matplotlib is the optional extra ``figures`` and is loaded when a page is made, never before.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from normhpc.config import RunConfig
from normhpc.errors import InputError, Problem, did_you_mean
from normhpc.files import replace_file
from normhpc.results.names import default_metrics, is_share, limits_of, quality_of, split_of
from normhpc.results.runs import load_runs
from normhpc.results.summary import STATISTICS, checked_metrics, field_columns, summarize
from normhpc.results.together import going_along

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind readers tell apart; without the yellow, too pale for a line on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")

FONT_POINTS = 9
"""The smallest text of a figure."""

MOST_PANELS = 12

T_INTERVAL = "mean and 95 % Student t interval over seeds"
"""How captions name the interval of :func:`normhpc.results.summarize`."""

_STYLE: dict[Any, Any] = {
    "font.size": FONT_POINTS,
    "axes.titlesize": FONT_POINTS + 1,
    "axes.labelsize": FONT_POINTS,
    "legend.fontsize": FONT_POINTS,
    "xtick.labelsize": FONT_POINTS,
    "ytick.labelsize": FONT_POINTS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    # text that stays text in the PDF
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
}

_PLACE = ("data.name", "model.name")
"""What panels always differ in."""

_UNITS = {
    "loss": "nats",
    "seconds": "s",
    "seconds_per_epoch": "s",
    "images_per_second": "1/s",
    "peak_memory_mb": "MB",
    "parameters": "count",
}


class Look(NamedTuple):
    """What tells a series apart: never the colour alone."""

    colour: str
    marker: str
    line: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, and in ``table`` every number that is drawn in it."""

    figure: "Figure"
    table: pd.DataFrame


class Panel(NamedTuple):
    """The runs that may stand on one pair of axes."""

    title: str
    fields: Mapping[str, Any]
    """Where these runs differ from those of other panels."""
    runs: pd.DataFrame


def run(
    name: str,
    description: str,
    draw: Callable[[argparse.Namespace], Drawing],
    arguments: Sequence[str] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """The command line of a script: draw, and write ``name`` as PDF, PNG and CSV into ``--out``.

    ``draw`` gets ``dirs``, ``metric`` and ``only`` beside ``options``, whose values are those of ``add_argument``. Exits
    with 2 and a message when it raises :class:`~normhpc.errors.InputError`, or without matplotlib.
    """
    parser = argparse.ArgumentParser(
        prog=f"{name}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dirs", nargs="*", default=["runs"], metavar="RUNS_DIR", help="folders of sweeps, sweeps or runs (runs)"
    )
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR", help="where to write (figures)")
    parser.add_argument("--metric", metavar="M", help="what is shown in place of the usual")
    parser.add_argument(
        "--only", action="append", default=[], metavar="FIELD=VALUE", help="leave out runs with another value"
    )
    for option, settings in (options or {}).items():
        parser.add_argument(option, **settings)
    given = parser.parse_args(arguments)
    try:
        with styled():
            files = save(draw(given), given.out, name)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(*files, sep="\n")


def styled() -> Any:
    """A context in which figures have the fonts and lines of this project.

    Raises :class:`~normhpc.errors.InputError` when matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError('figures need matplotlib, which is not installed: pip install "normhpc[figures]"') from None
    return matplotlib.rc_context(_STYLE)


def save(drawing: Drawing, out: Path, name: str) -> list[Path]:
    """Write ``name.pdf``, ``name.png`` and ``name.csv`` into the folder ``out``; equal drawings give equal bytes.

    Raises :class:`~normhpc.errors.InputError` for a place that cannot be written.
    """
    # without date and version of the program that made it
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "png": {"Software": None},
    }
    files = {kind: out / f"{name}.{kind}" for kind in ("pdf", "png", "csv")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for kind, about in metadata.items():
            replace_file(
                files[kind],
                lambda file, kind=kind, about=about: drawing.figure.savefig(file, format=kind, metadata=about),  # type: ignore[misc]
            )
        table = drawing.table.to_csv(index=False, lineterminator="\n")
        replace_file(files["csv"], lambda file: file.write(table.encode()))
    except OSError as error:
        text = f"cannot be written: {error.strerror}; choose another place"
        raise InputError(Problem(text, path="--out", file=str(out))) from None
    return list(files.values())


def compared_runs(given: argparse.Namespace) -> pd.DataFrame:
    """The runs that a script was given, with a column ``norm``: the norm and those of its fields that are not usual.

    Notes on what is damaged go to stderr. Raises :class:`~normhpc.errors.InputError` for folders without runs, and an
    ``--only`` that names no field or leaves no run.
    """
    runs = load_runs(*given.dirs)
    for note in runs.attrs["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for condition in given.only:
        field, _, value = condition.partition("=")
        allowed = [*field_columns(runs), "sweep", "seed"]
        if field not in allowed:
            hint = did_you_mean(field, allowed) or ","
            text = f"no field of these runs is called {field!r}{hint} there are {', '.join(allowed)}"
            raise InputError(Problem(text, path="--only"))
        there = runs[field].astype("str")
        if value not in set(there):
            text = f"no run has {field}={value}, there are {', '.join(sorted(set(there)))}"
            raise InputError(Problem(text, path="--only"))
        runs = runs[there == value]
    return runs.assign(norm=norm_labels(runs))


def norm_labels(runs: pd.DataFrame) -> pd.Series:
    """``group groups=8``: name of each run's norm, and its swept fields that are not at their default."""
    fields = [name for name in field_columns(runs) if name.startswith("norm.") and name != "norm.name"]
    usual = {name: _defaults(name) for name in runs["norm.name"].unique()}
    labels = []
    for row in runs[["norm.name", *fields]].to_dict("records"):
        name = row["norm.name"]
        parts = [
            f"{field.removeprefix('norm.')}={_spelled(row[field])}"
            for field in fields
            if pd.notna(row[field]) and row[field] != usual[name].get(field.removeprefix("norm."))
        ]
        labels.append(" ".join([name, *parts]))
    return pd.Series(labels, runs.index, dtype="str")


def _defaults(norm: str) -> dict[str, Any]:
    try:
        return RunConfig.model_validate({"norm": norm}).norm.model_dump()
    except ValueError:  # has fields without a default, or is no norm of this version
        return {}


def _spelled(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def metric_of(runs: pd.DataFrame, given: argparse.Namespace) -> str:
    """The metric asked for, else the first of the usual ones that any run has.

    Raises :class:`~normhpc.errors.InputError` for one that these runs do not have, or that none has a value of.
    """
    measured = [name for name in default_metrics(runs.columns) if runs[name].notna().any()]
    metric = checked_metrics(runs, [given.metric])[0] if given.metric else next(iter(measured), "test_top1")
    if metric not in measured and runs[metric].isna().all():
        states = ", ".join(f"{count} {state}" for state, count in sorted(runs["state"].value_counts().items()))
        places = " ".join(map(str, given.dirs))
        raise InputError(
            f"none of the {len(runs)} runs in {places} has {metric} ({states}); normhpc status {places} says how far "
            "they are, normhpc sweep SWEEP.yaml --local trains"
        )
    return metric


def panels(runs: pd.DataFrame, *keys: str) -> list[Panel]:
    """``runs`` apart by data, network and every field that varies among runs on these with equal ``keys``.

    So no point of a figure is a mean over different configurations. Of three or more fields that change together (name,
    sides and splits of a set of images) titles tell one; tables have all. Raises :class:`~normhpc.errors.InputError` for
    more than :data:`MOST_PANELS`.
    """
    parts = {key.partition(".")[0] for key in keys}
    others = [name for name in field_columns(runs) if name.partition(".")[0] not in parts]
    cells = runs.groupby([*keys, *_PLACE], dropna=False)
    varied = [name for name in others if name not in _PLACE and cells[name].nunique(dropna=False).max() > 1]
    apart = [*_PLACE, *varied]
    along = going_along(runs, varied)
    told = [name for name in varied if not any(name in others for others in along.values())]
    found = []
    for values, chosen in runs.groupby(apart, sort=False, dropna=False):
        fields: dict[str, Any] = dict(zip(apart, values, strict=True))
        settings = [_setting(name, fields[name]) for name in told if pd.notna(fields[name])]
        found.append(Panel(", ".join([*(str(fields[name]) for name in _PLACE), *settings]), fields, chosen))
    if len(found) > MOST_PANELS:
        several = next(name for name in apart if runs[name].nunique() > 1)
        raise InputError(
            f"{len(found)} panels of different {', '.join(apart)}, at most {MOST_PANELS} fit on a page; choose with "
            f"--only FIELD=VALUE, for instance --only {several}={_spelled(found[0].fields[several])}"
        )
    return found


def by_company(drawn: Iterable[Panel]) -> list[Panel]:
    """Panels of costs, apart by how many runs were trained in one process, whose time and memory each of them has.

    A run that is not sealed counts as one alone.
    """
    found = []
    for panel in drawn:
        together = panel.runs["trained_together"].fillna("1")
        if together.nunique() < 2:
            found.append(panel)
            continue
        for number, runs in panel.runs.groupby(together, sort=False):
            company = "alone" if number == "1" else f"{number} in one process"
            found.append(panel._replace(title=f"{panel.title}, {company}", runs=runs))
    return found


def _setting(name: str, value: Any) -> str:
    """``epochs=3``; names of sets of images bare."""
    return str(value) if name.endswith(".dataset") else f"{name}={_spelled(value)}"


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour, marker and line of each name, no two alike among 70."""
    series = list(dict.fromkeys(names))
    cycles = (islice(cycle(choices), len(series)) for choices in (COLOURS, MARKERS, LINES))
    return {name: Look(*look) for name, look in zip(series, zip(*cycles, strict=True), strict=True)}


def axis_label(metric: str) -> str:
    """``test top1 (fraction)``: a metric with its unit."""
    quality = quality_of(metric)
    unit = "fraction" if is_share(metric) else _UNITS.get(quality)
    words = f"{split_of(metric)} {quality}" if quality != metric else metric
    return words.replace("_", " ") + (f" ({unit})" if unit else "")


def absences(runs: pd.DataFrame, metric: str) -> str:
    """How many of ``runs`` are not in a figure of ``metric``, and why; nothing when all are."""
    states = runs["state"][runs[metric].isna()].value_counts()
    if states.empty:
        return ""
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f" {states.sum()} of {len(runs)} runs have no {metric}: {told}."


def counted(counts: Iterable[int]) -> str:
    """``n = 3``, or ``n = 2 to 3``."""
    there = sorted({int(count) for count in counts if count})
    return "n = 0" if not there else f"n = {there[0]}" + (f" to {there[-1]}" if len(there) > 1 else "")


def page(
    rows: int, columns: int, width: float, height: float, caption: str, *, beside: float = 0.0, **shared: Any
) -> tuple["Figure", list[list["Axes"]]]:
    """A figure of ``rows`` x ``columns`` axes, each about ``width`` x ``height`` inches, over its ``caption``.

    ``beside`` are inches to the right for a legend.
    """
    from matplotlib.figure import Figure

    wide = max(width * columns, 5.0) + beside
    lines = textwrap.wrap(caption, int(wide * 13))
    figure = Figure((wide, height * rows + 0.16 * len(lines) + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=FONT_POINTS, color="#333333")
    return figure, axes.tolist()


def paged(
    found: Sequence[Panel], width: float, height: float, caption: str, *, beside: float = 0.0
) -> tuple["Figure", Iterator["Axes"]]:
    """A figure with titled axes for each panel, at most three in a row; what is left over is empty."""
    columns = min(3, len(found))
    titles = [textwrap.wrap(panel.title, int(width * 7)) for panel in found]
    # a title of many lines must not take the place of what is drawn
    height += 0.18 * max(0, max(map(len, titles)) - 2)
    figure, axes = page(-(-len(found) // columns), columns, width, height, caption, beside=beside)
    flat = [axis for row in axes for axis in row]
    for axis in flat[len(found) :]:
        axis.set_axis_off()
    for axis, title in zip(flat, titles, strict=False):
        axis.set_title("\n".join(title), loc="left")
    return figure, iter(flat)


def means(runs: pd.DataFrame, metric: str, *keys: str) -> list[tuple[Panel, pd.DataFrame]]:
    """For each panel a row per combination of ``keys``: ``panel metric``, the keys, the counts and, without the metric's
    name, the statistics of :func:`normhpc.results.summarize`, ends of intervals cut to what the metric can be, then where
    the panel differs from others.
    """
    found = []
    for panel in panels(runs, *keys):
        table = summarize(panel.runs, by=keys, metrics=[metric])
        table = table.rename(columns={f"{metric}_{part}": part for part in STATISTICS})
        least, most = limits_of(metric)
        table = table.assign(low=table["low"].clip(lower=least), high=table["high"].clip(upper=most))
        table.insert(0, "panel", panel.title)
        table.insert(1, "metric", metric)
        found.append((panel, table.assign(**panel.fields)))
    return found


def dot(axis: "Axes", place: int, value: float, low: float | None, high: float | None, *, reference: bool) -> None:
    """A point in row ``place`` with the whiskers of its interval, if it has one; the ``reference`` is a square."""
    bars = None if low is None or high is None or pd.isna(low) else [[value - low], [high - value]]
    colour, marker = (COLOURS[1], "s") if reference else (COLOURS[0], "o")
    axis.errorbar([value], [place], xerr=bars, linestyle="none", color=colour, marker=marker, capsize=3)


def reference_line(axis: "Axes", value: float) -> None:
    """A dashed line at the value of the reference."""
    axis.axvline(value, color=COLOURS[1], linestyle="--", linewidth=1, zorder=0)


def legend_of_norms(figure: "Figure", named: Mapping[str, Any]) -> None:
    """A legend to the right of all axes."""
    legend = figure.legend(named.values(), named.keys(), loc="outside right upper", title="norm", alignment="left")
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)


def log_ticks(axis: "Axes") -> None:
    """A logarithmic scale across with the numbers 1, 2, 5 of each decade, of wide ranges powers of ten alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def name_rows(axis: "Axes", names: Sequence[str]) -> None:
    """Names of the rows 0, 1 ... of dots, from the bottom up."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.locator_params(axis="x", nbins=5)
