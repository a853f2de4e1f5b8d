"""``probes.h5``: what was measured inside the network, one row a measured step.

All its rows are reserved when it is made. Afterwards only numbers are written, at fixed offsets, and behind them the
count of the rows that hold. Nothing of HDF5's own structure changes any more, so that a process killed at any moment
leaves a file that can be read, and a long run never copies what it has written.

``layers/values`` (rows, columns) fp32, with ``layers/{layer,kind,measure}`` for its columns, ``layers/{epoch,step,
images}`` for its rows; ``features/values`` (epochs, quantiles) fp64, with ``features/{quantile,epoch,step}``. Of both
the first ``written`` rows hold, the others mean nothing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normhpc.errors import DamagedError
from normhpc.files import replace_file

if TYPE_CHECKING:
    import h5py  # otherwise where a file is opened: runs without probes need not load it

FORMAT = "normhpc-probes"
FORMAT_VERSION = 1


class Column(NamedTuple):
    """One number that is measured again and again."""

    layer: str
    """The layer's place in the network, as in ``named_modules``; a second call in one pass ends with ``:2``."""
    kind: str
    """``conv``, ``norm`` or ``activation``."""
    measure: str
    """One of the names that ``probes.measures`` takes."""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """How many rows a run's file has."""

    epochs: int
    steps_per_epoch: int
    every_steps: int
    quantiles: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        """Measured steps of the whole run."""
        return self.rows_before(self.epochs * self.steps_per_epoch)

    def rows_before(self, step: int) -> int:
        """Measured steps among the first ``step`` of the run."""
        return -(-step // self.every_steps)


@dataclass(frozen=True, slots=True)
class ProbeContent:
    """All that holds in one ``probes.h5``. Epochs and steps are those finished before the measurement."""

    attributes: Mapping[str, Any]
    columns: tuple[Column, ...]
    epoch: NDArray[np.int64]
    step: NDArray[np.int64]
    images: NDArray[np.int32]
    values: NDArray[np.float32]
    """(rows, columns)."""
    quantiles: NDArray[np.float64]
    feature_epoch: NDArray[np.int64]
    feature_step: NDArray[np.int64]
    feature_values: NDArray[np.float64]
    """(epochs, quantiles)."""


@dataclass(frozen=True, slots=True)
class _Layout:
    columns: tuple[Column, ...]
    offsets: Mapping[str, int]
    """Where the numbers of each dataset begin in the file, in bytes."""
    written: Mapping[str, int]
    """Rows that hold in each group."""


class ProbeFile:
    """Writes one run's ``probes.h5``. Nothing is open between two calls."""

    def __init__(self, path: Path, plan: ProbePlan, attributes: Mapping[str, Any]) -> None:
        self.path = path
        self.plan = plan
        self.attributes = attributes
        """What the file says of the run as a whole; ``run_id`` is among it."""

    def rewind(self, *, step: int, epoch: int) -> None:
        """Drop what was measured when more steps, or epochs, were finished than a resumed run has.

        Raises :class:`~normhpc.errors.DamagedError` for a file that is damaged or of another run, :class:`OSError` for
        one that the system does not give.
        """
        if not self.path.exists():
            return
        layout = self._layout()
        for group, rows in (("layers", self.plan.rows_before(step)), ("features", epoch)):
            if layout.written.get(group, 0) > rows:
                self._write(layout.offsets[f"{group}/written"], np.array(rows, "<i8"))

    def write_rows(
        self, first: int, columns: Sequence[Column], values: NDArray[np.float32], images: NDArray[np.int32]
    ) -> None:
        """Write rows ``first`` and following: (rows, columns) ``values`` measured on ``images`` (rows,) images.

        Raises :class:`OSError` when the disk cannot take them, :class:`~normhpc.errors.DamagedError` as :meth:`rewind`.
        """
        if not self.path.exists():
            self._create(columns)
        layout = self._layout()
        if layout.columns != tuple(columns):
            raise _unusable(self.path, "its columns are those of another network")
        offsets = layout.offsets
        self._write(offsets["layers/values"] + first * 4 * len(columns), values.astype("<f4"))
        self._write(offsets["layers/images"] + first * 4, images.astype("<i4"))
        self._write(offsets["layers/written"], np.array(first + len(values), "<i8"))

    def write_features(self, epoch: int, values: NDArray[np.float64], columns: Sequence[Column]) -> None:
        """Write the quantiles at the end of epoch number ``epoch``, counted from 1; ``columns`` as for rows.

        Raises as :meth:`write_rows`.
        """
        if not self.path.exists():
            self._create(columns)
        offsets = self._layout().offsets
        self._write(offsets["features/values"] + (epoch - 1) * 8 * len(values), values.astype("<f8"))
        self._write(offsets["features/written"], np.array(epoch, "<i8"))

    def _create(self, columns: Sequence[Column]) -> None:
        """Reserve all rows; the file appears under its name when it is whole."""
        import h5py

        plan = self.plan
        # made in memory: where HDF5 itself meets a full disk, closing the file fails, or crashes the process
        with h5py.File(self.path.name, "w", driver="core", backing_store=False, libver="earliest") as file:
            file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, **self.attributes})
            if columns:
                layers = file.create_group("layers")
                for number, name in enumerate(Column._fields):
                    layers[name] = np.array([column[number] for column in columns], dtype="S")
                layers["step"] = np.arange(plan.rows, dtype="<i8") * plan.every_steps
                layers["epoch"] = layers["step"][:] // plan.steps_per_epoch
                _reserve(layers, "values", (plan.rows, len(columns)), "<f4", np.nan)
                _reserve(layers, "images", (plan.rows,), "<i4", 0)
                _reserve(layers, "written", (), "<i8", 0)
            if plan.quantiles:
                features = file.create_group("features")
                features["quantile"] = np.array(plan.quantiles, dtype="<f8")
                features["epoch"] = np.arange(1, plan.epochs + 1, dtype="<i8")
                features["step"] = features["epoch"][:] * plan.steps_per_epoch
                _reserve(features, "values", (plan.epochs, len(plan.quantiles)), "<f8", np.nan)
                _reserve(features, "written", (), "<i8", 0)
            file.flush()
            content = file.id.get_file_image()
        replace_file(self.path, lambda file: file.write(content))

    def _layout(self) -> "_Layout":
        with _opened(self.path) as file:
            if file.attrs["run_id"] != self.attributes["run_id"]:
                raise _unusable(self.path, f"belongs to run {file.attrs['run_id']}")
            groups = [group for group in ("layers", "features") if group in file]
            places = [f"{group}/{name}" for group in groups for name in ("values", "images", "written")]
            return _Layout(
                columns=_columns(file),
                offsets={place: file[place].id.get_offset() for place in places if place in file},
                written={group: int(file[group]["written"][()]) for group in groups},
            )

    def _write(self, offset: int, numbers: NDArray[Any]) -> None:
        """Put ``numbers`` at ``offset``, on the disk before this returns."""
        content = numbers.tobytes()
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            while content:
                done = os.pwrite(descriptor, content, offset)
                offset, content = offset + done, content[done:]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_probes(path: Path) -> ProbeContent:
    """The content of ``path``, also while a run is writing it.

    Raises :class:`~normhpc.errors.DamagedError` for a file that is no such thing, :class:`OSError` for one that the
    system does not give.
    """
    with _opened(path) as file:
        layers, features = file.get("layers"), file.get("features")
        rows = int(layers["written"][()]) if layers is not None else 0
        ends = int(features["written"][()]) if features is not None else 0

        def taken(group: "h5py.Group | None", name: str, kind: str, count: int | None) -> NDArray[Any]:
            return np.empty(0, kind) if group is None else group[name][:count]

        columns = _columns(file)
        quantiles = taken(features, "quantile", "f8", None)
        return ProbeContent(
            attributes=dict(file.attrs),
            columns=columns,
            epoch=taken(layers, "epoch", "i8", rows),
            step=taken(layers, "step", "i8", rows),
            images=taken(layers, "images", "i4", rows),
            values=taken(layers, "values", "f4", rows).reshape(rows, len(columns)),
            quantiles=quantiles,
            feature_epoch=taken(features, "epoch", "i8", ends),
            feature_step=taken(features, "step", "i8", ends),
            feature_values=taken(features, "values", "f8", ends).reshape(ends, len(quantiles)),
        )


def _columns(file: "h5py.File") -> tuple[Column, ...]:
    if "layers" not in file:
        return ()
    named = [file["layers"][name][:].astype(str).tolist() for name in Column._fields]
    return tuple(Column(*names) for names in zip(*named, strict=True))


def _opened(path: Path) -> "h5py.File":
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno is not None:
            raise  # the system's: h5py gives no number to damage
        raise _unusable(path, f"not HDF5 ({str(error).splitlines()[0]})") from None
    if (file.attrs.get("format"), file.attrs.get("format_version")) != (FORMAT, FORMAT_VERSION):
        file.close()
        raise _unusable(path, f"not a {FORMAT} file of version {FORMAT_VERSION}")
    return file


def _unusable(path: Path, why: str) -> DamagedError:
    return DamagedError(f"{path}: {why}; delete it, what it held is lost but the run goes on")


def _reserve(group: "h5py.Group", name: str, shape: tuple[int, ...], kind: str, fill: float) -> None:
    """A dataset whose place in the file is fixed from now on, filled."""
    import h5py

    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_value(np.array(fill, kind))
    settings.set_obj_track_times(False)  # equal runs write equal files
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(np.dtype(kind)), space, settings)
