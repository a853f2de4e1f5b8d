"""The folder of one run: which files it has, and how it comes to be."""

import contextlib
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normhpc.config import SCHEMA_VERSION, Resources, RunConfig
from normhpc.config.problems import validate_run
from normhpc.errors import DamagedError, InputError, Problem
from normhpc.files import read_json, replace_json
from normhpc.record.journal import Journal
from normhpc.record.lock import exclusive_lock, is_locked


@dataclass(frozen=True, slots=True)
class RunInfo:
    """``run.json``: what was asked for. ``swept`` maps the sweep's dotted paths to this run's values."""

    run_id: str
    config: RunConfig
    sweep: str
    swept: Mapping[str, Any]
    resources: Resources
    code: Mapping[str, Any]
    created: str


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run's record. Nothing is read or written by making one."""

    path: Path

    @property
    def run_json(self) -> Path:
        """What the run is; written first."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One line per measurement."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One line per thing that happened; locked by whoever trains the run."""
        return self.path / "events.jsonl"

    @property
    def summary(self) -> Path:
        """The result; written last, its presence seals the run."""
        return self.path / "summary.json"

    @property
    def log(self) -> Path:
        """What the ranks printed."""
        return self.path / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """The newest state to resume from."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The weights of the best epoch on ``val``, when asked for."""
        return self.path / "best.pt"

    @property
    def probes(self) -> Path:
        """What was measured inside the network, when asked for."""
        return self.path / "probes.h5"

    def create(
        self,
        config: RunConfig,
        *,
        sweep: str,
        swept: Mapping[str, Any],
        resources: Resources,
        code: Mapping[str, Any],
    ) -> None:
        """Write ``run.json``, or bring what is not part of the identity up to date when it exists."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {
            "run_id": config.run_id,
            "schema_version": SCHEMA_VERSION,
            "sweep": sweep,
            "swept": dict(swept),
            "config": config.to_json(),
            "resources": resources.model_dump(mode="json"),
            "created": timestamp(),
            "code": dict(code),
        }
        if self.run_json.exists():
            old = self._read_run_json()
            kept = ("created", "code")
            content |= {key: old[key] for key in kept if key in old}
            if old == content:
                return
        replace_json(self.run_json, content)

    def read_run(self) -> RunInfo:
        """``run.json``, validated. Raises :class:`InputError` naming what is missing or wrong."""
        content = self._read_run_json()
        missing = [key for key in ("run_id", "config", "sweep", "swept", "resources") if key not in content]
        if missing:
            raise DamagedError(
                f"{self.run_json}: has no {', '.join(missing)}; delete the folder and launch the sweep again"
            )
        # before the configuration is looked at: another version may have other fields
        if content.get("schema_version") != SCHEMA_VERSION:
            raise DamagedError(
                f"{self.run_json}: written by another version of normhpc (schema {content.get('schema_version')}, "
                f"this version has schema {SCHEMA_VERSION}); launch the sweep again to make a new run"
            )
        config = validate_run(content["config"], file=str(self.run_json))
        if config.run_id != content["run_id"]:
            raise DamagedError(
                f"{self.run_json}: says run {content['run_id']}, but its configuration is that of run {config.run_id}; "
                "delete the folder and launch the sweep again"
            )
        return RunInfo(
            run_id=content["run_id"],
            config=config,
            sweep=content["sweep"],
            swept=content["swept"],
            resources=Resources.model_validate(content["resources"]),
            code=content.get("code", {}),
            created=content.get("created", ""),
        )

    def _read_run_json(self) -> dict[str, Any]:
        try:
            content = read_json(self.run_json)
        except FileNotFoundError:
            raise InputError(
                Problem("not a run: there is no run.json in it; normhpc sweep makes run folders", file=str(self.path))
            ) from None
        except ValueError as error:
            reason = str(error)
        else:
            if isinstance(content, dict):
                return content
            reason = "expected a mapping"
        raise DamagedError(f"{self.run_json}: not JSON ({reason}); delete the folder and launch the sweep again")

    @contextlib.contextmanager
    def held_for_training(self) -> Iterator[None]:
        """Hold the run: two processes never train it at once. Raises :class:`~normhpc.errors.BusyError`."""
        Journal(self.events).close()
        message = f"{self.path}: this run is being trained by another process"
        # a reader that asks whether the lock is held takes it for an instant, hence the wait
        with exclusive_lock(self.events, message, wait_seconds=0.5):
            yield

    def is_held(self) -> bool:
        """Whether a process on this machine (or one that shares its locks) is training the run."""
        return is_locked(self.events)


def run_folders(sweep_folder: Path) -> list[RunFolder]:
    """The run folders directly below ``sweep_folder``, by name."""
    return sorted(
        (RunFolder(entry) for entry in sweep_folder.iterdir() if (entry / "run.json").is_file()),
        key=lambda folder: folder.path.name,
    )


def timestamp() -> str:
    """Now, in UTC with milliseconds, as ISO 8601."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"


def host_name() -> str:
    """The name of this machine as events give it."""
    return platform.node()
