"""When a run saves itself."""

from normhpc.config.base import Part, PositiveFloat, PositiveInt, outside_identity


class Checkpoint(Part):
    """When the run saves itself. Never changes a result, so it is not part of the run id."""

    every_epochs: PositiveInt | None = outside_identity(1)
    """Save after every so many epochs; the last epoch is always saved. Null for never."""
    every_steps: PositiveInt | None = outside_identity(None)
    """Save after every so many optimizer steps, also in the middle of an epoch."""
    every_minutes: PositiveFloat | None = outside_identity(10.0)
    """Save when so many minutes have passed since the last save, also in the middle of an epoch."""
    keep_best: bool = outside_identity(False)
    """Keep ``best.pt``, the weights of the epoch with the best ``val`` top1 (map_macro for several labels) so far."""
