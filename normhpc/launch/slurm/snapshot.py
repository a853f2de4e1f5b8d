"""The code of a sweep as it was when the sweep was submitted: editing the checkout never changes queued runs."""

import hashlib
import shutil
from pathlib import Path

import normhpc

_SHIPPED = (".py", ".typed")


def snapshot_code(folder: Path) -> Path:
    """Copy the package into ``folder``/code/<hash of its content>, once; returns the folder to import it from."""
    package = Path(normhpc.__file__).resolve().parent
    files = sorted(path for path in package.rglob("*") if path.suffix in _SHIPPED and path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    target = folder / "code" / digest.hexdigest()[:16]
    if not target.exists():
        unfinished = target.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        for path in files:
            copy = unfinished / "normhpc" / path.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        unfinished.rename(target)
    return target.absolute()
