"""What this machine has for training and launching. Asks the tools themselves; loads no torch."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from normhpc import __version__
from normhpc.launch.slots import available_cores

Level = Literal["ok", "note", "missing"]

_PACKAGES = (
    "torch",
    "torchvision",
    "submitit",
    "pyyaml",
    "h5py",
    "pandas",
    "rich",
    "pydantic",
    "scikit-learn",
    "pyarrow",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked for, what is there, and what to do where it is missing."""

    what: str
    level: Level
    found: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def examine(runs: Path) -> list[Finding]:
    """Python, packages, processor, GPUs, Slurm, and the file system that holds ``runs``."""
    return [
        Finding("normhpc", "ok", __version__),
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *(_package(name) for name in _PACKAGES),
        Finding("processor", "ok", f"{available_cores()} cores, {_memory_gb():.0f} GiB of memory"),
        _gpus(),
        _nccl(),
        *_slurm(),
        _limit("open files"),
        _records(runs),
    ]


def show_findings(findings: list[Finding], console: Console) -> None:
    """Print the findings as a table."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings:
        told = finding.found + (f"; {finding.advice}" if finding.advice else "")
        table.add_row(finding.what, Text(finding.level, style=colours[finding.level]), told)
    console.print(table)


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", "run: make setup")


def _gpus() -> Finding:
    listed = _ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    if listed is None:
        return Finding("GPU", "note", "none (no working nvidia-smi)", "runs train on the processor here")
    return Finding("GPU", "ok", "; ".join(listed.splitlines()))


def _nccl() -> Finding:
    found = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12")
        if importlib.util.find_spec("nvidia") and _installed(name)
    ]
    return Finding(
        "NCCL", "ok" if found else "note", ", ".join(found) or "none", "" if found else "needed on GPUs only"
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _slurm() -> list[Finding]:
    if shutil.which("sbatch") is None:
        return [Finding("Slurm", "note", "no sbatch on PATH", "use normhpc sweep --local here")]
    version = _ask("sbatch", "--version") or "sbatch does not answer"
    config = _ask("scontrol", "show", "config")
    if config is None:
        return [Finding("Slurm", "note", f"{version}, but no controller answers", "ask: scontrol ping")]
    wanted = ("ClusterName", "MaxArraySize", "MaxJobCount", "PreemptMode", "AccountingStorageType")
    limits = [line.split("=", 1) for line in config.splitlines() if "=" in line]
    shown = [f"{key.strip()} {value.strip()}" for key, value in limits if key.strip() in wanted]
    partitions = _ask("sinfo", "--noheader", "--format=%P %l %D nodes %G") or "none"
    return [
        Finding("Slurm", "ok", f"{version}; {', '.join(shown)}"),
        Finding("Slurm partitions", "ok", "; ".join(partitions.splitlines())),
    ]


def _limit(what: str) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    level: Level = "ok" if soft >= 1024 else "note"
    return Finding(what, level, f"{soft} (at most {hard})", "" if soft >= 1024 else "raise with: ulimit -n 1024")


def _records(runs: Path) -> Finding:
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    free_gb = shutil.disk_usage(place).free / 2**30
    kind = _ask("stat", "--file-system", "--format=%T", str(place)) or "unknown file system"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding("records", "missing", f"{runs}: cannot be written ({error.strerror})", "choose --runs DIR")
    level: Level = "ok" if free_gb >= 1 else "note"
    return Finding("records", level, f"{runs} on {kind.strip()}, {free_gb:.0f} GiB free")


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
