"""A real Slurm for tests: two nodes, started once a session, gone afterwards."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MINICLUSTER = Path(__file__).parents[2] / "slurm" / "minicluster"


class Minicluster:
    """One minicluster in ``folder``; ``env`` makes Slurm's commands speak to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SRUN"))}
        self.env = clean | {"SLURM_CONF": str(folder / "slurm.conf")}

    def command(self, name: str, *options: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """``slurm/minicluster NAME --dir ...``, whatever it exits with."""
        return subprocess.run(
            [sys.executable, str(MINICLUSTER), name, "--dir", str(self.folder), *options],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def run(self, *argv: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command with this cluster's environment; fails with its standard error when it exits with another than 0."""
        deadline = time.monotonic() + 20
        while True:
            done = subprocess.run(argv, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=timeout)
            # what slurmctld answers while the accounting has not yet told it a new job's number there
            if "try again in a bit" not in done.stderr or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        if check and done.returncode:
            pytest.fail(f"{argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def submit(self, *options: str) -> str:
        """Job id of ``sbatch --parsable OPTIONS``."""
        return self.run("sbatch", "--parsable", *options).stdout.strip().partition(";")[0]

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says of it."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_state(self, job: str, *states: str, timeout: float = 30) -> float:
        """Seconds until ``job`` is in one of ``states``."""
        began = time.monotonic()
        while (state := self.job(job)["JobState"]) not in states:
            if time.monotonic() - began > timeout:
                pytest.fail(f"job {job} is {state} after {timeout} s, not {' or '.join(states)}: {self.job(job)}")
            time.sleep(0.1)
        return time.monotonic() - began

    def wait_until_saved(self, job_name: str, timeout: float = 60) -> None:
        """Until slurmctld has written the job to its state files (it does so some 5 s after a change)."""
        deadline = time.monotonic() + timeout
        while job_name.encode() not in (self.folder / "state" / "job_state").read_bytes():
            if time.monotonic() > deadline:
                pytest.fail(f"job {job_name} is not in slurmctld's saved state after {timeout} s")
            time.sleep(0.1)

    def node_state(self, node: str) -> str:
        """As scontrol says it (sinfo shows a node that is down as mixed* while its lost job is being cleaned up)."""
        node_line = self.run("scontrol", "--oneliner", "show", "node", node).stdout
        return node_line.partition("State=")[2].split()[0].lower()

    def wait_for_node(self, node: str, *states: str, timeout: float = 30) -> float:
        began = time.monotonic()
        while (state := self.node_state(node)) not in states:
            if time.monotonic() - began > timeout:
                pytest.fail(f"node {node} is {state} after {timeout} s, not {' or '.join(states)}")
            time.sleep(0.1)
        return time.monotonic() - began

    def cancel_all(self) -> None:
        self.run("scancel", "--user=root")
        deadline = time.monotonic() + 20
        while self.run("squeue", "--noheader").stdout and time.monotonic() < deadline:
            time.sleep(0.1)

    def _well(self, name: str, *options: str) -> str:
        done = self.command(name, *options)
        if done.returncode:
            pytest.fail(f"minicluster {name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill_node(self, node: str, *, with_jobs: bool = False) -> None:
        self._well("kill-node", node, *(["--with-jobs"] if with_jobs else []))

    def start_node(self, node: str) -> None:
        self._well("start-node", node)

    def restart_controller(self, *, kill: bool = False) -> None:
        self._well("restart-controller", *(["--kill"] if kill else []))


def cannot_run() -> str:
    """Why no Slurm can be started here; empty when one can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    commands = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
    lacking = [command for command in commands if not shutil.which(command, path=path)]
    if lacking:
        return f"no {', '.join(lacking)} (apt-get install slurm-wlm slurmdbd munge mariadb-server)"
    return "" if os.geteuid() == 0 else "a real Slurm needs root"


@pytest.fixture(scope="session")
def slurm_possible() -> None:
    """Fails where no Slurm can be started: these tests run only where they were asked for."""
    if reason := cannot_run():
        pytest.fail(reason)


@pytest.fixture(scope="session")
def slurm_folder() -> Iterator[Path]:
    """A folder with a short name (Unix sockets have no room for pytest's)."""
    folder = Path(tempfile.mkdtemp(prefix="nh-slurm-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def minicluster(slurm_possible: None, slurm_folder: Path) -> Iterator[Minicluster]:
    """Two nodes with 2 GPUs and 4 CPUs each."""
    cluster = Minicluster(slurm_folder / "a")
    up = cluster.command("up")
    if up.returncode:
        pytest.fail(f"minicluster up: exit code {up.returncode}\n{up.stdout}{up.stderr}")
    try:
        yield cluster
    finally:
        down = cluster.command("down")
    assert down.returncode == 0, down.stderr
