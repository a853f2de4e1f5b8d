"""What one run gets of a cluster or of this machine. Never changes which run it is."""

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from normhpc.config.base import NonNegativeInt, Part, PositiveFloat, PositiveInt


class Resources(Part):
    """Allocation of one run. ``nodes`` x ``gpus_per_node`` is the number of ranks, also where there is no GPU."""

    nodes: PositiveInt = 1
    """Machines."""
    gpus_per_node: NonNegativeInt = 1
    """GPUs, and so ranks, on each machine; 0 asks for no GPU and runs one rank a machine."""
    cpus_per_gpu: PositiveInt = 1
    """Processor cores, and so compute threads, of each rank."""
    mem_gb_per_gpu: PositiveFloat = 4.0
    """Memory of each rank in GiB."""
    minutes: PositiveInt = 60
    """Wall-clock limit of one run. A Slurm job gets it once for each of its runs that follow one another, as far as the
    partition allows; what is cut off goes on in the next job."""
    runs_per_job: PositiveInt = 1
    """Runs that one Slurm job takes one after another."""
    runs_per_gpu: PositiveInt = 1
    """Runs that share one GPU at a time."""
    fuse: bool = False
    """Train runs of one cell, which differ by their seed alone, together in one process, as one run for the place
    that they take; on a processor those with wide maps go one after another in it. Of one rank each."""

    @model_validator(mode="after")
    def _fused_runs_have_one_rank(self) -> "Resources":
        if self.fuse and self.ranks > 1:
            message = f"true goes with runs of one rank, got nodes x gpus_per_node = {self.ranks}; set it to false"
            raise PydanticCustomError("disagreement", "{path}: {message}", {"path": "fuse", "message": message})
        return self

    @property
    def ranks(self) -> int:
        """Training processes of one run."""
        return self.nodes * max(1, self.gpus_per_node)

    @property
    def gpus(self) -> float:
        """GPUs that one run occupies; a share of one when several runs take it together."""
        return self.nodes * self.gpus_per_node / self.runs_per_gpu

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of one run that uses its whole time limit."""
        return self.gpus * self.minutes / 60
