"""Where everything is from: failures, machines, versions, commands, what was left out, and how numbers are computed."""

import shlex
from collections import Counter
from collections.abc import Iterator

from normhpc.record.journal import read_journal
from normhpc.report.elements import Column, Datum, Section, Table, bullets, escaped, paragraph
from normhpc.report.study import Study
from normhpc.report.tables import device_hours, hours_title, seconds_of_result
from normhpc.results.attempts import BEGUN, device_seconds
from normhpc.results.failures import group_failures
from normhpc.results.human import MISSING
from normhpc.results.records import RunRecord, listed
from normhpc.results.ties import ALPHA

_MACHINE = ("host", "device", "ranks", "python", "torch", "cuda")

_METHODS = (
    ("mean, std", "x̄ = Σx / n; s = √(Σ(x - x̄)² / (n - 1)) over the n runs of a cell that have a value."),
    ("interval, ±", "x̄ ± t(0.975; n - 1) s / √n (Student t); none for n = 1. ± is half of it."),
    ("ok, of", "runs that finished, runs that there are. A run that diverged or failed counts in the second."),
    (
        "not distinguishable",
        "d = difference to the best of the block at the same seed; paired t test, d̄ / (s(d) / √n) with n - 1 degrees; Welch's "
        "where the two do not vary together (correlation ≤ 0); p values adjusted by Holm, p̃(i) = max over j ≤ i of "
        f"min(1, (m - j + 1) p(j)); not distinguishable: p̃ ≥ {ALPHA:g}. The best was chosen for being the best, which flatters it.",
    ),
    (
        "smallest difference",
        "that which a two-sided two-sample t test at 0.05 / comparisons finds with probability 0.8, from the noncentral t with "
        "2n - 2 degrees and the pooled standard deviation √(Σ(n - 1)s² / Σ(n - 1)).",
    ),
    ("seconds_per_epoch, images_per_second, peak_memory_mb", "as the run sealed them (docs/records.md); means over runs with a result."),
    ("device-hours, GPU-hours", "Σ seconds · ranks / 3600 over the runs of a cell that ended with a result, all attempts up to the checkpoints that they "
        "went on from; of n trained together, each has 1/n. Besides: of every attempt the time from its start to the last line that it "
        "or its launcher wrote, times ranks, less what is counted already. Queues, and the end of a process that died without a word, "
        "are in neither."),
    ("Pareto front", "methods that no other is at least as good as in both means and better in one."),
    (
        "time to accuracy",
        "training time at the end of the first epoch that has the target: sum of the epochs' seconds, the first at most the median "
        "of the others, evaluation left out. Kaplan-Meier S(t) = Π(1 - d / r); mean time = ∫₀ᵀ S(t) dt, T the longest "
        "run of the block. Runs that finished or diverged without it are censored at T, others where they were cut short.",
    ),
    (
        "ranks",
        "within a block, of means over seeds, 1 the best, ties at their average. Critical difference q √(K(K + 1) / (6B)), q from "
        "the studentized range over √2 (Demšar 2006). Wilcoxon's signed ranks, exact, Holm over all pairs (Benavoli et al. 2016).",
    ),
    ("heat maps", "mean over all runs with these two values that have the metric."),
)  # fmt: skip


def failures_section(study: Study) -> Section:
    """Runs that failed by fault, and runs that diverged."""
    tables = [table for table in (_failures(study), _diverged(study)) if table.rows]
    parts = tuple(tables) or (paragraph("No run failed and none diverged."),)
    return Section("failures", "Failed and diverged runs", parts)


def provenance_section(study: Study) -> Section:
    """Machines, commands, exclusions and methods."""
    lost = study.runs[study.metric].isna()
    states = Counter(study.runs["state"][lost])
    excluded = [f"{count} {state} without {study.metric}" for state, count in sorted(states.items())]
    newest = max(record.created for record in study.records)
    dirs = " ".join(shlex.quote(path) for path in study.dirs)
    hours, title = sum(hours for hours in device_hours(study) if hours == hours), hours_title(study)
    methods = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in _METHODS)
    over = study.cells.attrs.get("over", "seeds")
    told = [
        f"Newest record: {newest or 'unknown'}.",
        f"Left out of means: {listed(excluded) if excluded else 'no run'}.",
        f"Error bars: 95 % Student t intervals over {over} (weights, order of images, augmentation; one split of the images).",
        f"Compute: {hours:.3g} {title} in the training that runs with a result were made of, {_other_hours(study):.3g} {title} "
        "besides, in attempts that failed, were lost or repeated, or have not ended, as far as their lines tell.",
    ]
    command = f"normhpc report {dirs} --metric {study.metric} --out report.html"
    return Section(
        "provenance",
        "Provenance",
        (
            bullets(told),
            paragraph("This page again, and a check of its tables against the records:"),
            f"<pre>{escaped(command)}\n{escaped(command)} --verify</pre>",
            _machines(study),
            _code(study),
            f"<h3>How each number is computed</h3><dl>{methods}</dl>",
        ),
    )


