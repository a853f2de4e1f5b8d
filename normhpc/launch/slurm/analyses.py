"""``normhpc analyze`` on a Slurm cluster: what is missing and nobody is at goes into job arrays."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from normhpc.config import Resources
from normhpc.config.problems import dotted, findings_of, unknown_key
from normhpc.errors import InputError, NormhpcError, Problem
from normhpc.launch.code import code_version
from normhpc.launch.local import counted
from normhpc.launch.profile import Profile, load_profile
from normhpc.launch.slurm.cluster import Cluster
from normhpc.launch.slurm.command import batch_script, check_request, tell_room, told_of
from normhpc.launch.slurm.journal import ANALYSES, Launch, SubmissionJournal, in_chunks
from normhpc.launch.slurm.snapshot import snapshot_code
from normhpc.launch.slurm.states import Queue
from normhpc.launch.slurm.submit import close_abandoned, job_minutes, submit_what_fits
from normhpc.posthoc.analyze import Request, missing, tell
from normhpc.record import RunFolder, RunInfo
from normhpc.sweep.yaml12 import parse_scalar

_FIELDS = ("minutes", "runs_per_job", "gpus_per_node", "cpus_per_gpu", "mem_gb_per_gpu")
"""Fields of :class:`~normhpc.config.Resources` that mean something to a job on one GPU."""

_MINUTES = 10
_RUNS_PER_JOB = 8
"""Loading torch and a data set takes as long as many an analysis, so a job takes several runs."""

_FOLLOW_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Lack:
    """A run and what of the request it lacks. A :class:`~normhpc.launch.slurm.journal.Submittable`."""

    folder: RunFolder
    info: RunInfo
    what: tuple[str, ...]
    resources: Resources

    @property
    def run_id(self) -> str:
        """Name of the run's folder, which is its id unless somebody has renamed it."""
        return self.folder.path.name

    @property
    def config_json(self) -> str:
        """The complete configuration as JSON text."""
        return json.dumps(self.info.config.to_json())

    @property
    def swept(self) -> Mapping[str, Any]:
        """The sweep's dotted paths with this run's values."""
        return self.info.swept


def submit_analyses(
    folders: Sequence[RunFolder],
    request: Request,
    partition: str | None,
    profile: str | None,
    settings: Sequence[str],
    console: Console,
    *,
    dry_run: bool,
    stay: bool,
) -> int:
    """Submit what ``folders`` lack of ``request``, an array for each sweep. Returns the exit code.

    1 when a run cannot be analysed, or, with ``stay``, when something is not there after all jobs have ended. ``settings``
    are ``resources.FIELD=VALUE``. Raises :class:`~normhpc.errors.InputError`, before anything is submitted, for options
    that make no sense and for a request that the partition can never fulfil.
    """
    if request.device not in (None, "cpu", "cuda"):
        text = f"expected cpu or cuda where jobs have one GPU each, got {request.device!r}"
        raise InputError(Problem(text, path="--device"))
    given = _given(settings, request.device)
    chosen, cluster = load_profile(profile, partition), Cluster("without --partition and --profile")
    if given["gpus_per_node"] == 0:
        request = replace(request, device="cpu")  # a node may show GPUs that nobody asked for
    lacks, unfit = _lacks(folders, request, given, console)
    queue = Queue()
    open_lacks = {sweep: left for sweep, there in _by_sweep(lacks) if (left := _unclaimed(sweep, there, queue))}
    if open_lacks:
        check_request([lacks[0].resources], chosen, cluster, "change it with --set")
    else:
        counts = {"with all of it": len(folders) - len(lacks) - unfit, "in jobs already": len(lacks), "unfit": unfit}
        told = ", ".join(f"{counted(count, 'run')} {how}" for how, count in counts.items() if count)
        console.print(f"nothing to submit: {told}", soft_wrap=True)
    if dry_run:
        _show(open_lacks, chosen, cluster, console)
        return int(unfit > 0)
    for sweep, there in open_lacks.items():
        _submit(sweep, there, request, chosen, cluster, console)
    complete = _follow(lacks, request, console) if stay else True
    return int(unfit > 0 or not complete)


def _given(settings: Sequence[str], device: str | None) -> dict[str, Any]:
    """Resources of a job as ``--set`` and the device have them."""
    values: dict[str, Any] = {}
    allowed = [f"resources.{name}" for name in _FIELDS]
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(Problem("expected KEY=VALUE, such as resources.minutes=30", path=f"--set {text}"))
        if key not in allowed:
            raise InputError(Problem(unknown_key(key, allowed), path="--set"))
        values[key.removeprefix("resources.")] = parse_scalar(value)
    sensible = {"cpu": (0,), "cuda": (1,)}.get(device or "", (0, 1))
    values.setdefault("gpus_per_node", sensible[-1])
    try:
        gpus = Resources.model_validate(values).gpus_per_node
    except ValidationError as error:
        found = findings_of(error, Resources)
        raise InputError(Problem(it.message, path=f"--set resources.{dotted(it.path)}") for it in found) from None
    if gpus not in sensible:
        where = f" with --device {device}" if device else ", because an analysis takes one GPU or none"
        text = f"expected {' or '.join(map(str, sensible))}{where}, got {gpus}"
        raise InputError(Problem(text, path="--set resources.gpus_per_node"))
    return values


