"""The minicluster is a Slurm: what it promises is asked of it with Slurm's own commands."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Minicluster

MINICLUSTER = Path(__file__).parents[2] / "slurm" / "minicluster"
HOSTS = Path("/etc/hosts")

GPUS = 'echo "$SLURMD_NODENAME $SLURM_PROCID $CUDA_VISIBLE_DEVICES $SLURM_STEP_GPUS ${SLURM_JOB_GPUS:-none}"'


@pytest.fixture
def cluster(minicluster: "Minicluster") -> Iterator["Minicluster"]:
    yield minicluster
    minicluster.cancel_all()
    for node in ("n1", "n2"):
        minicluster.start_node(node)


def test_up_again_says_so_and_other_options_are_refused(cluster):
    again = cluster.command("up")
    assert (again.returncode, again.stdout) == (0, f"minicluster: already up in {cluster.folder}\n")
    other = cluster.command("up", "--nodes", "3")
    assert other.returncode == 1
    assert other.stderr == (
        f"minicluster: already up in {cluster.folder} with other options (nodes is 2, not 3): run down first\n"
    )


def test_status_names_daemons_and_nodes(cluster):
    done = cluster.command("status", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["up"] is True
    assert report["nodes"] == {"n1": "idle", "n2": "idle"}
    assert report["problems"] == []
    assert set(report["daemons"]) == {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd-n1", "slurmd-n2"}
    assert all(isinstance(pid, int) for pid in report["daemons"].values())


def test_env_is_for_eval(cluster):
    assert cluster.command("env").stdout == f"export SLURM_CONF={cluster.folder}/slurm.conf\n"


def test_srun_over_two_nodes(cluster):
    names = cluster.run("srun", "-N2", "bash", "-c", "echo $SLURMD_NODENAME").stdout.split()
    assert sorted(names) == ["n1", "n2"]


@pytest.mark.parametrize(
    ("asked", "visible"),
    [
        ("--gres=gpu:2", ["0,1", "0,1"]),
        ("--gpus-per-node=2", ["0,1", "0,1"]),
        ("--gpus-per-task=1", ["0", "1"]),
    ],
)
def test_gpus_are_visible_however_they_are_asked_for(cluster, asked, visible):
    script = f"srun --ntasks-per-node=2 bash -c '{GPUS}'"
    out = cluster.folder / f"gpus{asked}.out"
    cluster.run("sbatch", "-W", "-N2", "-n4", "--ntasks-per-node=2", asked, f"--output={out}", f"--wrap={script}")
    seen = sorted(line.split() for line in out.read_text().splitlines())
    expected = [(f"n{1 + rank // 2}", str(rank), visible[rank % 2], visible[rank % 2], "0,1") for rank in range(4)]
    assert [tuple(line) for line in seen] == expected


def test_array_of_20_ends_in_accounting(cluster):
    job = cluster.submit("--array=0-19", "--output=/dev/null", "--wrap=true")
    name = cluster.run("scontrol", "show", "config").stdout.partition("ClusterName")[2].split()[1]
    expected = sorted(f"{job}_{task}|COMPLETED|normhpc|{name}" for task in range(20))
    deadline = time.monotonic() + 30
    rows: list[str] = []
    # for some seconds after its end an array is one row, JOB|COMPLETED, without its tasks
    while rows != expected and time.monotonic() < deadline:
        time.sleep(0.2)
        rows = sorted(cluster.run("sacct", "-XnP", "-j", job, "-o", "JobID,State,Account,Cluster").stdout.split())
    assert rows == expected


def test_high_priority_preempts_and_requeues(cluster):
    low = cluster.submit("-N2", "--gres=gpu:2", "--output=/dev/null", "--wrap=srun sleep 100")
    cluster.wait_for_state(low, "RUNNING")
    high = cluster.submit("-p", "high", "-N2", "--gres=gpu:2", "--output=/dev/null", "--wrap=srun sleep 2")
    cluster.wait_for_state(high, "RUNNING", "COMPLETED", timeout=20)
    assert cluster.job(low)["Restarts"] == "1"
    cluster.wait_for_state(high, "COMPLETED")
    # cred_expire, not Slurm's two minutes
    assert cluster.wait_for_state(low, "RUNNING", timeout=30) < 20
    assert cluster.job(low)["Restarts"] == "1"


def test_requeue_delay_can_be_ended(cluster):
    job = cluster.submit("--output=/dev/null", "--wrap=sleep 100")
    cluster.wait_for_state(job, "RUNNING")
    time.sleep(1)
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for_state(job, "PENDING")
    time.sleep(3)  # one that started in the very second of its requeue was once seen to end FAILED
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    cluster.wait_for_state(job, "RUNNING", timeout=5)
    assert cluster.job(job)["Restarts"] == "1"


def test_dead_node_goes_down_its_job_is_requeued_and_it_comes_back(cluster):
    job = cluster.submit("-w", "n1", "--output=/dev/null", "--wrap=sleep 100")
    cluster.wait_for_state(job, "RUNNING")
    time.sleep(1)
    cluster.kill_node("n1", with_jobs=True)
    status = cluster.command("status")
    assert status.returncode == 1
    assert "problem: slurmd-n1 is not running\n" in status.stdout
    assert cluster.wait_for_state(job, "PENDING", timeout=40) < 30
    cluster.wait_for_node("n1", "down+not_responding", timeout=20)
    assert cluster.job(job)["Restarts"] == "1"
    cluster.start_node("n1")
    cluster.wait_for_state(job, "RUNNING", timeout=30)
    assert cluster.command("status").returncode == 0


@pytest.mark.parametrize("kill", [False, True])
def test_queue_outlives_the_controller(cluster, kill):
    running = cluster.submit("-w", "n2", "--output=/dev/null", "--wrap=sleep 100")
    cluster.wait_for_state(running, "RUNNING")
    name = f"submitted-while-{running}-ran"
    held = cluster.submit("--hold", f"--job-name={name}", "--output=/dev/null", "--wrap=true")
    if kill:  # what it did not save yet is lost
        cluster.wait_until_saved(name)
    cluster.restart_controller(kill=kill)
    assert cluster.job(running)["JobState"] == "RUNNING"
    assert cluster.job(held)["JobState"] == "PENDING"
    cluster.run("scontrol", "release", held)
    cluster.wait_for_state(held, "COMPLETED")


def test_sixth_job_is_refused_at_max_submit_jobs_5(cluster):
    limit = ("sacctmgr", "-i", "modify", "user", "root", "set")
    cluster.run(*limit, "MaxSubmitJobs=5")
    try:
        for _ in range(5):
            cluster.submit("--hold", "--output=/dev/null", "--wrap=true")
        sixth = cluster.run("sbatch", "--hold", "--wrap=true", check=False)
    finally:
        cluster.run(*limit, "MaxSubmitJobs=-1")
    assert sixth.returncode == 1
    assert sixth.stderr == (
        "sbatch: error: AssocMaxSubmitJobLimit\n"
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
        "(job submit limit, user's size and/or time limits)\n"
    )


def test_two_clusters_at_once(cluster, slurm_folder):
    other = type(cluster)(slurm_folder / "b")
    up = other.command("up", "--nodes", "1", "--gpus", "0", "--set", "gpu.GraceTime=3", "maxarraysize=11")
    try:
        assert up.returncode == 0, up.stderr
        assert other.run("sinfo", "--noheader", "-N", "-p", "gpu", "--format=%N %T %G").stdout == "n1 idle (null)\n"
        assert "GraceTime=3 " in other.run("scontrol", "show", "partition", "gpu").stdout
        refused = other.run("sbatch", "--array=0-11", "--wrap=true", check=False)
        assert "Invalid job array specification" in refused.stderr
        job = other.submit("--output=/dev/null", "--wrap=sleep 100")
        mine = cluster.submit("--output=/dev/null", "--wrap=sleep 100")
        other.wait_for_state(job, "RUNNING")
        cluster.wait_for_state(mine, "RUNNING")
    finally:
        down = other.command("down", "--keep-logs")
    assert down.returncode == 0
    assert [path.name for path in other.folder.iterdir()] == ["log"]
    assert cluster.command("status").returncode == 0
    assert cluster.job(mine)["JobState"] == "RUNNING"
    assert str(other.folder) not in HOSTS.read_text()
    again = other.command("down")
    assert (again.returncode, again.stdout) == (0, f"minicluster: not up in {other.folder}\n")


def test_a_bad_setting_ends_up_with_the_log_and_leaves_nothing(cluster, slurm_folder):
    other = type(cluster)(slurm_folder / "c")
    up = other.command("up", "--nodes", "1", "--set", "SelectType=select/none_such")
    assert up.returncode == 1
    assert "slurmctld has ended" in up.stderr
    assert "select/none_such" in up.stderr
    assert not other.folder.exists()
    assert marked(other.folder) == []


def test_interrupted_up_leaves_nothing(cluster, slurm_folder):
    folder = slurm_folder / "d"
    process = subprocess.Popen([sys.executable, MINICLUSTER, "up", "--dir", folder], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (folder / "pids" / "slurmdbd.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "minicluster: interrupted\n"
    assert process.returncode == 130
    assert not folder.exists()
    assert marked(folder) == []
    assert str(folder) not in HOSTS.read_text()


def marked(folder: Path) -> list[int]:
    """Processes that live and were started in the name of the cluster in ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"NORMHPC_MINICLUSTER={folder}".encode() in environment:
            found.append(int(path.name))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="the text without root has one line more")
