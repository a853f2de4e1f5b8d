"""``normhpc analyze`` on a cluster: what is submitted, what is not, and what its tasks do."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_slurm import FakeSlurm
from support.launches import fingerprint, normhpc
from support.trainings import TINY, new_run

from normhpc.config import Resources
from normhpc.files import read_json
from normhpc.launch.profile import Profile
from normhpc.launch.slurm import analyses, analysis_task, submit, task
from normhpc.launch.slurm.journal import ANALYSES, SubmissionJournal
from normhpc.launch.slurm.states import Queue
from normhpc.posthoc.analyze import Request, missing
from normhpc.posthoc.kept import Finding, keep, weights_digest
from normhpc.record import RunFolder
from normhpc.train import run

SINFO = "gpu*|2:00:00|2|4|8000|gpu:2\ncpu|infinite|2|4|8000|(null)\n"


@pytest.fixture(autouse=True)
def here(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A cluster without jobs, seen from the folder above ``runs``."""
    monkeypatch.setattr(submit, "_SETTLE_SECONDS", 0)
    monkeypatch.setattr(analyses, "_FOLLOW_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    slurm.answer("sinfo", SINFO)
    slurm.answer("scontrol", "MaxArraySize = 1001\nMaxJobCount = 10000\n")
    slurm.answer("sbatch", "Submitted batch job 7\n")
    slurm.answer("sbatch", "", "--test-only", err="sbatch: Job 8 to start at 2026-01-02T03:04:05 using 1 cpus\n")
    for name in ("sacctmgr", "squeue", "sacct", "scancel"):
        slurm.answer(name)
    return slurm


def trained(name: str, sweep: str = "s", *, weights: bool = True, **resources: float) -> RunFolder:
    """A run that looks trained to those who do not load its weights."""
    Path("runs", sweep).mkdir(parents=True, exist_ok=True)
    folder = new_run(Path("runs", sweep, name), TINY, resources=Resources.model_validate(resources))
    if weights:
        folder.checkpoint.write_bytes(name.encode())
    return folder


def analysed(folder: RunFolder, what: str, created: str = "2026-01-01T00:00:00.000Z") -> None:
    about = {"weights": weights_digest(folder.checkpoint).as_json(), "images_asked": None, "created": created}
    keep(folder, what, Finding("m", {}, {}, {}, "h"), about)


def analyze(*arguments: object) -> tuple[int, list[str]]:
    answer = normhpc("analyze", *arguments)
    assert answer.out == ""
    return answer.code, answer.err.splitlines()


def submitted(slurm: FakeSlurm) -> int:
    return sum("--test-only" not in call for call in slurm.calls("sbatch"))


def journal(sweep: str = "s") -> SubmissionJournal:
    return SubmissionJournal(Path("runs", sweep), ANALYSES)


def queue(slurm: FakeSlurm, state: str = "PENDING") -> None:
    """Let Slurm have all that it was given."""
    waves = [wave for launch in journal().launches() for wave in launch.waves]
    tasks = [(wave, task) for wave in waves for task in range(wave.stop - wave.start)]
    slurm.answer("squeue", "".join(f"7|{task}|{state}|None|{wave.name}\n" for wave, task in tasks), "--user")


# ---- submitting -----------------------------------------------------------------------------------------------------


def test_what_is_missing_goes_into_one_array(here: FakeSlurm, tmp_path: Path) -> None:
    folders = [trained(name) for name in "abcd"]
    analysed(folders[1], "confusion")
    Path("p.yaml").write_text(
        "{partition: gpu, account: me, setup: [module load cuda], environment: {A: b}, sbatch: {comment: x}}"
    )
    options = ("--profile", "./p.yaml", "--set", "resources.runs_per_job=2", "--set", "resources.minutes=30")
    code, told = analyze("runs/s", "--what", "confusion", *options)
    where = tmp_path / "runs" / "s" / ".analyses"
    assert code == 0
    assert told == [f"s: confusion of 3 runs in 2 jobs, 2 submitted; output: {where}/jobs/7.out"]
    [launch] = journal().launches()
    assert launch.chunks == [["a", "c"], ["d"]]
    assert Request(**launch.analysis) == Request(["confusion"])
    script = (where / "jobs" / "7_submission.sh").read_text()
    wanted = [
        *("--account=me", "--array=0-1%2", "--comment=x", "--cpus-per-task=1", "--gres=gpu:1", "--mem=4096M"),
        *("--nodes=1", "--ntasks-per-node=1", f"--output={where}/jobs/%A.out", "--partition=gpu", "--requeue"),
        *("--signal=USR2@180", "--time=60"),  # twice 30 minutes
    ]
    assert [option for option in wanted if f"#SBATCH {option}\n" not in script] == []
    assert "\nmodule load cuda\n" in script
    module = "normhpc.launch.slurm.analysis_task"
    assert f"from {module} import start; start()' {tmp_path}/runs/s {launch.token} 0\n" in script
    after = shlex.join([sys.executable, "-u", "-m", module, "--after", f"{tmp_path}/runs/s", launch.token, "0"])
    assert f"[ $code -eq 0 ] || {after}\n" in script
    assert Path(launch.code).parent == where / "code"
    assert (Path(launch.code) / "normhpc" / "cli.py").is_file()


def test_jobs_have_what_the_hungriest_run_had_unless_told(here: FakeSlurm) -> None:
    trained("a", mem_gb_per_gpu=2, cpus_per_gpu=3)
    trained("b", mem_gb_per_gpu=6, cpus_per_gpu=1, nodes=2, gpus_per_node=2, minutes=5)
    assert analyze("runs", "--what", "confusion", "--partition", "gpu")[0] == 0
    need = Resources(mem_gb_per_gpu=6, cpus_per_gpu=3, minutes=10, runs_per_job=8)
    assert [launch.resources for launch in journal().launches()] == [need]
    analyze(
        "runs", "--what", "hessian", "--partition", "cpu", "--device", "cpu", "--set", "resources.mem_gb_per_gpu=1.5"
    )
    last = journal().launches()[-1]
    assert last.resources == need.model_copy(update={"gpus_per_node": 0, "mem_gb_per_gpu": 1.5})
    assert last.analysis["device"] == "cpu"
    assert last.profile.partition == "cpu"
    analyze("runs", "--what", "similarity", "--partition", "cpu", "--set", "resources.gpus_per_node=0")
    assert journal().launches()[-1].analysis["device"] == "cpu"


def test_queued_ones_are_not_submitted_again(here: FakeSlurm) -> None:
    for name in "ab":
        trained(name)
    asked = ("runs/s", "--partition", "gpu", "--what")
    analyze(*asked, "confusion")
    queue(here)
    nothing = "nothing to submit: 2 runs in jobs already"
    assert analyze(*asked, "confusion") == (0, [nothing])
    assert analyze(*asked, "confusion", "--again") == (0, [nothing])
    assert analyze(*asked, "confusion", "--dry-run") == (0, [nothing])
    assert submitted(here) == 1
    # what was not asked for before, and a run that was not there
    trained("c")
    _, told = analyze(*asked, "confusion,hessian")
    assert [line.partition(";")[0] for line in told] == [
        "s: confusion, hessian of 1 run in 1 job, 1 submitted",
        "s: hessian of 2 runs in 1 job, 1 submitted",
    ]
    # they are gone, and nothing has come of it
    here.answer("squeue", "", "--user")
    analyze(*asked, "confusion")
    assert journal().launches()[-1].chunks == [["a", "b", "c"]]


def test_two_calls_at_once_submit_once(here: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("a")
    real = analyses._submit

    def slow(*arguments: object) -> None:
        real(*arguments)  # by another call, after this one has looked at the queue
        queue(here)
        real(*arguments)

    monkeypatch.setattr(analyses, "_submit", slow)
    _, told = analyze("runs", "--what", "confusion", "--partition", "gpu")
    assert told[1] == "s: nothing to submit, another call has just done so"
    assert submitted(here) == 1


def test_nothing_to_do_asks_slurm_for_nothing(here: FakeSlurm) -> None:
    folder = trained("a")
    analysed(folder, "confusion")
    before = fingerprint(Path("runs"))
    code, told = analyze("runs", "--what", "confusion", "--partition", "gpu")
    assert (code, told) == (0, ["nothing to submit: 1 run with all of it"])
    assert here.calls("sbatch") == []
    assert fingerprint(Path("runs")) == before
    # of other weights, or to be made again
    assert "1 submitted" in analyze("runs", "--what", "confusion", "--partition", "gpu", "--again")[1][0]
    since = journal().launches()[-1].analysis["since"]
    assert missing(folder, Request(["confusion"], since=since)) == ["confusion"]
    analysed(folder, "confusion", created=since)
    assert missing(folder, Request(["confusion"], since=since)) == []
    folder.checkpoint.write_bytes(b"other")
    assert "1 submitted" in analyze("runs", "--what", "confusion", "--partition", "gpu")[1][0]


def test_dry_run_shows_all_and_touches_nothing(here: FakeSlurm, tmp_path: Path) -> None:
    for name in "abc":
        trained(name)
    trained("d", "t")
    before = fingerprint(Path("runs"))
    options = ("--partition", "gpu", "--set", "resources.runs_per_job=2", "--dry-run")
    code, told = analyze("runs", "--what", "confusion,hessian", *options)
    assert code == 0
    assert told[0] == "s: confusion, hessian of 3 runs in 2 jobs, at most 2 runs in each"
    assert told[2] == "t: confusion, hessian of 1 run in 1 job, at most 1 run in each"
    asked = "--mem=4096M --nodes=1 --ntasks-per-node=1 --open-mode=append"
    output = f"--output={tmp_path}/runs/s/.analyses/jobs/%A.out --partition=gpu --requeue --signal=USR2@180 --time=20"
    assert told[1] == (f"  sbatch --array=0-1%2 --cpus-per-task=1 --gres=gpu:1 --job-name=nh-TOKEN {asked} {output}")
    assert told[4:] == [
        "partition gpu: 3 jobs, room for 10,000 now, at most 1,000 in an array; "
        "Slurm would start the first at 2026-01-02T03:04:05"
    ]
    assert submitted(here) == 0
    assert fingerprint(Path("runs")) == before


def test_runs_without_weights_are_told_and_the_others_submitted(here: FakeSlurm) -> None:
    trained("a")
    trained("b", weights=False)
    trained("c")
    (Path("runs/s/c/run.json")).write_text("{")
    code, told = analyze("runs", "--what", "confusion", "--partition", "gpu")
    assert code == 1
    text = "not there, the run is new and has no weights; train it: normhpc train runs/s/b"
    assert told[0] == f"error: runs/s/b/checkpoint.pt: {text}"
    assert told[1].startswith("error: runs/s/c/run.json: ")
    assert told[2].startswith("s: confusion of 1 run in 1 job, 1 submitted")
    trained("d")
    analysed(RunFolder(Path("runs/s/d")), "confusion")
    queue(here)
    code, told = analyze("runs", "--what", "confusion", "--partition", "gpu")
    assert (code, told[2]) == (1, "nothing to submit: 1 run with all of it, 1 run in jobs already, 2 runs unfit")


def test_more_than_slurm_takes_waits(here: FakeSlurm) -> None:
    for name in "abc":
        trained(name)
    here.answer("sacctmgr", "2|normal\n", "assoc")
    one = ("--set", "resources.runs_per_job=1")
    _, told = analyze("runs", "--what", "confusion", "--partition", "gpu", *one)
    waiting = "the other 1 wait for room and are submitted by those that end"
    assert told[0].startswith(f"s: confusion of 3 runs in 3 jobs, 2 submitted; {waiting}; output: ")
    # what a living array is going to submit is not submitted by somebody else
    queue(here)
    assert "3 runs in jobs already" in analyze("runs", "--what", "confusion", "--partition", "gpu", *one)[1][0]


def test_follow_ends_with_the_jobs(here: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [trained(name) for name in "ab"]
    steps = iter(["before", "before", "PENDING", "RUNNING", "RUNNING", "done"])

    def look() -> Queue:
        state = next(steps)
        if state == "done":
            here.answer("squeue", "", "--user")
            analysed(folders[0], "confusion")
        else:
            queue(here, state)
        return Queue()

    monkeypatch.setattr(analyses, "Queue", look)
    code, told = analyze("runs", "--what", "confusion", "--partition", "gpu", "--follow")
    assert [line.partition("  ")[2] for line in told[1:-1]] == ["2 submitted", "2 running", "2 ended"]
    assert told[-1] == "error: runs/s/b: confusion: not there; the output of its job says why"
    assert code == 1


SLIPS = [
    ("--dry-run", "--set, --dry-run and --follow are about jobs on a cluster; give --partition or --profile too"),
    ("--partition frog", "--partition frog: no such partition; there are: gpu, cpu"),
    (
        "--partition gpu --set resources.minutes=999",
        "resources.minutes: 999, but partition gpu allows 120; change it with --set",
    ),
    (
        "--partition cpu",
        "resources.gpus_per_node: 1, but a node of partition cpu has 0; change it with --set",
    ),
    ("--partition gpu --device cuda:1", "--device: expected cpu or cuda where jobs have one GPU each, got 'cuda:1'"),
    ("--partition gpu --set resources.minutes", "expected KEY=VALUE, such as resources.minutes=30"),
    ("--partition gpu --set epochs=3", "--set: unknown key 'epochs', allowed: resources.minutes, "),
    ("--partition gpu --set resources.nodes=2", "--set: unknown key 'resources.nodes', "),
    ("--partition gpu --set resources.minute=2", "'resources.minute', did you mean 'resources.minutes'?"),
    ("--partition gpu --set resources.minutes=x", "--set resources.minutes: expected an integer, got 'x'"),
    (
        "--partition gpu --set resources.gpus_per_node=2",
        "--set resources.gpus_per_node: expected 0 or 1, because an analysis takes one GPU or none, got 2",
    ),
    (
        "--partition gpu --device cpu --set resources.gpus_per_node=1",
        "--set resources.gpus_per_node: expected 0 with --device cpu, got 1",
    ),
    ("--profile ./none.yaml", "none.yaml: cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("options", "text"), SLIPS)
def test_slips_submit_nothing(here: FakeSlurm, options: str, text: str) -> None:
    trained("a")
    before = fingerprint(Path("runs"))
    code, told = analyze("runs", "--what", "confusion", *options.split())
    assert code == 2
    assert text in "\n".join(told)
    assert submitted(here) == 0
    assert fingerprint(Path("runs")) == before


def test_a_folder_that_cannot_be_written_is_told(here: FakeSlurm, tmp_path: Path) -> None:
    trained("a")
    Path("runs/s/.analyses").write_text("in the way")
    code, told = analyze("runs", "--what", "confusion", "--partition", "gpu")
    place = f"{tmp_path}/runs/s/.analyses"
    wanted = "cannot be made (File exists); what is computed goes beside what was trained"
    assert (code, told) == (2, [f"error: {place}: {wanted}"])
    assert submitted(here) == 0


def test_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    trained("a")
    monkeypatch.setenv("PATH", "/nowhere")
    code, [told] = analyze("runs", "--what", "confusion", "--partition", "gpu")
    assert code == 2
    wanted = "launch from a login node of the cluster, or on this machine without --partition and --profile"
    assert told == f"error: no Slurm on this machine: sbatch is not on the PATH; {wanted}"


def test_the_login_node_loads_no_torch(here: FakeSlurm) -> None:
    analysed(trained("a"), "confusion")
    script = (
        "import sys; from normhpc import cli\n"
        "sys.argv = ['normhpc', 'analyze', 'runs', '--what', 'confusion,hessian', '--partition', 'gpu', '--follow']\n"
        "try: cli.main()\n"
        "finally: print(*sorted({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "\n"), done.stderr
    assert submitted(here) == 1


# ---- watching and stopping ------------------------------------------------------------------------------------------


def shown() -> list[str]:
    """What ``normhpc status`` says of analyses."""
    answer = normhpc("status")
    lines = [line.rstrip() for line in answer.out.splitlines()]
    places = [number for number, line in enumerate(lines) if line.startswith("analysis")]
    return lines[places[0] + 1 :] if places else []


def in_json() -> list[dict[str, object]]:
    return [row for sweep in json.loads(normhpc("status", "--json").out) for row in sweep["analyses"]]


def test_status_shows_what_jobs_are_at_and_what_failed(here: FakeSlurm, tmp_path: Path) -> None:
    folders = [trained(name) for name in "abc"]
    assert shown() == []
    assert in_json() == []
    analyze("runs", "--what", "confusion,hessian", "--partition", "gpu", "--set", "resources.runs_per_job=1")
    queue(here)
    assert [line.split() for line in shown()] == [
        ["confusion", "s", "3", "0", "0", "0"],
        ["hessian", "s", "3", "0", "0", "0"],
    ]
    wave = journal().launches()[0].waves[0].name
    here.answer("squeue", f"7|1|RUNNING|None|{wave}\n7|2|PENDING|None|{wave}\n", "--user")
    analysed(folders[0], "confusion")
    analysed(folders[1], "confusion")
    output = str(tmp_path / "runs" / "s" / ".analyses" / "jobs" / "7.out")
    assert [line.split() for line in shown()] == [
        ["confusion", "s", "1", "0", "2", "0"],
        ["hessian", "s", "1", "1", "0", "1", output],
    ]
    counts = {"analysis": "hessian", "submitted": 1, "running": 1, "finished": 0, "failed": 1, "output": output}
    assert in_json()[1] == counts
    here.answer("squeue", "", "--user")
    for folder in folders[:2]:
        analysed(folder, "hessian")
    analysed(folders[2], "confusion")
    assert in_json() == [counts | {"submitted": 0, "running": 0, "finished": 2}]
    shutil.copytree("runs/s/.analyses", "runs/gone/.analyses")
    assert [sweep["sweep"] for sweep in json.loads(normhpc("status", "--json").out)] == ["s"]
    # once it is there, however it was computed, there is nothing to tell
    analysed(folders[2], "hessian")
    assert in_json() == []


def test_a_result_from_before_is_none_of_the_job(here: FakeSlurm) -> None:
    folder = trained("a")
    analysed(folder, "confusion")
    result = folder.path / "posthoc" / "confusion.json"
    os.utime(result, (1, 1))
    analyze("runs", "--what", "confusion", "--partition", "gpu", "--again")
    assert [(row["finished"], row["failed"]) for row in in_json()] == [(0, 1)]
    os.utime(result)
    assert in_json() == []


def test_the_newest_job_counts(here: FakeSlurm) -> None:
    trained("a")
    for _ in range(2):
        analyze("runs", "--what", "confusion", "--partition", "gpu")
    assert [row["failed"] for row in in_json()] == [1]
    queue(here)
    assert [(row["submitted"], row["failed"]) for row in in_json()] == [(1, 0)]


def test_status_without_slurm_or_answer_tells_of_runs_alone(here: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("a")
    analyze("runs", "--what", "confusion", "--partition", "gpu")
    here.answer("squeue", "", "--user", err="slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    answer = normhpc("status", "--json")
    assert [sweep["analyses"] for sweep in json.loads(answer.out)] == [[]]
    assert answer.err == (
        "note: squeue failed: slurm_load_jobs error: Unable to contact slurm controller; "
        "the states shown are those of the records alone\n"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    answer = normhpc("status", "--json")
    assert ([sweep["analyses"] for sweep in json.loads(answer.out)], answer.err) == ([[]], "")


def test_cancelling_a_sweep_stops_its_analyses_too(here: FakeSlurm) -> None:
    for name in "abc":
        trained(name)
    here.answer("sacctmgr", "2|normal\n", "assoc")
    analyze("runs", "--what", "confusion", "--partition", "gpu", "--set", "resources.runs_per_job=1")
    queue(here)
    answer = normhpc("cancel", "s")
    told = "s: 0 runs cancelled\ns: 2 jobs of normhpc analyze cancelled, at 2 runs\n"
    assert (answer.code, answer.err) == (0, told)
    assert here.calls("scancel") == [["7_0", "7_1"]]
    # neither is the third submitted by the two that end, nor are they failures
    [launch] = journal().launches()
    assert (launch.closed, launch.cancelled) == (True, {0, 1, 2})
    here.answer("squeue", "", "--user")
    assert in_json() == []
    assert normhpc("cancel", "s").err == "s: 0 runs cancelled\n"
    assert len(here.calls("scancel")) == 1
    assert (
        "confusion of 3 runs in 1 job, 1 submitted"
        in analyze("runs", "--what", "confusion", "--partition", "gpu")[1][0]
    )


def test_cancelling_a_run_stops_the_jobs_that_are_at_it(here: FakeSlurm) -> None:
    for name in "abc":
        trained(name)
    analyze("runs", "--what", "confusion", "--partition", "gpu", "--set", "resources.runs_per_job=2")
    queue(here, "RUNNING")
    answer = normhpc("cancel", "runs/s/b")
    assert answer.err == "s: 0 runs cancelled\ns: 1 job of normhpc analyze cancelled, at 2 runs\n"
    assert here.calls("scancel") == [["7_0"]]
    assert [(launch.closed, launch.cancelled) for launch in journal().launches()] == [(False, {0})]
    assert [row["running"] for row in in_json()] == [1]


# ---- tasks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_a_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    job = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "nh-x"}
    for name, value in {**job, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(task, "_ATTEMPTS", 1)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def really_trained(name: str) -> RunFolder:
    folder = trained(name, weights=False)
    run(folder.path)
    return folder


def launched(*names: str, runs_per_job: int = 8, **request: object) -> str:
    """The token of a launch of some runs of sweep ``s``."""
    need = Resources(runs_per_job=runs_per_job)
    lacks = [analyses.Lack(folder := RunFolder(Path("runs/s", name)), folder.read_run(), (), need) for name in names]
    place = journal()
    place.folder.mkdir(exist_ok=True)
    asked = {"what": ["predictions", "confusion"], **request}
    return place.declare(lacks, Profile(), "", {"version": "v"}, analysis=asked).token


def test_a_task_does_what_the_local_command_does(
    here: FakeSlurm, on_a_node: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = [really_trained(name) for name in "abc"]
    names = ("predictions", "confusion")
    assert normhpc("analyze", "runs/s/a", "--what", "predictions,confusion").code == 0
    token = launched("b", "c", "a", runs_per_job=2)
    kept = fingerprint(folders[0].path)
    assert analysis_task.main(Path("runs/s").absolute(), token, 0) == 0
    told = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in told] == [
        [str(folder.path.absolute()), name] for folder in folders[1:] for name in names
    ]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert analysis_task.main(Path("runs/s").absolute(), token, 0) == 0
    assert "confusion: kept, of the same weights" in capfd.readouterr().err
    assert fingerprint(folders[0].path) == kept
    # all three are the same run
    for name in names:
        here_and_there = [read_json(folder.path / "posthoc" / f"{name}.json") for folder in folders[:2]]
        for document in here_and_there:
            for key in ("created", "code", "weights"):
                document.pop(key)
        assert here_and_there[0] == here_and_there[1]
    assert read_json(folders[1].path / "posthoc" / "confusion.json")["code"] == {"version": "v"}


@pytest.mark.parametrize("fault", ["weights", "program"])
def test_a_run_that_fails_does_not_stop_the_others(
    here: FakeSlurm,
    on_a_node: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    folders = [really_trained(name) for name in "ab"]
    if fault == "weights":
        folders[0].checkpoint.write_bytes(b"torn")
    else:
        real = analysis_task.load_trained

        def load(folder: RunFolder, *rest: object) -> object:
            if folder.path.name == "a":
                raise ZeroDivisionError("no good")
            return real(folder, *rest)

        monkeypatch.setattr(analysis_task, "load_trained", load)
    assert analysis_task.main(Path("runs/s").absolute(), launched("a", "b"), 0) == 1
    assert missing(folders[1], Request(["predictions", "confusion"])) == []
    told = capfd.readouterr().err
    assert f"error: {folders[0].path.absolute()}" in told
    assert ("ZeroDivisionError: no good" in told) == (fault == "program")


def test_a_task_that_ends_submits_what_waits(here: FakeSlurm, on_a_node: None) -> None:
    for name in "ab":
        really_trained(name)
    token = launched("a", "b", runs_per_job=1)
    place, [launch] = journal(), journal().launches()
    place.accepted(place.intend(launch, 0, 1), "6")
    assert analysis_task.main(Path("runs/s").absolute(), token, 0) == 0
    assert [(wave.start, wave.job_id) for wave in place.launches()[0].waves] == [(0, "6"), (1, "7")]


def test_a_task_that_died_submits_what_waits(here: FakeSlurm, on_a_node: None) -> None:
    trained("a")
    token = launched("a")
    assert analysis_task.after_failure(Path("runs/s").absolute(), token, 0) == 0
    assert submitted(here) == 1


@pytest.mark.parametrize("progress", [True, False])
def test_the_time_limit_requeues_what_gets_somewhere(
    here: FakeSlurm,
    on_a_node: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    progress: bool,
) -> None:
    folders = [trained(name) for name in "ab"]

    def slow(some: list[RunFolder], request: Request, **rest: object) -> int:
        if progress:
            analysed(some[0], "predictions")
        os.kill(os.getpid(), signal.SIGUSR2)
        raise AssertionError("goes on after the warning")

    monkeypatch.setattr(analysis_task, "analyze", slow)
    code = analysis_task.main(Path("runs/s").absolute(), launched("a", "b"), 0)
    assert code == (0 if progress else 1)
    assert [call for call in here.calls("scontrol") if "requeue" in call] == ([["requeue", "12"]] if progress else [])
    told = capfd.readouterr().out
    if progress:
        assert "the job goes on with the rest when it is started again" in told
    else:
        place = folders[0].path.absolute()
        assert f"(predictions, confusion of {place} ...); give it more: --set resources.minutes=N" in told


def test_slurm_that_will_not_requeue_is_told(
    here: FakeSlurm, on_a_node: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trained("a")
    here.answer("scontrol", "", "requeue", err="Requested operation is presently disabled\n", code=1)

    def slow(some: list[RunFolder], request: Request, **rest: object) -> int:
        analysed(some[0], "predictions")
        raise analysis_task.OutOfTime

    monkeypatch.setattr(analysis_task, "analyze", slow)
    assert analysis_task.main(Path("runs/s").absolute(), launched("a"), 0) == 1
    told = capfd.readouterr().out
    assert "error: the job could not be requeued: scontrol failed: Requested operation is presently disabled" in told
    assert "give it more" not in told


def test_being_told_to_go_leaves_no_half_files(
    here: FakeSlurm, on_a_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained("a")

    def slow(some: list[RunFolder], request: Request, **rest: object) -> int:
        analysis_task.signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr(analysis_task, "analyze", slow)
    with pytest.raises(SystemExit, match="1"):
        analysis_task.main(Path("runs/s").absolute(), launched("a"), 0)
    assert missing(folder, Request(["confusion"])) == ["confusion"]


def test_task_of_an_array_that_was_given_up_does_nothing(
    here: FakeSlurm, on_a_node: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = trained("a")
    token = launched("a")
    place, [launch] = journal(), journal().launches()
    name = place.intend(launch, 0, 1)
    place.refused(name, "timed out")
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    assert analysis_task.main(Path("runs/s").absolute(), token, 0) == 0
    assert "believed to be refused" in capfd.readouterr().out
    assert not (folder.path / "posthoc").exists()


def test_data_is_copied_to_the_node_first(here: FakeSlurm, on_a_node: None, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("a")
    staged = []
    monkeypatch.setattr(analysis_task, "stage_data", lambda scratch, configs: staged.append((scratch, list(configs))))
    monkeypatch.setattr(analysis_task, "analyze", lambda *_, **__: 0)
    token = launched("a")
    lines = journal().path.read_text().splitlines()
    launch = json.loads(lines[0])
    launch["profile"]["scratch"] = "$TMPDIR"
    journal().path.write_text(json.dumps(launch) + "\n")
    assert analysis_task.main(Path("runs/s").absolute(), token, 0) == 0
    assert staged == [("$TMPDIR", [RunFolder(Path("runs/s/a")).read_run().config])]
