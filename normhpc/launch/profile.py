"""How one Slurm cluster is asked for what a run needs."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from normhpc.config.base import Part, PositiveFloat, PositiveInt
from normhpc.config.problems import dotted, findings_of
from normhpc.errors import InputError, Problem, did_you_mean
from normhpc.sweep.yaml12 import parse

PROFILES = Path("slurm") / "profiles"
"""Where ``--profile NAME`` looks, below the current folder."""

GpuRequest = Literal["gres", "gpus-per-node", "gpus-per-task", "none"]

Names = Annotated[tuple[str, ...], Field(strict=False)]


class Profile(Part):
    """One cluster. Every field can be left out; ``--partition`` overrides the one here."""

    description: str = ""
    """One line for people."""
    partition: str | None = None
    """Partition to submit to; null for the cluster's default."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have."""
    gpus: GpuRequest = "gres"
    """How GPUs are asked for: ``gres`` (``--gres=gpu:N``), ``gpus-per-node``, ``gpus-per-task`` (one each), or ``none``."""
    gpu_type: str | None = None
    """Kind of GPU, as the cluster names it (``a100``)."""
    cpus_per_gpu: PositiveInt | None = None
    """Cores of each rank, in place of what the sweep says."""
    mem_gb_per_gpu: PositiveFloat | None = None
    """Memory of each rank in GiB, in place of what the sweep says."""
    memory: bool = True
    """Whether to ask for memory at all; some clusters give whole nodes and refuse."""
    max_parallel: PositiveInt | None = None
    """Jobs of one array that may run at a time."""
    signal_seconds: PositiveInt = 180
    """How long before its time limit a job is told to save itself; Slurm may be a minute early."""
    setup: Names = ()
    """Shell lines that a job runs first (``module load cuda``)."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every rank."""
    network_interface: str | None = None
    """Interface that NCCL and gloo use between nodes (``ib0``)."""
    scratch: str | None = None
    """Node-local folder, as the shell spells it (``$SLURM_TMPDIR``): ``data.path`` is copied there once a node, and read there."""
    sbatch: dict[str, str | bool] = Field(default_factory=dict)
    """Any further options of sbatch, without their dashes; true for one without a value."""


def load_profile(name: str | None, partition: str | None = None) -> Profile:
    """The profile in ``slurm/profiles/NAME.yaml``, or in the file ``name``; without a name the plain one.

    ``partition`` goes before that of the file. Raises :class:`InputError` with every mistake and its place.
    """
    profile = _read_profile(name) if name is not None else Profile()
    return profile if partition is None else profile.model_copy(update={"partition": partition})


def _read_profile(name: str) -> Profile:
    file = Path(name) if name.endswith((".yaml", ".yml")) or "/" in name else PROFILES / f"{name}.yaml"
    try:
        text = file.read_text()
    except OSError as error:
        known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
        there = f"; there are: {', '.join(known)}" if known else ""
        hint = did_you_mean(name, known)
        raise InputError(Problem(f"cannot be read: {error.strerror}{hint}{there}", file=str(file))) from None
    document = parse(text, str(file))
    value: Any = document.value if document.value is not None else {}
    if not isinstance(value, dict):
        raise InputError(Problem("expected a mapping with the fields of a profile", file=str(file)))
    try:
        return Profile.model_validate(value)
    except ValidationError as error:
        problems = [
            Problem(finding.message, dotted(finding.path), str(file), *_place(document, finding))
            for finding in findings_of(error, Profile)
        ]
        raise InputError(sorted(problems, key=lambda problem: problem.line or 0)) from None


def _place(document: Any, finding: Any) -> tuple[int | None, int | None]:
    place = document.place(tuple(finding.path), of_key=finding.unknown_key)
    return (place[0], place[1]) if place else (None, None)


def profile_schema() -> dict[str, Any]:
    """JSON Schema of a profile."""
    return Profile.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
