"""``normhpc sweep``: which of showing, making folders, putting aside and launching its options ask for."""

from dataclasses import dataclass
from pathlib import Path

from normhpc.errors import InputError
from normhpc.launch import command
from normhpc.launch.operate import prune
from normhpc.launch.slurm.states import Queue
from normhpc.sweep import Sweep
from normhpc.sweep.plan import make_plan
from normhpc.terminal import new_console


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command, by their names."""

    runs: Path
    partition: str | None
    profile: str | None
    local: bool
    slots: int | None
    dry_run: bool
    smoke: bool
    limit: int | None
    retry_failed: bool
    prune: bool
    max_gpu_hours: float | None
    follow: bool
    as_json: bool

    def check(self) -> None:
        """Raise :class:`InputError` for options that exclude one another."""
        if self.smoke and not self.dry_run:
            raise InputError("--smoke belongs to --dry-run; give both")
        if self.local and (self.partition or self.profile):
            raise InputError(
                "--local runs on this machine, --partition and --profile on a cluster; give one of the two"
            )


def bring_about(sweep: Sweep, options: Options) -> int:
    """Show, or bring into being, what ``sweep`` declares and ``options`` leave of it. Returns the exit code."""
    queued = Queue().runs_of(options.runs / sweep.name)
    plan = make_plan(sweep, options.runs, retry_failed=options.retry_failed, limit=options.limit, queued=queued)
    told = new_console(stderr=True)
    place = (options.partition, options.profile, told)
    if options.dry_run:
        if options.partition or options.profile:
            from normhpc.launch.slurm.command import tell_request

            tell_request(plan, *place)
        return command.show_plan(plan, new_console(), as_json=options.as_json, smoke=options.smoke)
    if options.limit == 0:
        command.make_folders(plan, told, as_json=options.as_json)
        return 0
    command.check_budget(plan, options.max_gpu_hours)
    if options.prune:
        prune(plan, told)
    if options.local:
        return command.launch_locally(plan, options.slots, told, as_json=options.as_json)
    from normhpc.launch.slurm.command import submit

    return submit(plan, *place, stay=options.follow, as_json=options.as_json)
