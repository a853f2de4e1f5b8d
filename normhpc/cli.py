"""The command line. One short function per command; what a command needs is imported inside it.

Nothing here but ``train``, ``predict``, ``analyze`` and ``sweep --smoke`` ever loads torch: planning and watching run on
a login node.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from normhpc.errors import InputError
from normhpc.terminal import new_console, print_json, run_command

app = typer.Typer(
    name="normhpc",
    help="Which normalization layer, for which network, on which images, and at what cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help would take longer to load than everything else together
    context_settings={"help_option_names": ["-h", "--help"]},
)

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
RunsDir = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where records live: DIR/<sweep>/<run id>/.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a field in every run. Repeatable.")
]
Filters = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="KEY=VALUE", help="Keep runs whose field has this value (A,B: either). Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]
Partition = Annotated[str | None, typer.Option(metavar="P", help="Slurm partition to submit to.")]
Profile = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="Cluster to submit to: slurm/profiles/NAME.yaml, or a file.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and touch nothing.")]
Follow = Annotated[bool, typer.Option("--follow", help="Stay until all of it has ended; 1 when something failed.")]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="A run, by folder or id, or a sweep, by file or folder.")]
Places = Annotated[list[Path] | None, typer.Argument(metavar="DIR", help="Folders of records. [default: runs]")]

_RUNS = Path("runs")

Listing = StrEnum("Listing", "norms models data sweeps")
"""What ``normhpc list`` can list."""

OfShards = StrEnum("OfShards", "info verify")
"""What ``normhpc shards`` does with shards."""

SchemaOf = StrEnum("SchemaOf", "sweep run profile")
"""What ``normhpc schema`` can describe."""


class Cause(StrEnum):
    """Why a run failed, for ``normhpc retry --why``."""

    oom = "oom"
    timeout = "timeout"
    node_fail = "node_fail"
    error = "error"


class Weights(StrEnum):
    """Which weights of a run ``predict`` and ``analyze`` take."""

    best = "best"
    last = "last"


WhichWeights = Annotated[
    Weights | None, typer.Option(help="Which weights. [default: the best if the run kept them, else the last]")
]
Format = StrEnum("Format", "table csv json parquet markdown latex html")
"""How ``normhpc collect`` writes a table."""


@app.command()
def sweep(
    file: SweepFile,
    partition: Partition = None,
    profile: Profile = None,
    local: Annotated[bool, typer.Option("--local", help="Run on this machine instead of a cluster.")] = False,
    slots: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Ranks at a time with --local. [default: what GPUs or cores hold]"),
    ] = None,
    dry_run: DryRun = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="With --dry-run: also build every distinct case and take one step.")
    ] = False,
    runs: RunsDir = _RUNS,
    settings: Settings = None,
    only: Filters = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Launch at most so many runs; 0 only makes their folders."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Launch failed runs again.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Stop runs that the sweep no longer declares and put their records aside.")
    ] = False,
    max_gpu_hours: Annotated[
        float | None, typer.Option(min=0, metavar="H", help="Refuse a launch that could take more GPU-hours than this.")
    ] = None,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """Bring the runs that SWEEP.yaml declares into being; what is done already is not done again."""
    from normhpc.launch.sweep import Options, bring_about
    from normhpc.sweep import load

    options = Options(
        runs=runs,
        partition=partition,
        profile=profile,
        local=local,
        slots=slots,
        dry_run=dry_run,
        smoke=smoke,
        limit=limit,
        retry_failed=retry_failed,
        prune=prune,
        max_gpu_hours=max_gpu_hours,
        follow=follow,
        as_json=as_json,
    )
    options.check()
    raise typer.Exit(bring_about(load(file, overrides=settings or (), only=only or ()), options))


@app.command()
def expand(
    file: SweepFile,
    count: Annotated[bool, typer.Option("--count", help="Print only the number of runs.")] = False,
    settings: Settings = None,
    only: Filters = None,
) -> None:
    """Print one JSON line per run: its id and its complete configuration."""
    from normhpc.sweep import load
    from normhpc.sweep.listing import print_count, print_runs

    declared = load(file, overrides=settings or (), only=only or ())
    print_count(declared) if count else print_runs(declared)


@app.command()
def status(
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SWEEP|DIR", help="Sweep files or folders of records. [default: runs]"),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until nothing is under way.")] = False,
    runs: RunsDir = _RUNS,
    as_json: Json = False,
) -> None:
    """Show how many runs are in which state, what is running and what failed."""
    from normhpc.launch.slurm.states import PatientQueue
    from normhpc.launch.targets import records_of
    from normhpc.results.screen import show_status, watch_status

    folders = [records_of(place, runs) for place in places or [runs]]
    if watch:
        watch_status(folders, new_console(), PatientQueue)
    else:
        show_status(folders, new_console(), PatientQueue, as_json=as_json)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or the start of its id.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as the run writes.")] = False,
    runs: RunsDir = _RUNS,
) -> None:
    """Print what a run's ranks printed."""
    from normhpc.record.find import find_run
    from normhpc.record.log import print_log

    print_log(find_run(run, runs), follow=follow)


