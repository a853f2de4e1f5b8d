"""Reproduced studies: what their authors report beside what was measured here.

python analysis/reproduction_table.py RUNS_DIR ... [--markdown] [--expected FILE] prints the lines of FILE with mean, n,
95 % interval and verdict. Runs as STUDY.yaml beside FILE declares them count, others have rows of their own.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from normhpc.errors import InputError
from normhpc.results import load_runs
from normhpc.results.declared import places
from normhpc.results.names import limits_of
from normhpc.results.records import read_records
from normhpc.results.statistics.intervals import half_width
from normhpc.sweep import load

EXPECTED = Path(__file__).parents[1] / "sweeps" / "reproduce" / "expected.csv"
COLUMNS = ("study", "match", "metric", "expected", "tolerance", "mean", "n", "low", "high", "verdict", "source")


def compare(dirs: Sequence[str | Path], file: Path) -> pd.DataFrame:
    """The lines of ``file`` with mean, n, 95 % t interval and verdict; ``diverged`` is a share of the sealed runs."""
    runs = load_runs(*dirs).set_index("run_id").query("state in ('finished', 'diverged')")
    runs = runs.assign(diverged=(runs["state"] == "diverged").astype(float))
    sealed = [record for record in read_records(dirs).runs if record.run_id in runs.index]
    expected, studies, rows = pd.read_csv(file), {}, []
    for study in expected["study"].unique():
        of_study = [record for record in sealed if record.sweep == study]
        studies[study] = places(of_study, load(file.with_name(f"{study}.yaml")).expand())
    for row in expected.to_dict("records"):
        cells: dict[str, list[str]] = {"": []}
        for run_id, place in studies[row["study"]].items():
            if place.fits(row["match"]):
                cells.setdefault(place.settings, []).append(run_id)
        rows += [row | measured(runs.loc[run_ids], row, settings) for settings, run_ids in cells.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def measured(cell: pd.DataFrame, row: Mapping[str, Any], settings: str) -> dict[str, Any]:
    """What the runs ``cell`` make of the expectation ``row``; those of other ``settings`` are not judged, nor is rounding."""
    values = cell[row["metric"]].dropna() if row["metric"] in cell else pd.Series(dtype=float)
    mean, half = values.mean(), float(half_width(np.array(values.std()), np.array(float(len(values)))))
    told = "inside" if abs(mean - row["expected"]) <= row["tolerance"] + 1e-9 else "outside" if len(cell) else "not run"
    told = f"other settings ({settings})" if settings else told
    ends = zip(("low", "high"), np.clip([mean - half, mean + half], *limits_of(row["metric"])), strict=True)
    return {"mean": mean, "n": len(values), **dict(ends), "verdict": told}


def show(table: pd.DataFrame, *, markdown: bool) -> None:
    """Print ``table``, numbers to four digits and what is missing as a dash."""
    cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in table.itertuples(index=False)]
    rows = [["-" if cell == "nan" else cell for cell in row] for row in cells]
    if markdown:
        print(*(f"| {' | '.join(row)} |" for row in [COLUMNS, ["---"] * len(COLUMNS), *rows]), sep="\n")
        return
    shown = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False, highlight=False).print(shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dirs", nargs="+", metavar="RUNS_DIR")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--expected", type=Path, default=EXPECTED)
    given = parser.parse_args()
    try:
        show(compare(given.dirs, given.expected), markdown=given.markdown)
    except InputError as error:
        parser.error(str(error))