def test_missing_packages_are_named(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import minicluster_processes as p; "
        "p.SEARCH_PATH = sys.argv[2]; import minicluster_cluster as c; print(c.missing(c.PACKAGES))"
    )
    for command in ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sacctmgr", "sinfo", "squeue"):
        (tmp_path / command).touch(mode=0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, MINICLUSTER.parent, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "not found: mariadbd, mariadb-install-db, slurmdbd. "
        "On Debian and Ubuntu: apt-get install mariadb-server slurmdbd\n"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--set", "AuthInfo=x"], "minicluster sets AuthInfo; its cred_expire is --requeue-delay SECONDS"),
        (["--set", "slurmctldport=1"], "minicluster sets SlurmctldPort itself"),
        (["--set", "big.MaxTime=1"], "no partition big; there are gpu, high, debug"),
        (["--set", "MaxArraySize"], "expected Key=Value, or PARTITION.Key=Value"),
    ],
)
def test_settings_that_cannot_be_are_refused(slurm_possible, tmp_path, options, text):
    done = subprocess.run(
        [sys.executable, MINICLUSTER, "up", "--dir", tmp_path, *options], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, f"minicluster: --set {options[1]}: {text}\n")


def test_status_and_env_where_none_is_up(tmp_path):
    where = ["--dir", str(tmp_path)]
    text = f"minicluster: not up in {tmp_path}; start it with slurm/minicluster up\n"
    status = subprocess.run([sys.executable, MINICLUSTER, "status", *where], capture_output=True, text=True)
    env = subprocess.run([sys.executable, MINICLUSTER, "env", *where], capture_output=True, text=True)
    assert (status.returncode, status.stdout) == (3, text)
    assert (env.returncode, env.stdout, env.stderr) == (3, "", text)