@app.command()
def cancel(
    target: Target,
    runs: RunsDir = _RUNS,
) -> None:
    """Stop runs that are queued or running; they save themselves, and the next launch goes on with them."""
    from normhpc.launch.operate import cancel as stop
    from normhpc.launch.targets import find_target

    stop(find_target(target, runs), new_console(stderr=True))


@app.command()
def retry(
    target: Target,
    why: Annotated[Cause | None, typer.Option(help="Only what failed for this reason.")] = None,
    runs: RunsDir = _RUNS,
) -> None:
    """Launch failed and lost runs again: with twice the memory after an oom, twice the time after a timeout."""
    from normhpc.launch.operate import retry as launch_again
    from normhpc.launch.targets import find_target

    raise typer.Exit(launch_again(find_target(target, runs), why.value if why else None, new_console(stderr=True)))


@app.command()
def collect(
    places: Places = None,
    by: Annotated[str | None, typer.Option(metavar="F,F", help="Fields that make a cell. [default: all swept]")] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="M", help="Metric to tabulate. Repeatable.")] = None,
    per_run: Annotated[bool, typer.Option("--per-run", help="One row per run instead of one per cell.")] = False,
    format: Annotated[Format, typer.Option(help="How to write the table.")] = Format.table,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file instead of the screen.")] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit code 1 when anything is odd: torn lines, missing seeds, failed runs ..."),
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read all records anew, not from what was kept.")] = False,
) -> None:
    """Tabulate results: mean and 95 % interval over seeds, and cost, per cell of the sweep."""
    from normhpc.results.output import collect as tabulate
    from normhpc.results.output import tell

    collected = tabulate(
        places or [_RUNS],
        by=by.split(",") if by else None,
        metrics=metric,
        per_run=per_run,
        format=format.value,
        out=out,
        strict=strict,
        rebuild=rebuild,
    )
    raise typer.Exit(tell(collected))


@app.command()
def report(
    places: Places = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    metric: Annotated[
        str | None, typer.Option(metavar="M", help="What it is about. [default: top1 or mAP of test]")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Write nothing; compute each table cell of FILE again.")
    ] = False,
) -> None:
    """Write one HTML file with tables, curves, cost and sources of everything measured; opens offline."""
    from normhpc.report.command import write_or_verify

    raise typer.Exit(write_or_verify(places or [_RUNS], out, metric, verify=verify))


