"""What was meant to be submitted and what Slurm accepted: written ahead, so that a crash loses and doubles nothing.

``<runs>/<sweep>/.slurm/`` holds ``journal.jsonl`` and, per launch, ``<token>.jsonl`` with one line per chunk: the runs
that one array task trains. A launch is submitted in waves, each an array with a name of its own; what a wave's intent
in the journal lacks in acceptance is asked of Slurm by that name. ``<runs>/<sweep>/.analyses/`` is the same for launches
that analyse runs.
"""

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from normhpc.config import Resources
from normhpc.files import replace_file
from normhpc.launch.profile import Profile
from normhpc.record.folder import timestamp
from normhpc.record.journal import Journal, read_journal
from normhpc.record.lock import exclusive_lock

ANALYSES = ".analyses"
"""Folder of a sweep with the journal of its analyses, apart from that of its training."""

_LOCK_PATIENCE_SECONDS = 120


class Submittable(Protocol):
    """What a launch must know of a run."""

    @property
    def run_id(self) -> str:
        """16 hex digits."""

    @property
    def config_json(self) -> str:
        """The complete configuration as JSON text."""

    @property
    def swept(self) -> Mapping[str, Any]:
        """The sweep's dotted paths with this run's values."""

    @property
    def resources(self) -> Resources:
        """What it is to get."""


SubmittableRun = TypeVar("SubmittableRun", bound=Submittable)


def in_chunks(runs: Sequence[SubmittableRun]) -> list[list[SubmittableRun]]:
    """``runs``, all of one shape, as jobs get them."""
    size = runs[0].resources.runs_per_job
    return [list(runs[start : start + size]) for start in range(0, len(runs), size)]


@dataclass(frozen=True, slots=True)
class Wave:
    """Chunks ``start`` to ``stop`` of a launch, submitted as one array named ``name``."""

    name: str
    start: int
    stop: int
    job_id: str | None
    """Slurm's id of the array, once accepted."""


@dataclass(slots=True)
class Launch:
    """One call of ``normhpc sweep`` for runs of one shape, or of ``normhpc analyze`` for runs that lack the same."""

    token: str
    resources: Resources
    profile: Profile
    code: str
    """Folder to import normhpc from."""
    version: dict[str, Any]
    """What that code is, for the records."""
    chunks: list[list[str]]
    """Run ids of each chunk."""
    declared: str = ""
    """When it was written down."""
    command: list[str] = field(default_factory=list)
    """What starts a rank, followed by the folder of its run; empty for ``normhpc train``."""
    analysis: dict[str, Any] = field(default_factory=dict)
    """What to compute of trained runs, the fields of a :class:`normhpc.posthoc.analyze.Request`; empty to train them."""
    waves: list[Wave] = field(default_factory=list)
    intents: int = 0
    """Waves that were ever meant to be submitted, the refused ones too."""
    closed: bool = False
    """A later launch has taken over what was left."""
    cancelled: set[int] = field(default_factory=set)
    """Chunks that the user has stopped."""

    @property
    def submitted(self) -> int:
        """Chunks that Slurm has accepted, or may have."""
        return max((wave.stop for wave in self.waves), default=0)


