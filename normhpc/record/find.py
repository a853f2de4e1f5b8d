"""From what a user types to the run that is meant."""

from pathlib import Path

from normhpc.errors import InputError
from normhpc.record.folder import RunFolder


def find_run(name: str, runs: Path, what: str = "run") -> RunFolder:
    """The run in folder ``name``, or whose id starts with ``name`` below ``runs``. ``what`` is what was looked for.

    Raises :class:`InputError` when there is none, or more than one.
    """
    given = Path(name)
    if (given / "run.json").is_file():
        return RunFolder(given)
    found = sorted(path.parent for path in runs.glob(f"*/{name}*/run.json")) if _is_id(name) else []
    if len(found) == 1:
        return RunFolder(found[0])
    if not found:
        raise InputError(
            f"{name or repr(name)}: no such {what} in {runs}/; give its folder or the start of its id "
            "(normhpc collect --per-run)"
        )
    shown = ", ".join(str(path) for path in found[:5]) + (", ..." if len(found) > 5 else "")
    raise InputError(f"{name}: could be {len(found)} runs: {shown}; give more of the id, or the folder")


def _is_id(name: str) -> bool:
    return 0 < len(name) <= 16 and all(letter in "0123456789abcdef" for letter in name)