@app.command()
def train(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR", help="Folder of a run, or of several that differ by their seed.")
    ],
) -> None:
    """Train one run; alone or as one rank under torchrun. Goes on from its checkpoint. Several are trained together."""
    from normhpc.launch.worker import run_rank

    raise typer.Exit(run_rank(*run_dirs))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or the start of its id.")],
    images: Annotated[
        Path,
        typer.Option(
            metavar="CSV|DIR|SHARDS",
            help="A row of C*H*W values 0..255 per image, a folder of PNG and JPEG, or a split of shards.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="CSV file to write.")] = Path("predictions.csv"),
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also the probability of each class.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images at a time. [default: as in the run's evaluation]")
    ] = None,
    weights: WhichWeights = None,
    runs: RunsDir = _RUNS,
) -> None:
    """Write what a trained network says of images that the run has never seen."""
    from normhpc.launch.worker import load_trained
    from normhpc.posthoc.predict import predict as write_predictions
    from normhpc.record.find import find_run

    write_predictions(
        find_run(run, runs),
        images,
        out,
        load=load_trained,
        console=new_console(stderr=True),
        weights=weights.value if weights else None,
        probabilities=probabilities,
        batch_size=batch_size,
    )


@app.command()
def analyze(
    run: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Folders of runs or of sweeps, or starts of run ids. Repeatable.")
    ],
    what: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="predictions, misclassified, confusion, calibration, similarity, saliency, hessian, loss_line, corruption.",
        ),
    ],
    images: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images to take where a sample is taken. [default: by analysis]"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="cpu, cuda or cuda:NUMBER. [default: a GPU if there is one]")
    ] = None,
    weights: WhichWeights = None,
    again: Annotated[bool, typer.Option("--again", help="Compute also what is there, of the same weights.")] = False,
    partition: Partition = None,
    profile: Profile = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="resources.KEY=VALUE", help="What a job gets. Repeatable.")
    ] = None,
    dry_run: DryRun = False,
    follow: Follow = False,
    runs: RunsDir = _RUNS,
) -> None:
    """Compute from trained networks what is not in their records; results go into RUN/posthoc/."""
    from normhpc.launch.code import code_version
    from normhpc.launch.worker import load_trained
    from normhpc.posthoc import analyze as posthoc
    from normhpc.record.folder import timestamp

    since = timestamp() if again else None
    request = posthoc.Request(posthoc.analyses_named(what), images, device, weights.value if weights else None, since)
    folders, console = posthoc.runs_named(run, runs), new_console(stderr=True)
    if partition or profile:
        from normhpc.launch.slurm.analyses import submit_analyses as submit

        jobs = (partition, profile, settings or ())
        raise typer.Exit(submit(folders, request, *jobs, console, dry_run=dry_run, stay=follow))
    if settings or dry_run or follow:
        raise InputError("--set, --dry-run and --follow are about jobs on a cluster; give --partition or --profile too")
    raise typer.Exit(posthoc.analyze(folders, request, load=load_trained, code=code_version(), console=console))


@app.command(name="list")
def list_(
    what: Annotated[Listing, typer.Argument(metavar="norms|models|data|sweeps", help="What to list.")],
    as_json: Json = False,
) -> None:
    """List the names that a sweep can use, with their fields and defaults."""
    from normhpc.sweep.catalogue import list_parts, list_sweeps, show_catalogue

    entries = list_sweeps(Path("sweeps")) if what is Listing.sweeps else list_parts(what.value)
    print_json(entries) if as_json else show_catalogue(what.value, entries, new_console())


@app.command()
def shards(
    what: Annotated[OfShards, typer.Argument(metavar="info|verify", help="Say what they hold, or check every byte.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a split, or one that holds splits.")],
    as_json: Json = False,
) -> None:
    """Look into shards of images that a script of data_prep/ made."""
    from normhpc.shards.show import show_info, verify

    if what is OfShards.info:
        show_info(folder, new_console(), as_json=as_json)
    else:
        raise typer.Exit(verify(folder, new_console(stderr=as_json), as_json=as_json))


@app.command()
def schema(
    what: Annotated[SchemaOf, typer.Argument(metavar="sweep|run|profile", help="What to describe.")],
) -> None:
    """Print a JSON Schema, for editors that know yaml-language-server."""
    from normhpc.launch.profile import profile_schema
    from normhpc.sweep.schema import run_schema, sweep_schema

    schemas = {SchemaOf.sweep: sweep_schema, SchemaOf.run: run_schema, SchemaOf.profile: profile_schema}
    print_json(schemas[what]())


@app.command()
def doctor(runs: RunsDir = _RUNS, as_json: Json = False) -> None:
    """Say what this machine has for training and launching, and what is missing."""
    from normhpc.launch.doctor import examine, show_findings

    findings = examine(runs)
    print_json([finding.as_json() for finding in findings]) if as_json else show_findings(findings, new_console())
    raise typer.Exit(1 if any(finding.level == "missing" for finding in findings) else 0)


def main() -> None:
    """Run the command line. Mistakes of the user end with their text and exit code, without a traceback."""
    run_command(app)
