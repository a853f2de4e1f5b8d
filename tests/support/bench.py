"""A launcher with fake ranks, its slots and what it told."""

from pathlib import Path

from support.fake_cli import fake_command

from normhpc.config import Resources
from normhpc.launch.local import LocalLauncher, Patience, Watcher
from normhpc.launch.ranks import ActiveRun, Job
from normhpc.launch.slots import Slot
from normhpc.record import RunFolder, State


class Notes(Watcher):
    """Remembers all it is told; checks that no slot is held twice."""

    def __init__(self) -> None:
        self.started_runs: list[tuple[str, list[int]]] = []
        self.ended_runs: list[tuple[str, State]] = []
        self.lines: list[str] = []
        self.busiest = 0

    def started(self, run: ActiveRun) -> None:
        self.started_runs.append((run.job.folder.path.name, [slot.number for slot in run.slots]))

    def ended(self, run: ActiveRun, state: State) -> None:
        self.ended_runs.append((run.job.folder.path.name, state))

    def told(self, line: str) -> None:
        self.lines.append(line)

    def tick(self, active: list[ActiveRun], waiting: int) -> None:
        processes = {id(run.ranks): run for run in active}.values()
        held = [slot.number for run in processes for slot in run.slots]
        assert len(held) == len(set(held))
        self.busiest = max(self.busiest, len(held))


class Bench:
    """Runs on fake slots, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = Notes()

    def job(self, name: str, ranks: int = 1, cell: str | None = None, **resources: int) -> Job:
        folder = RunFolder(self.folder / name)
        needs = Resources.model_validate({"gpus_per_node": ranks} | resources)
        return Job(folder, name, needs, lambda: folder.path.mkdir(parents=True, exist_ok=True), cell=cell)

    def launch(self, slots: list[Slot], *jobs: Job, patience: Patience | None = None) -> bool:
        return LocalLauncher(slots, self.notes, command=fake_command, patience=patience).run(jobs)

    def run(self, name: str) -> Path:
        return self.folder / name


def cores(count: int) -> list[Slot]:
    return [Slot(number) for number in range(count)]
