"""One minicluster: its files, its daemons in their order, its condition, its end."""

import contextlib
import fcntl
import json
import os
import random
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import minicluster_hosts as hosts
from minicluster_conf import Options, Ports, cluster_name, gres_conf, slurm_conf, slurmdbd_conf, users
from minicluster_processes import MARK, NODE_MARK, Daemons, end, find, of_cluster

PACKAGES = {
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "scontrol": "slurm-wlm",
    "sacctmgr": "slurm-wlm",
    "sinfo": "slurm-wlm",
    "squeue": "slurm-wlm",
}

# below the ports that normhpc's ranks and the kernel draw from
PORTS = range(7000, 15000)

LONGEST_FOLDER = 80
"""Characters: a Unix socket's path may have 107, and each daemon has its socket below the folder."""


class MiniclusterError(Exception):
    """What to tell the user, and the exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


class Cluster:
    """The minicluster in ``folder``, up or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.daemons = Daemons(self.folder)
        self.description = self.folder / "cluster.json"

    @property
    def exists(self) -> bool:
        return self.description.exists()

    @property
    def options(self) -> Options:
        return Options(**json.loads(self.description.read_text())["options"])

    def processes(self, node: str | None = None) -> set[int]:
        return of_cluster(self.folder, cluster_name(self.folder), node)

    def client(self, *argv: str, seconds: float = 20, check: bool = True) -> str:
        """Standard output of a Slurm command; raises ``MiniclusterError`` with what it said instead."""
        environment = os.environ | {"SLURM_CONF": f"{self.folder}/slurm.conf"}
        try:
            done = subprocess.run(
                [find(argv[0]), *argv[1:]], env=environment, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise MiniclusterError(f"{shlex.join(argv)}: no answer within {seconds:g} s") from None
        if check and done.returncode:
            raise MiniclusterError(f"{shlex.join(argv)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One command at a time changes the cluster; the next one waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def start(self, name: str) -> None:
        """Start the daemon ``name``: munged, mariadbd, slurmdbd, slurmctld or slurmd-NODE."""
        folder = self.folder
        munge = folder / "munge"
        node = name.removeprefix("slurmd-")
        argv = {
            "munged": [
                *("munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key"),
                *(f"--pid-file={folder}/run/munged.pid", f"--seed-file={munge}/seed"),
                f"--log-file={folder}/log/munged.log",
            ],
            "mariadbd": [
                *("mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/mariadb", "--skip-networking"),
                *(f"--socket={folder}/mariadb/socket", f"--pid-file={folder}/run/mariadbd.pid"),
                f"--tmpdir={folder}/tmp",
                *(f"--log-error={folder}/log/mariadbd.log", "--skip-log-bin", "--innodb-lock-wait-timeout=900"),
                # accounting that is thrown away need not survive a loss of power
                *("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"),
            ],
            "slurmdbd": ["slurmdbd", "-D"],
            "slurmctld": ["slurmctld", "-D", "-f", f"{folder}/slurm.conf"],
        }.get(name, ["slurmd", "-D", "-N", node, "-f", f"{folder}/slurm.conf"])
        marks = {NODE_MARK: node} if name.startswith("slurmd-") else {}
        self.daemons.start(name, argv, {"MYSQL_UNIX_PORT": f"{folder}/mariadb/socket"} | marks)

    def wait(self, what: str, seconds: float, ready: Callable[[], object], *needed: str) -> None:
        """Until ``ready()``; raises ``MiniclusterError`` with the last log lines when time is up or a daemon in ``needed`` dies."""
        deadline = time.monotonic() + seconds
        while not ready():
            dead = [name for name in needed if not self.daemons.pid(name)]
            if dead or time.monotonic() > deadline:
                reason = f"{dead[0]} has ended" if dead else f"{what}: not within {seconds:g} s"
                lines = [line for name in dead or needed for line in self.daemons.last_lines(name)]
                raise MiniclusterError("\n  ".join([reason, *lines]))
            time.sleep(0.05)

    def answers(self, *argv: str) -> bool:
        try:
            self.client(*argv, seconds=5)
        except MiniclusterError:
            return False
        return True

    def states(self, *, seconds: float = 20) -> dict[str, str]:
        """State of every node as scontrol names it, in small letters: idle, mixed, down*, idle+drain, ...

        Not sinfo's: to 22.05 a node that is down is mixed* for as long as its lost job is not cleaned up.
        """
        nodes = self.client("scontrol", "--oneliner", "show", "node", seconds=seconds).splitlines()
        fields = [dict(word.split("=", 1) for word in node.split() if "=" in word) for node in nodes]
        return {node["NodeName"]: node["State"].lower() for node in fields}

    def ready(self, *nodes: str) -> bool:
        try:
            states = self.states(seconds=5)
        except MiniclusterError:
            return False
        return all(usable(states.get(node, "unknown")) for node in nodes)


def usable(state: str) -> bool:
    """Whether Slurm starts jobs on a node in this state, now or when it is free."""
    return set(state.split("+")) <= {"idle", "mixed", "allocated", "completing", "planned", "reserved"}


def missing(commands: dict[str, str]) -> str:
    """What this machine lacks, as sentences; empty when nothing."""
    lacking = [command for command in commands if not Path(find(command)).is_absolute()]
    lines = []
    if lacking:
        packages = sorted({commands[command] for command in lacking})
        lines.append(f"not found: {', '.join(lacking)}. On Debian and Ubuntu: apt-get install {' '.join(packages)}")
    if os.geteuid() != 0:
        lines.append("needs root (Slurm starts jobs as their users): sudo slurm/minicluster up, or a container")
    return "\n".join(lines)


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens now, drawn at random so that two clusters starting at once differ."""
    free: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            free.append(port)
        if len(free) == count:
            return free
    raise MiniclusterError(f"fewer than {count} free ports in {PORTS.start}-{PORTS.stop - 1}")


def write_files(cluster: Cluster, options: Options) -> None:
    """Folders, configuration, key and GPUs of a new cluster."""
    folder = cluster.folder
    cluster.description.write_text(json.dumps({"options": asdict(options), "mark": MARK}))
    for name in (
        "log",
        "pids",
        "run",
        "tmp",
        "munge",
        "state",
        "gpu",
        *(f"spool/{node}" for node in options.node_names),
    ):
        (folder / name).mkdir(parents=True)
    (folder / "state").chmod(0o700)
    (folder / "mariadb").mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    for number in range(options.gpus):
        # Slurm wants devices, and any will do: each of these is one more /dev/null
        try:
            os.mknod(folder / "gpu" / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except OSError as error:
            raise MiniclusterError(
                f"cannot make {folder}/gpu/gpu{number} ({error.strerror}), a device that stands for a GPU: "
                "allow the container mknod (docker run --cap-add MKNOD), or up --gpus 0"
            ) from None
    slurmctld, slurmdbd, *slurmd = free_ports(2 + options.nodes)
    ports = Ports(slurmctld=slurmctld, slurmdbd=slurmdbd, slurmd=slurmd)
    (folder / "slurm.conf").write_text(slurm_conf(options, folder, ports))
    (folder / "gres.conf").write_text(gres_conf(options, folder))
    (folder / "slurmdbd.conf").touch(mode=0o600)
    (folder / "slurmdbd.conf").write_text(slurmdbd_conf(folder, ports))


def start_accounting(cluster: Cluster) -> None:
    """munge, the database and slurmdbd, with the cluster, the account normhpc and its users."""
    folder = cluster.folder
    cluster.start("munged")
    made = subprocess.run(
        [
            *(find("mariadb-install-db"), "--no-defaults", f"--datadir={folder}/mariadb", "--user=root"),
            *("--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve"),
        ],
        # a MariaDB that starts removes temporary tables, also of another one that shares its folder for them
        env=os.environ | {MARK: str(folder), "TMPDIR": f"{folder}/tmp"},
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise MiniclusterError(f"mariadb-install-db: {(made.stderr or made.stdout).strip()}")
    cluster.start("mariadbd")
    cluster.wait("socket of mariadbd", 30, (folder / "mariadb" / "socket").exists, "mariadbd")
    cluster.wait("socket of munged", 10, (folder / "munge" / "socket").exists, "munged")
    cluster.start("slurmdbd")
    listing = ("sacctmgr", "--noheader", "list", "qos", "format=name")
    cluster.wait("answer of slurmdbd", 60, lambda: cluster.answers(*listing), "slurmdbd", "mariadbd", "munged")
    cluster.client("sacctmgr", "-i", "add", "cluster", cluster_name(folder))
    cluster.client("sacctmgr", "-i", "add", "account", "normhpc", "Description=normhpc", "Organization=normhpc")
    for user in users():
        cluster.client("sacctmgr", "-i", "add", "user", user, "account=normhpc")
        cluster.client("sacctmgr", "-i", "modify", "user", user, "set", "DefaultAccount=normhpc")


def start_slurm(cluster: Cluster) -> None:
    """slurmctld and every slurmd, until all nodes are idle."""
    nodes = cluster.options.node_names
    daemons = ["slurmctld", *(f"slurmd-{node}" for node in nodes)]
    for name in daemons:
        cluster.start(name)
    cluster.wait(f"{', '.join(nodes)} idle", 60, lambda: cluster.ready(*nodes), *daemons)


def clear(cluster: Cluster, *, keep_logs: bool = False) -> None:
    """End everything of the cluster, jobs first, empty its folder and take its names out of /etc/hosts."""
    daemons = {pid for name in cluster.daemons.names() if (pid := cluster.daemons.pid(name))}
    slurmds = [pid for name in cluster.daemons.names() if "slurmd-" in name and (pid := cluster.daemons.pid(name))]
    end(slurmds, seconds=0)
    end(cluster.processes() - daemons, seconds=2)
    # what forks while it is looked for is found in the next round
    for _ in range(5):
        if not (left := cluster.processes() | (daemons - set(slurmds))):
            break
        daemons = set()
        end(left, seconds=0)
    hosts.remove(cluster.folder)
    for path in list(cluster.folder.iterdir()) if cluster.folder.exists() else []:
        if path.name == "log" and keep_logs:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def condition(cluster: Cluster) -> dict[str, Any]:
    """What ``status --json`` prints."""
    names = ["munged", "mariadbd", "slurmdbd", "slurmctld"]
    names += [f"slurmd-{node}" for node in cluster.options.node_names]
    daemons = {name: cluster.daemons.pid(name) for name in names}
    problems = [f"{name} is not running" for name, pid in daemons.items() if pid is None]
    nodes: dict[str, str] = {}
    jobs: Counter[str] = Counter()
    if daemons["slurmctld"] and daemons["munged"]:
        try:
            nodes = cluster.states(seconds=5)
            queue = cluster.client("squeue", "--noheader", "--array", "--states=all", "--format=%T", seconds=5)
            jobs.update(state for state in queue.split() if state in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED"))
        except MiniclusterError as error:
            problems.append(str(error))
    problems += [f"node {node} is {state}" for node, state in nodes.items() if not usable(state)]
    return {
        "dir": str(cluster.folder),
        "slurm_conf": f"{cluster.folder}/slurm.conf",
        "logs": f"{cluster.folder}/log",
        "options": asdict(cluster.options),
        "daemons": daemons,
        "nodes": nodes,
        "jobs": dict(sorted(jobs.items())),
        "problems": problems,
    }
