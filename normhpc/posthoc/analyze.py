"""Analyses of trained runs by name: which there are, on which runs, and what is kept already.

Torch is loaded last: what is wrong with a name or a folder is told before.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from normhpc.errors import InputError, NormhpcError, Problem, did_you_mean
from normhpc.posthoc.kept import Finding, WeightsFile, is_kept, keep, result_file, weights_digest
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


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for of each run. Plain values: a job on a cluster gets it as JSON."""

    what: Sequence[str]
    """Out of :data:`ANALYSES`, in the order in which they are done."""
    images: int | None = None
    """Of a sample; None for what each analysis takes by itself."""
    device: str | None = None
    """``cpu``, ``cuda`` or ``cuda:NUMBER``; None for a GPU where there is one."""
    weights: Weights | None = None
    """None for the best if the run kept them, else the last."""
    since: str | None = None
    """Results from before this time are made once more."""

    def images_of(self, name: str) -> int | None:
        """The number of images as far as it concerns the analysis ``name``."""
        return self.images if name in SAMPLED else None


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


def missing(folder: RunFolder, request: Request) -> list[str]:
    """The analyses asked for of which the run has no result. Loads no torch; reads the weights where results are there.

    Raises :class:`~normhpc.errors.InputError` for a run without weights.
    """
    weights = weights_file(folder, request.weights)
    if not any(result_file(folder, name).is_file() for name in request.what):
        return list(request.what)
    return _missing(folder, request, weights_digest(weights))


def _missing(folder: RunFolder, request: Request, weights: WeightsFile) -> list[str]:
    def there(name: str) -> bool:
        return is_kept(folder, name, weights, request.images_of(name), since=request.since)

    return [name for name in request.what if not there(name)]


def analyze(
    folders: Sequence[RunFolder], request: Request, *, load: "Load", code: Mapping[str, Any], console: Console
) -> int:
    """Compute and keep what is asked for of each run. Returns the exit code: 1 when something could not be computed.

    ``load`` gives the network of a run, ``code`` says which code this is. A result of the same weights and number of
    images is kept as it is. What goes wrong with one run or analysis is told and does not keep others from being done.
    """
    check_device(request.device)
    failed = False
    for folder in folders:
        try:
            done = _analyze_run(folder, request, load, code, console)
        except NormhpcError as error:
            tell(console, folder, error)
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


def _analyze_run(folder: RunFolder, request: Request, load: "Load", code: Mapping[str, Any], console: Console) -> bool:
    """Whether all that is asked for is there now."""
    info = folder.read_run()
    file = weights_digest(weights_file(folder, request.weights))
    wanted = _missing(folder, request, file)
    for name in request.what:
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
    subject = Subject(folder, info, file, load, console, about, request.images, request.device)
    complete = True
    told: set[str] = set()
    for name in wanted:
        began = time.monotonic()
        try:
            finding = _analysis(name)(subject)
            place = keep(folder, name, finding, subject.provenance(request.images_of(name)))
        except (NormhpcError, RuntimeError) as error:
            known = error if isinstance(error, NormhpcError) else _limit(name, error)
            if known is None:
                raise
            if str(known) not in told:  # what is wrong with the weights or the images stops each analysis alike
                tell(console, folder, known)
            told.add(str(known))
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


def tell(console: Console, folder: RunFolder, error: NormhpcError) -> None:
    """Print what is wrong with a run, with its folder."""
    for line in str(error).splitlines():
        told = line if str(folder.path) in line else f"{folder.path}: {line}"
        console.print(f"error: {told}", soft_wrap=True)