class SubmissionJournal:
    """The folder ``name`` of a sweep: ``.slurm``, or :data:`ANALYSES`."""

    def __init__(self, sweep_folder: Path, name: str = ".slurm") -> None:
        self.sweep_folder = sweep_folder
        self.folder = sweep_folder / name
        self.path = self.folder / "journal.jsonl"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the only one who submits for this sweep."""
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"{self.folder}: another process has been submitting this sweep for minutes; try again when it is done"
        with exclusive_lock(self.folder, busy, wait_seconds=_LOCK_PATIENCE_SECONDS):
            yield

    def declare(
        self,
        runs: Sequence[Submittable],
        profile: Profile,
        code: str,
        version: dict[str, Any],
        command: Sequence[str] = (),
        analysis: Mapping[str, Any] | None = None,
    ) -> Launch:
        """Write down a launch of ``runs``, all of one shape, before anything is submitted."""
        token = secrets.token_hex(4)
        resources = runs[0].resources
        chunks = in_chunks(runs)
        lines = [
            json.dumps([{"config": json.loads(run.config_json), "swept": run.swept} for run in chunk])
            for chunk in chunks
        ]
        replace_file(self.chunk_file(token), lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
        ids = [[run.run_id for run in chunk] for chunk in chunks]
        self._append(
            "launch",
            token=token,
            resources=resources.model_dump(mode="json"),
            profile=profile.model_dump(mode="json"),
            code=code,
            version=version,
            chunks=ids,
            command=list(command),
            analysis=dict(analysis or {}),
        )
        return Launch(
            token, resources, profile, code, version, ids, command=list(command), analysis=dict(analysis or {})
        )

    def chunk_file(self, token: str) -> Path:
        """Where the chunks of a launch stand, one a line."""
        return self.folder / f"{token}.jsonl"

    def read_chunk(self, token: str, index: int) -> list[dict[str, Any]]:
        """Configuration and swept values of each run of one chunk."""
        with self.chunk_file(token).open() as lines:
            for number, line in enumerate(lines):
                if number == index:
                    chunk: list[dict[str, Any]] = json.loads(line)
                    return chunk
        raise IndexError(f"{self.chunk_file(token)} has no line {index}")

    def intend(self, launch: Launch, start: int, stop: int) -> str:
        """Write down that chunks ``start`` to ``stop`` are about to be submitted; returns the name to submit under."""
        # a name is never used twice: Slurm may still take what was believed to be refused
        name = f"nh-{launch.token}-{launch.intents}-{start}"
        launch.intents += 1
        self._append("intent", token=launch.token, name=name, start=start, stop=stop)
        return name

    def accepted(self, name: str, job_id: str) -> None:
        """Slurm has the array."""
        self._append("accepted", name=name, job=job_id)

    def refused(self, name: str, why: str) -> None:
        """Slurm has not got the array."""
        self._append("refused", name=name, message=why)

    def close(self, launches: Sequence[Launch]) -> None:
        """What is left of ``launches`` will not be submitted by anybody any more."""
        for launch in launches:
            self._append("closed", token=launch.token)

    def cancelled(self, token: str, chunks: Sequence[int]) -> None:
        """The user has stopped these chunks of the launch called ``token``."""
        self._append("cancelled", token=token, chunks=list(chunks))

    def launches(self) -> list[Launch]:
        """Every launch with its waves, oldest first; refused waves are left out."""
        found: dict[str, Launch] = {}
        waves: dict[str, tuple[str, int, int]] = {}
        jobs: dict[str, str | None] = {}
        for row in read_journal(self.path).rows:
            match row.get("event"):
                case "launch":
                    found[row["token"]] = Launch(
                        row["token"],
                        Resources.model_validate(row["resources"]),
                        Profile.model_validate(row["profile"]),
                        row["code"],
                        row["version"],
                        row["chunks"],
                        row.get("time", ""),
                        row.get("command", []),
                        row.get("analysis", {}),
                    )
                case "intent":
                    found[row["token"]].intents += 1
                    waves[row["name"]] = (row["token"], row["start"], row["stop"])
                    jobs[row["name"]] = None
                case "accepted":
                    jobs[row["name"]] = row["job"]
                case "refused":
                    waves.pop(row["name"], None)
                case "closed":
                    found[row["token"]].closed = True
                case "cancelled":
                    found[row["token"]].cancelled |= set(row["chunks"])
        for name, (token, start, stop) in waves.items():
            found[token].waves.append(Wave(name, start, stop, jobs[name]))
        return list(found.values())

    def launch(self, token: str) -> Launch:
        """The launch called ``token``."""
        return next(launch for launch in self.launches() if launch.token == token)

    def is_refused(self, name: str) -> bool:
        """Whether the wave called ``name`` was given up: its runs were, or will be, submitted under another name."""
        return any(row.get("event") == "refused" and row.get("name") == name for row in read_journal(self.path).rows)

    def trouble(self, message: str, **details: Any) -> None:
        """What went wrong with a task and has no record to stand in."""
        self._append("trouble", message=message, **details)

    def _append(self, kind: str, **details: Any) -> None:
        with Journal(self.path) as journal:
            journal.append({"time": timestamp(), "event": kind, **details})
