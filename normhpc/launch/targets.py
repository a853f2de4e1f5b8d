"""Which runs ``status``, ``cancel`` and ``retry`` mean: one by its id or folder, or all of a sweep."""

from dataclasses import dataclass
from pathlib import Path

from normhpc.errors import InputError
from normhpc.record import RunFolder, run_folders
from normhpc.record.find import find_run


@dataclass(frozen=True, slots=True)
class Target:
    """Some runs of one sweep. ``whole`` when all of it is meant, also what has no record yet."""

    sweep_folder: Path
    runs: list[RunFolder]
    whole: bool


def find_target(name: str, runs: Path) -> Target:
    """What the user means by ``name``: a run's folder or the start of its id, a sweep's folder, file or name.

    Raises :class:`InputError` when there is no such thing.
    """
    folder = _sweep_folder(name, runs)
    if folder is not None:
        return Target(folder, run_folders(folder), whole=True)
    run = find_run(name, runs, what="run or sweep")
    return Target(run.path.absolute().parent, [run], whole=False)


def records_of(place: Path, runs: Path) -> Path:
    """The folder of records that ``place`` means: itself, or that of the sweep a YAML file declares or a name names."""
    if place.suffix not in (".yaml", ".yml"):
        return runs / place if not place.exists() and (runs / place).is_dir() else place
    from normhpc.sweep import load

    return runs / load(place).name


def _sweep_folder(name: str, runs: Path) -> Path | None:
    if name.endswith((".yaml", ".yml")):
        folder = records_of(Path(name), runs)
        if not folder.is_dir():
            raise InputError(f"{folder}: the sweep has no records; launch it with: normhpc sweep {name}")
        return folder
    for folder in (Path(name), runs / name):
        if folder.is_dir() and not (folder / "run.json").exists() and (_holds_runs(folder)):
            return folder
    return None


def _holds_runs(folder: Path) -> bool:
    return (folder / ".slurm" / "journal.jsonl").exists() or next(folder.glob("*/run.json"), None) is not None