def _lacks(
    folders: Sequence[RunFolder], request: Request, given: Mapping[str, Any], console: Console
) -> tuple[list[Lack], int]:
    """What each run lacks, where it lacks something, and how many cannot be analysed, which are told."""
    found, unfit = [], 0
    for folder in folders:
        try:
            info = folder.read_run()
            what = missing(folder, request)
        except NormhpcError as error:
            tell(console, folder, error)
            unfit += 1
            continue
        if what:
            found.append((folder, info, tuple(what)))
    # what sufficed to train the hungriest of them, so that all fit into one array
    own = {
        name: max((getattr(info.resources, name) for _, info, _ in found), default=1)
        for name in ("cpus_per_gpu", "mem_gb_per_gpu")
    }
    need = Resources.model_validate({"minutes": _MINUTES, "runs_per_job": _RUNS_PER_JOB, **own, **given})
    return [Lack(*each, need) for each in found], unfit


def _by_sweep(lacks: Sequence[Lack]) -> Iterator[tuple[Path, list[Lack]]]:
    def place(lack: Lack) -> Path:
        return lack.folder.path.absolute().parent

    for sweep, there in groupby(sorted(lacks, key=place), key=place):
        yield sweep, list(there)


def _alike(lacks: Sequence[Lack]) -> Iterator[tuple[tuple[str, ...], list[Lack]]]:
    """Runs that lack the same go into one array."""
    for what, there in groupby(sorted(lacks, key=lambda lack: lack.what), key=lambda lack: lack.what):
        yield what, list(there)


def _unclaimed(sweep: Path, lacks: Sequence[Lack], queue: Queue) -> list[Lack]:
    """``lacks`` without what jobs are to compute or are computing, however that was asked for."""
    claimed = queue.analyses_of(sweep)
    left = [
        replace(lack, what=tuple(name for name in lack.what if (lack.run_id, name) not in claimed)) for lack in lacks
    ]
    return [lack for lack in left if lack.what]


def _show(lacks: Mapping[Path, Sequence[Lack]], profile: Profile, cluster: Cluster, console: Console) -> None:
    """What would be submitted; touches nothing."""
    jobs = 0
    for sweep, there in lacks.items():
        for what, alike in _alike(there):
            need, chunks = alike[0].resources, [[lack.run_id for lack in chunk] for chunk in in_chunks(alike)]
            jobs += len(chunks)
            trial = Launch("TOKEN", need, profile, code="", version={}, chunks=chunks)
            minutes = job_minutes(trial, cluster)
            script = batch_script(trial, sweep / ANALYSES / "jobs", count=len(chunks), minutes=minutes)
            options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
            runs = counted(len(alike), "run")
            console.print(
                f"{sweep.name}: {', '.join(what)} of {runs} in {counted(len(chunks), 'job')}, at most "
                f"{counted(max(map(len, chunks)), 'run')} in each",
                soft_wrap=True,
            )
            console.print(f"  sbatch {' '.join(options)}", soft_wrap=True)
    if jobs:
        first = next(iter(lacks.values()))[0]
        tell_room(jobs, first.resources, profile, cluster, console)


def _submit(
    sweep: Path, lacks: Sequence[Lack], request: Request, profile: Profile, cluster: Cluster, console: Console
) -> None:
    journal = SubmissionJournal(sweep, ANALYSES)
    try:
        journal.folder.mkdir(exist_ok=True)
    except OSError as error:
        text = f"{journal.folder}: cannot be made ({error.strerror}); what is computed goes beside what was trained"
        raise InputError(text) from None
    with journal.held():
        close_abandoned(journal, cluster)
        lacks = _unclaimed(sweep, lacks, Queue())
        code = str(snapshot_code(journal.folder))
        tokens = {
            journal.declare(alike, profile, code, code_version(), analysis=asdict(replace(request, what=what))).token
            for what, alike in _alike(lacks)
        }
    submit_what_fits(journal)
    for launch in journal.launches():
        if launch.token in tokens:
            outputs = [str(journal.folder / "jobs" / f"{wave.job_id}.out") for wave in launch.waves]
            what = ", ".join(launch.analysis["what"])
            told = "; ".join([told_of([launch], launch.submitted), *(f"output: {output}" for output in outputs)])
            console.print(f"{sweep.name}: {what} of {told}", soft_wrap=True)
    if not tokens:
        console.print(f"{sweep.name}: nothing to submit, another call has just done so", soft_wrap=True)


def _follow(lacks: Sequence[Lack], request: Request, console: Console) -> bool:
    """Tell what changes until no job is at ``lacks``. Whether all of it is there then; what is not is told."""
    sweeps, told = list(_by_sweep(lacks)), None
    while True:
        queue, counts = Queue(), Counter[str]()
        for sweep, there in sweeps:
            states = queue.analyses_of(sweep)
            for lack in there:
                here = {states.get((lack.run_id, name), "ended") for name in lack.what}
                counts[next(state for state in ("running", "submitted", "ended") if state in here)] += 1
        if counts != told:
            shown = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))
            console.print(f"{time.strftime('%H:%M:%S')}  {shown}", soft_wrap=True)
            told = counts
        if counts["running"] + counts["submitted"] == 0:
            break
        time.sleep(_FOLLOW_SECONDS)
    sound = True
    for lack in lacks:
        left = missing(lack.folder, replace(request, what=lack.what))
        if left:
            tell(console, lack.folder, NormhpcError(f"{', '.join(left)}: not there; the output of its job says why"))
            sound = False
    return sound
