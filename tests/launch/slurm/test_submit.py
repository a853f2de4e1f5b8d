"""Submitting: the whole batch script, the clean environment, waves, refusals."""

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.fake_slurm import FakeSlurm
from support.submittable import runs

from normhpc.config import Resources
from normhpc.launch.operate import cancel
from normhpc.launch.profile import Profile
from normhpc.launch.slurm import submit
from normhpc.launch.slurm.cluster import Cluster, SlurmError
from normhpc.launch.slurm.command import submit_runs
from normhpc.launch.slurm.journal import Launch, SubmissionJournal
from normhpc.launch.slurm.submit import (
    ArrayExecutor,
    after_lines,
    clean_environment,
    job_minutes,
    sbatch_parameters,
    submit_what_fits,
    take_over,
    task_command,
    warning_seconds,
)
from normhpc.launch.targets import Target
from normhpc.record import RunFolder

START = (
    "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2]); "
    "from normhpc.launch.slurm.task import start; start()"
)


def script(resources: dict[str, Any], profile: dict[str, Any], count: int = 12) -> str:
    launch = Launch("ab12", Resources.model_validate(resources), Profile.model_validate(profile), "/code", {}, [["a"]])
    sweep, jobs = Path("/s"), Path("/s/.slurm/jobs")
    executor = ArrayExecutor(jobs)
    executor.update_parameters(**sbatch_parameters(launch, "nh-ab12-0-0", jobs), teardown=after_lines(sweep, "ab12", 0))
    executor.parameters["map_count"] = count
    return executor._make_submission_file_text(shlex.join(task_command(sweep, "ab12", 0)), "")


def expected(flags: str, setup: str = "") -> str:
    return f"""#!/bin/bash

# Parameters
{flags}
# setup
trap : USR2
{setup}export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /s/.slurm/jobs/%A_%a_%t_log.out --kill-on-bad-exit=1 --output=/s/.slurm/jobs/%A.out \
bash -c 'trap "" USR2; exec "$@"' task {sys.executable} -u -c '{START}' /s ab12 0


# teardown
code=$?
[ $code -eq 0 ] || {sys.executable} -u -m normhpc.launch.slurm.task --after /s ab12 0
exit $code"""


def test_plain_script(slurm: FakeSlurm) -> None:
    flags = """#SBATCH --array=0-11%12
#SBATCH --cpus-per-task=1
#SBATCH --gres=gpu:1
#SBATCH --job-name=nh-ab12-0-0
#SBATCH --mem=4096M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/s/.slurm/jobs/%A.out
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=60
"""
    assert script({}, {}) == expected(flags)


@pytest.mark.parametrize(
    ("gpus", "flag"),
    [
        ("gres", "--gres=gpu:a100:2"),
        ("gpus-per-node", "--gpus-per-node=a100:2"),
        ("gpus-per-task", "--gpus-per-task=a100:1"),
        ("none", None),
    ],
)
def test_script_with_everything(slurm: FakeSlurm, gpus: str, flag: str | None) -> None:
    profile = {
        "partition": "gpu",
        "account": "me",
        "qos": "long",
        "constraint": "ib",
        "gpus": gpus,
        "gpu_type": "a100",
        "cpus_per_gpu": 3,
        "memory": False,
        "max_parallel": 7,
        "signal_seconds": 30,
        "setup": ["module load cuda"],
        "sbatch": {"exclusive": True, "comment": "two words", "nice": False},
    }
    wanted = [
        "--account=me",
        "--array=0-11%7",
        "--comment='two words'",
        "--constraint=ib",
        "--cpus-per-task=3",
        "--exclusive",
        flag,
        "--job-name=nh-ab12-0-0",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--open-mode=append",
        "--output=/s/.slurm/jobs/%A.out",
        "--partition=gpu",
        "--qos=long",
        "--requeue",
        "--signal=USR2@30",
        "--time=10",
    ]
    flags = "".join(f"#SBATCH {line}\n" for line in wanted if line)
    resources = {"nodes": 2, "gpus_per_node": 2, "minutes": 10}
    assert script(resources, profile) == expected(flags, "module load cuda\n")


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 15), (4, 60), (12, 180), (600, 180)])
def test_warning_leaves_most_of_a_short_limit(minutes: int, seconds: int) -> None:
    assert warning_seconds(Profile(), minutes) == seconds


