"""Analyses of trained runs by name: which there are, on which runs, and what is kept already.

Torch is loaded last: what is wrong with a name or a folder is told before.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from normhpc.errors import InputError, NormhpcError, Problem, did_you_mean
from normhpc.posthoc.kept import Finding, is_kept, keep, weights_digest
from normhpc.posthoc.predict import Weights, weights_file
from normhpc.record import RunFolder
from normhpc.record.find import find_run
from normhpc.record.folder import timestamp
from normhpc.results.find import find_runs

if TYPE_CHECKING:
    from normhpc.posthoc.subject import Load, Subject

ANALYSES = (
    "predictions",
    "misclassified",
    "confusion",
    "calibration",
    "similarity",
    "saliency",
    "hessian",
    "loss_line",
    "corruption",
)
"""Names for ``--what``, in the order in which they are done."""

SAMPLED = ("misclassified", "saliency", "hessian", "loss_line", "corruption")
"""Analyses that ``--images`` is about."""


def analyses_named(given: str) -> list[str]:
    """The analyses in ``given``, names with commas between them, in the order in which they are done.

    Raises :class:`~normhpc.errors.InputError` naming each that does not exist.
    """
    names = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [
        Problem(
            f"no analysis {name!r}{did_you_mean(name, ANALYSES) or ','} there are {', '.join(ANALYSES)}", path="--what"
        )
        for name in names
        if name not in ANALYSES
    ]
    if unknown or not names:
        raise InputError(unknown or Problem(f"expected names out of {', '.join(ANALYSES)}, got none", path="--what"))
    return [name for name in ANALYSES if name in names]


def runs_named(names: Sequence[str], runs: Path) -> list[RunFolder]:
    """The runs that ``names`` mean, each once: a run by folder or start of its id, or all in a folder of runs.

    Raises :class:`~normhpc.errors.InputError` for a name that means none.
    """
    found: dict[Path, RunFolder] = {}
    for name in names:
        place = next((place for place in (Path(name), runs / name) if place.is_dir()), None)
        folders = find_runs([place]) if place is not None else [find_run(name, runs)]
        for folder in folders:
            found.setdefault(folder.path.absolute(), folder)
    return list(found.values())


def analyze(
    folders: Sequence[RunFolder],
    what: Sequence[str],
    *,
    load: "Load",
    code: Mapping[str, Any],
    console: Console,
    images: int | None = None,
    device: str | None = None,
    weights: Weights | None = None,
    again: bool = False,
) -> int:
    """Compute and keep the analyses ``what`` of each run. Returns the exit code: 1 when one could not be computed.

    ``load`` gives the network of a run, ``code`` says which code this is. A result of the same weights and number of
    ``images`` is kept as it is unless ``again``. What goes wrong with one run or analysis is told and does not
    keep others from being done.
    """
    check_device(device)
    failed = False
    for folder in folders:
        try:
            done = _analyze_run(folder, what, load, code, console, images, device, weights, again)
        except NormhpcError as error:
            _tell(console, folder, error)
            done = False
        failed |= not done
    return 1 if failed else 0


def check_device(device: str | None) -> None:
    """Raise :class:`~normhpc.errors.InputError` unless ``device`` is None, cpu, or a GPU that is there."""
    if device in (None, "cpu"):
        return
    kind, _, number = device.partition(":")
    if kind != "cuda" or (device != "cuda" and not number.isdecimal()):
        raise InputError(Problem(f"expected cpu, cuda or cuda:NUMBER, got {device!r}", path="--device"))
    import torch

    if int(number or 0) >= torch.cuda.device_count():
        text = f"expected one of the {torch.cuda.device_count()} GPUs of this machine, got {device!r}; use --device cpu"
        raise InputError(Problem(text, path="--device"))


def _analyze_run(
    folder: RunFolder,
    what: Sequence[str],
    load: "Load",
    code: Mapping[str, Any],
    console: Console,
    images: int | None,
    device: str | None,
    weights: Weights | None,
    again: bool,
) -> bool:
    """Whether all of ``what`` is there now."""
    info = folder.read_run()
    file = weights_digest(weights_file(folder, weights))
    asked = {name: images if name in SAMPLED else None for name in what}
    wanted = [name for name in what if again or not is_kept(folder, name, file, asked[name])]
    for name in what:
        if name not in wanted:
            console.print(f"{folder.path}: {name}: kept, of the same weights (--again computes it once more)")
    if not wanted:
        return True
    import torch

    from normhpc.posthoc.subject import Subject

    about = {
        "run_id": info.run_id,
        "weights": file.as_json(),
        "code": dict(code),
        "torch": torch.__version__,
        "created": timestamp(),
    }
    subject = Subject(folder, info, file, load, console, about, images, device)
    complete = True
    for name in wanted:
        began = time.monotonic()
        try:
            finding = _analysis(name)(subject)
            place = keep(folder, name, finding, subject.provenance(asked[name]))
        except (NormhpcError, RuntimeError) as error:
            known = error if isinstance(error, NormhpcError) else _limit(name, error)
            if known is None:
                raise
            _tell(console, folder, known)
            complete = False
            continue
        console.print(f"{folder.path}: {name}: {finding.headline} ({time.monotonic() - began:.1f} s): {place.name}")
    return complete


def _analysis(name: str) -> "Callable[[Subject], Finding]":
    """What computes an analysis of :data:`ANALYSES`."""
    from normhpc.posthoc import (
        answers,
        calibration,
        confusion,
        corruption,
        hessian,
        loss_line,
        mistakes,
        saliency,
        similarity,
    )

    analyses = {
        "predictions": answers.analyse,
        "misclassified": mistakes.analyse,
        "confusion": confusion.analyse,
        "calibration": calibration.analyse,
        "similarity": similarity.analyse,
        "saliency": saliency.analyse,
        "hessian": hessian.analyse,
        "loss_line": loss_line.analyse,
        "corruption": corruption.analyse,
    }
    return analyses[name]


def _limit(name: str, error: RuntimeError) -> NormhpcError | None:
    """What to tell when a machine or a network cannot do an analysis; None when it is not known to be that."""
    first = (str(error).splitlines() or [""])[0]
    if "out of memory" in first or "can't allocate memory" in first:
        return NormhpcError(f"{name}: not enough memory ({first}); use fewer --images, or --device cpu")
    if "is not implemented" in first:
        return NormhpcError(f"{name}: torch cannot differentiate this network as often ({first}); leave it out")
    return None


def _tell(console: Console, folder: RunFolder, error: NormhpcError) -> None:
    for line in str(error).splitlines():
        told = line if str(folder.path) in line else f"{folder.path}: {line}"
        console.print(f"error: {told}", soft_wrap=True)
