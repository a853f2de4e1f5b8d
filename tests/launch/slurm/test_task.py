"""What an array task does around the training of its runs."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support.fake_cli import fake_command
from support.fake_slurm import FakeSlurm
from support.launches import rows
from support.submittable import CONFIG, SomeRun

from normhpc.config import Resources, RunConfig
from normhpc.launch.profile import Profile
from normhpc.launch.slurm import task
from normhpc.launch.slurm.journal import SubmissionJournal
from normhpc.launch.slurm.task import Chunk, after_failure
from normhpc.record import RunFolder, append_event, read_status


class Run:
    """The one run of the sweep, and the job that has it."""

    def __init__(self, sweep: Path, **resources: int) -> None:
        self.sweep = sweep
        config = RunConfig.model_validate({})
        self.folder = RunFolder(sweep / config.run_id)
        self.journal = SubmissionJournal(sweep)
        self.journal.folder.mkdir(parents=True)
        self.run_id, self.config_json, self.swept = config.run_id, CONFIG, {}
        self.resources = Resources.model_validate(resources)
        self.launch = self.journal.declare([self], Profile(), "", {})
        self.folder.create(config, sweep="s", swept={}, resources=self.resources, code={})

    def tell(self, *kinds: str, **details: Any) -> None:
        for kind in kinds:
            append_event(self.folder, kind, **details)

    @property
    def chunk(self) -> Chunk:
        return Chunk(self.sweep, self.launch.token, 0)

    @property
    def events(self) -> list[str]:
        return [row["event"] for row in rows(self.folder.events)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: FakeSlurm) -> Run:
    for name, value in {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "12"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(task, "_ATTEMPTS", 1)
    slurm.answer("scontrol")
    return Run(tmp_path / "s", minutes=1)


class Told:
    """Signals that came long ago."""

    def __init__(self, *, out_of_time: bool) -> None:
        self.told, self.out_of_time, self.began = True, out_of_time, -1e9


@pytest.mark.parametrize(
    ("job", "kinds", "is_open"),
    [
        ("9_0", [], True),
        ("9_0", ["started"], True),
        ("9_0", ["started", "preempted", "requeued"], True),
        ("9_0", ["started", "cancelled"], True),
        ("9_0", ["started", "failed"], False),
        ("9_0", ["started", "lost"], False),
        ("8_0", ["started", "failed"], True),
        (None, ["started", "lost"], True),
    ],
)
def test_what_a_requeued_job_trains_again(run: Run, job: str | None, kinds: list[str], is_open: bool) -> None:
    run.tell("submitted", **({"job": job} if job else {}))
    run.tell(*kinds)
    assert bool(run.chunk.open_jobs()) is is_open


def test_out_of_time_is_requeued(run: Run, slurm: FakeSlurm) -> None:
    run.tell("submitted", job="9_0")
    run.tell("started", "preempted", epoch=1, step=2)
    assert task._hand_back(run.chunk, Told(out_of_time=True)) == 0
    assert run.events[-1] == "requeued"
    assert slurm.calls("scontrol") == [["requeue", "12"]]


def test_stopped_by_slurm_is_left_to_slurm(run: Run, slurm: FakeSlurm) -> None:
    run.tell("submitted", job="9_0")
    run.tell("started", "preempted", epoch=1, step=2)
    assert task._hand_back(run.chunk, Told(out_of_time=False)) == 0
    assert rows(run.folder.events)[-1]["reason"] == "Slurm stopped the job"
    assert slurm.calls("scontrol") == []


def test_slurm_that_will_not_requeue_is_told(run: Run, slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", err="Requested operation is presently disabled\n", code=1)
    run.tell("submitted", job="9_0")
    run.tell("started")
    assert task._hand_back(run.chunk, Told(out_of_time=True)) == 1
    last = rows(run.folder.events)[-1]
    assert last["event"] == "lost"
    assert "the job could not be requeued" in last["message"]
    assert "presently disabled" in last["message"]


@pytest.mark.parametrize(
    ("steps", "stuck"), [([5, 5, 5], True), ([4, 5, 5], False), ([5, 5], False), ([5, 5, 6], False)]
)
def test_run_that_gets_nowhere_in_its_time_is_not_requeued_for_ever(
    run: Run, slurm: FakeSlurm, steps: list[int], stuck: bool
) -> None:
    for number, step in enumerate(steps):
        if number:
            run.tell("requeued")
        run.tell("submitted", job="9_0")
        run.tell("resumed", epoch=0, step=step)
    task._hand_back(run.chunk, Told(out_of_time=True))
    last = rows(run.folder.events)[-1]
    assert (last["event"] == "failed") is stuck
    if stuck:
        assert last["class"] == "TimeLimit"
        assert "its time limit of 1 min stopped it 3 times at the same step" in last["message"]
        assert slurm.calls("scontrol") == []


def test_job_that_ends_without_a_word_is_told(run: Run, slurm: FakeSlurm) -> None:
    slurm.answer("squeue")
    run.tell("submitted", job="9_0")
    run.journal.accepted(run.journal.intend(run.launch, 0, 1), "9")
    after_failure(run.sweep, run.launch.token, 0)
    assert rows(run.folder.events)[-1]["message"] == (
        f"its job ended without a word; see {run.journal.folder}/jobs/9.out"
    )


def test_requeued_job_that_is_then_killed_stays_requeued(run: Run, slurm: FakeSlurm) -> None:
    run.journal.accepted(run.journal.intend(run.launch, 0, 1), "9")
    run.tell("submitted", job="9_0")
    run.tell("started", "preempted", "requeued")
    after_failure(run.sweep, run.launch.token, 0)
    assert run.events[-1] == "requeued"
    assert run.chunk.open_jobs()


def test_task_of_an_array_that_was_given_up_does_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)}
    name = run.journal.intend(run.launch, 0, 1)
    run.journal.refused(name, "timed out")
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    try:
        assert task.main(run.sweep, run.launch.token, 0) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "believed to be refused" in capsys.readouterr().out
    assert run.events == []


def test_seeds_of_a_cell_in_one_job_are_one_process(
    tmp_path: Path, quiet_environment: Path, monkeypatch: pytest.MonkeyPatch, slurm: FakeSlurm
) -> None:
    for name, value in {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "12"}.items():
        monkeypatch.setenv(name, value)
    journal = SubmissionJournal(tmp_path / "s")
    journal.folder.mkdir(parents=True)
    resources = Resources(runs_per_job=4, fuse=True)
    cells = [{"norm": "batch", "seed": 0}, {"norm": "batch", "seed": 1}, {"norm": "none"}, {"norm": "batch", "seed": 2}]
    configs = [RunConfig.model_validate(cell) for cell in cells]
    runs = [SomeRun(config.run_id, resources, json.dumps(config.to_json())) for config in configs]
    launch = journal.declare(runs, Profile(), "", {}, fake_command(RunFolder(tmp_path))[:2])

    class Silent:
        told = False

    assert task._train_packed(Chunk(tmp_path / "s", launch.token, 0), Silent()) is True
    processes: dict[int, list[str]] = {}
    for row in rows(quiet_environment):
        if row["what"] == "start":
            processes.setdefault(row["pid"], []).append(row["run"])
    ids = [run.run_id for run in runs]
    assert list(processes.values()) == [[ids[0], ids[1], ids[3]], [ids[2]]]
    assert [read_status(RunFolder(tmp_path / "s" / run_id)).state for run_id in ids] == ["finished"] * 4