@pytest.mark.parametrize(
    ("resources", "chunk", "minutes"),
    [
        ({"minutes": 5}, 1, 5),
        ({"minutes": 5, "runs_per_job": 4}, 4, 20),
        ({"minutes": 5, "runs_per_job": 4}, 3, 15),
        ({"minutes": 5, "runs_per_job": 4, "runs_per_gpu": 2}, 4, 10),
        ({"minutes": 5, "runs_per_job": 4, "runs_per_gpu": 2, "nodes": 2}, 4, 20),
        ({"minutes": 5, "runs_per_job": 100}, 100, 30),
    ],
)
def test_limit_of_a_packed_job(slurm: FakeSlurm, resources: dict[str, int], chunk: int, minutes: int) -> None:
    slurm.answer("sinfo", "cpu*|30:00|9|128|1000000|(null)\n")
    launch = Launch("t", Resources.model_validate(resources), Profile(), "", {}, [["a"] * chunk])
    assert job_minutes(launch, Cluster()) == minutes


def test_environment_of_a_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    leaking = ["SLURM_JOB_ID", "SBATCH_ACCOUNT", "SRUN_CPUS_PER_TASK", "MASTER_PORT", "RANK", "WORLD_SIZE"]
    leaking += [
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "NORMHPC_RENDEZVOUS",
        "TORCHELASTIC_RUN_ID",
        "SUBMITIT_EXECUTOR",
    ]
    for name in leaking:
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("PYTHONPATH", "/checkout")
    profile = Profile(environment={"NCCL_DEBUG": "INFO"}, network_interface="ib0")
    before = dict(os.environ)
    with clean_environment(Launch("t", Resources(), profile, "/code", {}, [])):
        inside = dict(os.environ)
    assert dict(os.environ) == before
    own = {"PYTHONPATH": "/code", "PYTHONSAFEPATH": "1", "NCCL_DEBUG": "INFO"}
    own |= {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0"}
    assert inside == {name: value for name, value in before.items() if name not in leaking} | own


# ---- waves ----------------------------------------------------------------------------------------------------------

LIMIT = "sbatch: error: AssocGrpSubmitJobsLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy\n"


@pytest.fixture
def sweep(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(submit, "_SETTLE_SECONDS", 0)
    slurm.answer("scontrol", "MaxArraySize = 11\nMaxJobCount = 1000\n")
    slurm.answer("sbatch", "Submitted batch job 7\n")
    slurm.answer("sacctmgr")
    slurm.answer("squeue")
    slurm.answer("sacct")
    return tmp_path / "s"


def declared(sweep: Path, count: int) -> SubmissionJournal:
    journal = SubmissionJournal(sweep)
    journal.folder.mkdir(parents=True, exist_ok=True)
    journal.declare(runs(count), Profile(), "", {})
    return journal


def waves(journal: SubmissionJournal) -> list[tuple[int, int, str | None]]:
    return [(wave.start, wave.stop, wave.job_id) for launch in journal.launches() for wave in launch.waves]


def test_arrays_no_larger_than_slurm_takes(sweep: Path, slurm: FakeSlurm) -> None:
    journal = declared(sweep, 25)
    assert submit_what_fits(SubmissionJournal(sweep)) == 25
    assert waves(journal) == [(0, 10, "7"), (10, 20, "7"), (20, 25, "7")]
    assert submit_what_fits(SubmissionJournal(sweep)) == 0
    assert len(slurm.calls("sbatch")) == 3


def test_no_more_than_there_is_room_for(sweep: Path, slurm: FakeSlurm) -> None:
    journal = declared(sweep, 25)
    slurm.answer("sacctmgr", "7|normal\n", "assoc")
    assert submit_what_fits(SubmissionJournal(sweep)) == 7
    assert waves(journal) == [(0, 7, "7")]
    name = journal.launches()[0].waves[0].name
    # one of seven has ended: not worth a call while others wait
    slurm.answer("squeue", f"7|1|RUNNING|None|{name}\n" + f"7|2|PENDING|None|{name}\n" * 5, "--user")
    assert submit_what_fits(SubmissionJournal(sweep)) == 0
    slurm.answer("squeue", f"7|1|RUNNING|None|{name}\n" + f"7|2|PENDING|None|{name}\n" * 3, "--user")
    assert submit_what_fits(SubmissionJournal(sweep)) == 3
    slurm.answer("squeue", f"7|1|RUNNING|None|{name}\n" * 6, "--user")
    assert submit_what_fits(SubmissionJournal(sweep)) == 1
    assert waves(journal) == [(0, 7, "7"), (7, 10, "7"), (10, 11, "7")]


@pytest.mark.parametrize(
    "refusal", [LIMIT, "sbatch: error: Batch job submission failed: Resource temporarily unavailable\n"]
)
def test_unknown_limit_is_found_by_halving(sweep: Path, slurm: FakeSlurm, refusal: str) -> None:
    journal = declared(sweep, 10)
    slurm.answer("sbatch", err=refusal, code=1)
    assert submit_what_fits(SubmissionJournal(sweep)) == 0
    assert len(slurm.calls("sbatch")) == 4  # 10, 5, 2, 1
    slurm.answer("sbatch", "Submitted batch job 8\n")
    assert submit_what_fits(SubmissionJournal(sweep)) == 10
    assert waves(journal) == [(0, 10, "8")]


def test_refusal_is_told_in_slurms_words(sweep: Path, slurm: FakeSlurm) -> None:
    journal = declared(sweep, 2)
    slurm.answer("sbatch", err="sbatch: error: Batch job submission failed: Invalid qos specification\n", code=1)
    with pytest.raises(SlurmError, match=r"^sbatch refused 2 jobs: .*Invalid qos specification$"):
        submit_what_fits(SubmissionJournal(sweep))
    assert waves(journal) == []


@pytest.mark.parametrize("where", ["squeue", "sacct", "nowhere"])
def test_answer_that_never_came(sweep: Path, slurm: FakeSlurm, where: str) -> None:
    journal = declared(sweep, 2)
    [launch] = journal.launches()
    name = journal.intend(launch, 0, 2)  # killed after this line
    if where == "squeue":
        slurm.answer("squeue", f"55|0|COMPLETED|None|{name}\n", "--states=all")
    if where == "sacct":
        slurm.answer("sacct", "56_0\n56_1\n")
    assert submit_what_fits(SubmissionJournal(sweep)) == (2 if where == "nowhere" else 0)
    assert waves(journal) == [(0, 2, {"squeue": "55", "sacct": "56", "nowhere": "7"}[where])]
    assert journal.is_refused(name) == (where == "nowhere")


def test_controller_that_does_not_answer_settles_nothing(sweep: Path, slurm: FakeSlurm) -> None:
    journal = declared(sweep, 2)
    name = journal.intend(journal.launches()[0], 0, 2)
    slurm.answer("squeue", err="slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    with pytest.raises(SlurmError, match="Unable to contact"):
        submit_what_fits(SubmissionJournal(sweep))
    assert not journal.is_refused(name)
    assert waves(journal) == [(0, 2, None)]


def test_later_launch_leaves_what_a_living_one_still_submits(sweep: Path, slurm: FakeSlurm) -> None:
    journal = declared(sweep, 5)
    [living] = journal.launches()
    name = journal.intend(living, 0, 2)
    journal.accepted(name, "9")
    slurm.answer("squeue", f"9|0|RUNNING|None|{name}\n")
    # planned before the other call submitted: 4 is waiting in the launch, 6 is new
    wanted = [run for run in runs(7) if run.run_id[-1] in "46"]
    assert [run.run_id[-1] for run in take_over(journal, wanted, Cluster())] == ["6"]
    assert not journal.launches()[0].closed
    # nobody is left to submit it
    slurm.answer("squeue")
    assert [run.run_id[-1] for run in take_over(journal, wanted, Cluster())] == ["4", "6"]
    assert journal.launches()[0].closed


def test_call_planned_before_another_submitted_submits_nothing_twice(
    sweep: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.answer("sinfo", "gpu*|1-00:00:00|2|4|8000|gpu:2\n")
    planned = runs(3)
    console = Console(width=200)
    assert submit_runs(sweep, planned, Profile(), Cluster(), console) == 3
    [wave] = SubmissionJournal(sweep).launches()[0].waves
    slurm.answer("squeue", "".join(f"7|{task}|PENDING|None|{wave.name}\n" for task in range(3)))
    capsys.readouterr()
    assert submit_runs(sweep, planned, Profile(), Cluster(), console) == 0
    assert capsys.readouterr().out == "s: nothing to submit, another call has just done so\n"
    assert submit_runs(sweep, runs(5), Profile(), Cluster(), console) == 2
    assert len(slurm.calls("sbatch")) == 2


def test_cancel_names_tasks_that_slurm_has(sweep: Path, slurm: FakeSlurm) -> None:
    """Of earlier launches of the same runs Slurm knows nothing any more, and would refuse the call for them."""
    slurm.answer("scancel", "")
    journal = declared(sweep, 3)
    submit_what_fits(journal)
    journal.declare(runs(3), Profile(), "", {})
    slurm.answer("sbatch", "Submitted batch job 8\n")
    submit_what_fits(journal)
    name = journal.launches()[1].waves[0].name
    slurm.answer("squeue", f"8|0|RUNNING|None|{name}\n8|2|PENDING|None|{name}\n", "--user")
    told = io.StringIO()
    one = Target(sweep, [RunFolder(sweep / runs(3)[2].run_id)], whole=False)
    assert cancel(one, Console(file=told)) == 1
    assert slurm.calls("scancel") == [["8_2"]]
    assert not journal.launches()[1].closed
    assert cancel(Target(sweep, [], whole=True), Console(file=told)) == 2
    assert slurm.calls("scancel")[1:] == [["8_0", "8_2"]]
    assert [launch.closed for launch in journal.launches()] == [True, True]
    assert told.getvalue() == "s: 1 run cancelled\ns: 2 runs cancelled\n"


def test_cancel_finds_what_was_submitted_while_it_waited(
    sweep: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that ends holds the journal for as long as it submits the next wave."""
    slurm.answer("scancel", "")
    journal = declared(sweep, 3)
    name = journal.intend(journal.launches()[0], 0, 1)
    journal.accepted(name, "7")
    slurm.answer("squeue", f"7|0|RUNNING|None|{name}\n", "--user")
    real = SubmissionJournal.held

    @contextlib.contextmanager
    def held(self: SubmissionJournal) -> Iterator[None]:
        more = self.intend(self.launches()[0], 1, 3)
        self.accepted(more, "8")
        slurm.answer("squeue", f"8|0|PENDING|None|{more}\n8|1|PENDING|None|{more}\n", "--user")
        with real(self):
            yield

    monkeypatch.setattr(SubmissionJournal, "held", held)
    told = io.StringIO()
    assert cancel(Target(sweep, [], whole=True), Console(file=told)) == 3
    assert slurm.calls("scancel") == [["8_0", "8_1"]]
    assert told.getvalue() == "s: 3 runs cancelled\n"