def _other_hours(study: Study) -> float:
    """Hours of ranks in all attempts of all runs, less those in :func:`~normhpc.report.tables.device_hours`."""
    total = 0.0
    for record in study.records:
        events, _ = read_journal(record.folder.events)
        counted = seconds_of_result(record)
        if counted is not None and sum(event.get("event") in BEGUN for event in events) < 2:
            continue  # its only attempt is what the result was made of
        metrics, _ = read_journal(record.folder.metrics)
        total += max(0.0, device_seconds(events, metrics) - (counted or 0.0))
    return total / 3600


def _failures(study: Study) -> Table:
    events = {record.run_id: record.status.event for record in study.records if record.status.state == "failed"}
    cells = {record.run_id: int(cell) for record, cell in zip(study.records, study.cell_of, strict=True)}
    columns = [
        Column(name, title, numeric=name == "runs")
        for name, title in (
            ("fingerprint", "fingerprint"),
            ("runs", "runs"),
            ("why", "why"),
            ("example", "what it was"),
            ("cells", "where"),
            ("run_ids", "run ids"),
        )
    ]
    rows = []
    for group in group_failures(events, {}):
        where = listed(dict.fromkeys(study.cell_name(cells[run_id]) for run_id in group.run_ids))
        rows.append(
            (
                Datum(group.fingerprint),
                Datum(str(len(group.run_ids)), float(len(group.run_ids))),
                *(Datum(text) for text in (group.why, group.example, where, listed(group.run_ids))),
            )
        )
    caption = "Failed runs by fault: the same error at the same place of the code has one fingerprint"
    return Table("failures", caption, tuple(columns), tuple(rows))


def _diverged(study: Study) -> Table:
    columns = (
        Column("run_id", "run id", numeric=False),
        Column("cell", "where", numeric=False),
        Column("seed", "seed"),
        Column("step", "at step"),
    )
    rows = []
    for record, cell in zip(study.records, study.cell_of, strict=True):
        if record.status.state == "diverged":
            step = record.summary.get("diverged_at_step")
            at = Datum(str(step), float(step)) if isinstance(step, int) else Datum(MISSING)
            seed = Datum(str(record.seed), float(record.seed))
            rows.append((Datum(record.run_id), Datum(study.cell_name(int(cell))), seed, at))
    return Table(
        "diverged", "Diverged runs: the loss stopped being a number; a result, not a fault", columns, tuple(rows)
    )


def _machines(study: Study) -> Table:
    columns = [Column("runs", "runs"), *(Column(name, name, numeric=False) for name in _MACHINE)]
    counts: Counter[tuple[str, ...]] = Counter()
    for record in study.records:
        counts.update(set(_starts(record)))
    rows = [
        (Datum(str(count), float(count)), *(Datum(text) for text in key))
        for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Table("machines", "Machines and versions that runs started or resumed on", tuple(columns), tuple(rows))


def _starts(record: RunRecord) -> Iterator[tuple[str, ...]]:
    events, _ = read_journal(record.folder.events)
    for event in events:
        if event.get("event") in BEGUN:
            yield tuple(MISSING if event.get(name) is None else str(event[name]) for name in _MACHINE)


def _code(study: Study) -> Table:
    columns = (
        Column("runs", "runs"),
        Column("code", "code", numeric=False),
        Column("data", "data digest", numeric=False),
    )
    digests = study.runs["data_digest"].fillna(MISSING)
    counts = Counter(zip(study.runs["code"], digests, strict=True))
    rows = [
        (Datum(str(count), float(count)), Datum(str(code)), Datum(str(digest)))
        for (code, digest), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Table("code", "Code and data of the runs", columns, tuple(rows))
