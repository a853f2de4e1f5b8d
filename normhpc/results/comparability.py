"""What one must know before comparing the rows of a table."""

from collections.abc import Hashable

import pandas as pd

from normhpc.results.fields import ALWAYS, image_sets, is_field
from normhpc.results.records import listed


def comparability_notes(runs: pd.DataFrame, *, diverged: bool = True) -> list[str]:
    """Sentences on runs without a result, absent seeds, and batches, company, data, schema or code that differ.

    Without ``diverged`` nothing is said of runs that did, which is a result.
    """
    labels = cell_labels(runs)
    return [
        *_state_notes(runs, labels, diverged=diverged),
        *_missing_seeds(runs, labels),
        *_batch_shares(runs, labels),
        *_company(runs, labels),
        *_data_digests(runs),
        *_schema_versions(runs),
        *_code_versions(runs),
    ]


def cell_labels(runs: pd.DataFrame) -> pd.Series:
    """``norm.name=group norm.groups=4`` for each run: the fields that vary over ``runs``, or the three main ones."""
    fields = [str(name) for name in runs.columns if is_field(str(name))]
    named = [name for name in fields if runs[name].nunique(dropna=False) > 1]
    named = named or [name for name in ALWAYS if name in fields]
    texts = [[f"{name}={value}" if pd.notna(value) else "" for value in runs[name]] for name in named]
    return pd.Series(
        [" ".join(filter(None, parts)) for parts in zip(*texts, strict=True)], index=runs.index, dtype="str"
    )


def _state_notes(runs: pd.DataFrame, labels: pd.Series, *, diverged: bool) -> list[str]:
    notes = []
    told = {"failed": "; normhpc status names the errors"} | ({"diverged": ""} if diverged else {})
    for state, advice in told.items():
        chosen = labels[runs["state"] == state]
        if len(chosen):
            notes.append(f"{state}: {len(chosen)} of {len(runs)} runs ({listed(chosen.unique())}){advice}")
    waiting = runs["state"][~runs["state"].isin(("finished", "failed", "diverged"))]
    if len(waiting):
        counts = ", ".join(f"{count} {state}" for state, count in sorted(waiting.value_counts().items()))
        notes.append(f"not finished yet: {len(waiting)} of {len(runs)} runs ({counts})")
    return notes


def _missing_seeds(runs: pd.DataFrame, labels: pd.Series) -> list[str]:
    """Seeds that other cells of the sweep have. A run that another sweep shares is there, wherever it is listed."""
    have: dict[Hashable, set[int]] = {str(label): set(seeds) for label, seeds in runs["seed"].groupby(labels)}
    cells: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for sweep, seeds in runs["seed"].groupby(runs["sweep"]):
        expected = set(seeds)
        for label in labels[seeds.index].unique():
            missing = tuple(sorted(expected - have[label]))
            if missing:
                cells.setdefault((str(sweep), missing), []).append(label)
    return [
        f"sweep {sweep}: no run with seed {', '.join(map(str, missing))} for {listed(names)}"
        for (sweep, missing), names in cells.items()
    ]


def _batch_shares(runs: pd.DataFrame, labels: pd.Series) -> list[str]:
    shares = runs["images_per_statistic"].dropna()
    notes = []
    for _, of_set in shares.groupby(image_sets(runs)[shares.index], sort=False):
        if of_set.nunique() < 2:
            continue
        groups = [
            f"{share} in {listed(labels[found.index].unique())}" for share, found in of_set.groupby(of_set, sort=False)
        ]
        notes.append(
            "batch statistics of these runs are over different numbers of images, which alone changes the result: "
            + listed(groups)
        )
    return notes


def _company(runs: pd.DataFrame, labels: pd.Series) -> list[str]:
    """Runs alone in their process, and runs that shared one: what a run cost is measured of the process."""
    found = runs["trained_together"].dropna()
    if found.nunique() < 2:
        return []
    groups = [
        f"{'alone' if together == '1' else f'{together} together'} in {listed(labels[of_it.index].unique())}"
        for together, of_it in found.groupby(found, sort=False)
    ]
    return [
        "these runs were trained with different numbers of others in one process, so that times, speed and memory do "
        f"not compare: {listed(groups)}"
    ]


def _data_digests(runs: pd.DataFrame) -> list[str]:
    notes = []
    for name, digests in runs["data_digest"].groupby(image_sets(runs), sort=False):
        found = digests.dropna().value_counts(sort=False)
        if len(found) > 1:
            counts = listed(f"{digest} in {_runs(count)}" for digest, count in found.items())
            notes.append(f"{name} was not the same data in all runs: {counts}")
    return notes


def _schema_versions(runs: pd.DataFrame) -> list[str]:
    """Runs of versions of normhpc whose fields may have other defaults or meanings."""
    found = runs["code"].str.extract(r"^schema=(\S+)", expand=False).value_counts(sort=False)
    if len(found) < 2:
        return []
    counts = listed(f"schema {schema} in {_runs(count)}" for schema, count in found.items())
    return [f"runs of different schema versions, whose fields may not mean the same: {counts}"]


def _code_versions(runs: pd.DataFrame) -> list[str]:
    found = runs["code"].value_counts(sort=False)
    if len(found) < 2:
        return []
    return [f"runs of different code: {listed(f'{code} in {_runs(count)}' for code, count in found.items())}"]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
