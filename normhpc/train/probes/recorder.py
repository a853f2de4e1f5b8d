"""Brings what the probes measured into the record."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from normhpc.config import RunConfig
from normhpc.config.training import LayerProbes as LayerProbesConfig
from normhpc.record import RunFolder
from normhpc.record.probes import ProbeFile, ProbePlan
from normhpc.train.probes.features import feature_quantiles, kept_features
from normhpc.train.probes.layers import LayerProbes
from normhpc.train.world import World


class ProbeRecorder:
    """One run's probes and their file. There is one on every rank; rank 0 measures layers and writes."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        world: World,
        layers: LayerProbes | None,
        *,
        steps_per_epoch: int,
        images_per_rank: list[int],
    ) -> None:
        probes = config.probes
        self.layers = layers
        self.quantiles = probes.feature_quantiles if isinstance(probes, LayerProbesConfig) else ()
        self._world = world
        self._steps_per_epoch = steps_per_epoch
        self._ends: dict[int, NDArray[np.float64]] = {}
        every_steps = probes.every_steps if isinstance(probes, LayerProbesConfig) else 1
        self._file = ProbeFile(
            folder.probes,
            ProbePlan(config.epochs, steps_per_epoch, every_steps, self.quantiles),
            {
                "run_id": config.run_id,
                "every_steps": every_steps,
                "steps_per_epoch": steps_per_epoch,
                "ranks": world.size,
                "images_per_rank": images_per_rank,
                "micro_batches": config.optim.accumulate,
                "measured": "layers: first micro-batch of rank 0; features: val images of all ranks",
            },
        )

    def go_on_from(self, *, epoch: int, step: int) -> None:
        """Drop from the file what comes after ``step`` finished steps of epoch number ``epoch``, on rank 0.

        Raises :class:`~normhpc.errors.DamagedError` for a file that is damaged or of another run.
        """
        if self._world.leads:
            self._file.rewind(step=epoch * self._steps_per_epoch + step, epoch=epoch)

    @contextmanager
    def end_of_epoch(self, model: nn.Module, epoch: int) -> Iterator[None]:
        """Take the quantiles of the features that pass through ``model`` inside; ``epoch`` is counted from 1."""
        if not self.quantiles:
            yield
            return
        kept: list[Tensor]
        with kept_features(model) as kept:
            yield
        self._ends[epoch] = feature_quantiles(kept, self.quantiles, self._world)

    def write(self, *, before_step: int | None = None) -> None:
        """Write what was measured since the last call, waiting for the device; ``before_step`` drops what came later.

        Raises :class:`OSError` when the disk cannot take it; it is then kept for the next call.
        """
        if not self._world.leads:
            self._ends.clear()
            return
        columns = self.layers.columns if self.layers is not None else ()
        if self.layers is not None and columns:
            steps, images, values = self.layers.settled()
            if len(steps):
                first = self._file.plan.rows_before(int(steps[0]))
                self._file.write_rows(first, columns, values, images)
            self.layers.clear()
        if self.layers is None or columns or self._file.path.exists():
            for epoch in list(self._ends):
                self._file.write_features(epoch, self._ends[epoch], columns)
                del self._ends[epoch]
        if before_step is not None:
            self._file.rewind(step=before_step, epoch=before_step // self._steps_per_epoch)
