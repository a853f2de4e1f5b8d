"""Processes of one minicluster: started in its name, known again by it, and no other one ever signalled."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

MARK = "NORMHPC_MINICLUSTER"
"""In the environment of every daemon, and so of every slurmstepd: the folder of its cluster."""

NODE_MARK = "NORMHPC_MINICLUSTER_NODE"

# where distributions keep daemons, and users' PATHs often do not look
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def find(command: str) -> str:
    """Absolute path of ``command``; its name where there is none."""
    return shutil.which(command, path=SEARCH_PATH) or command


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third one on (state, parent, ...); empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _strings(pid: int, name: str) -> list[str]:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/{name}").read_bytes()).split("\0")
    except OSError:
        return []


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


class Daemons:
    """The daemons of the cluster in ``folder``, by name, with their process ids in ``folder/pids``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, name: str, argv: list[str], environment: dict[str, str]) -> None:
        """Start ``argv`` in a session of its own (Ctrl-C does not reach it) and in a bare environment."""
        bare = {
            "PATH": SEARCH_PATH,
            "HOME": str(Path.home()),
            "LANG": "C.UTF-8",
            "SLURM_CONF": f"{self.folder}/slurm.conf",
        }
        argv = [find(argv[0]), *argv[1:]]
        with (self.folder / "log" / f"{name}.stderr").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder / "log",
                env=bare | {MARK: str(self.folder)} | environment,
                start_new_session=True,
            )
        born = (_stat(process.pid) or ["0"] * 20)[19]
        record = {"pid": process.pid, "born": born, "argv": argv}
        (self.folder / "pids" / f"{name}.json").write_text(json.dumps(record))

    def names(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "pids").glob("*.json"))

    def pid(self, name: str) -> int | None:
        """Process id of ``name`` if it lives: same start time and same command line as the one that was started."""
        try:
            record = json.loads((self.folder / "pids" / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        # a process that is just being executed has no command line yet
        same = _lives(record["pid"], record["born"]) and _strings(record["pid"], "cmdline")[:-1] in (record["argv"], [])
        return record["pid"] if same else None

    def stop(self, name: str, *, kill: bool = False, seconds: float = 10) -> int | None:
        """End ``name`` and wait for it; the process id that it had."""
        pid = self.pid(name)
        if pid is not None:
            end([pid], seconds=0 if kill else seconds)
        return pid

    def last_lines(self, name: str, count: int = 5) -> list[str]:
        """What ``name`` wrote last, in its log or, before it opened one, to its standard error."""
        for path in (self.folder / "log" / f"{name}.log", self.folder / "log" / f"{name}.stderr"):
            if path.exists() and (lines := path.read_text(errors="replace").split("\n")[:-1]):
                return [f"{path}: {line}" for line in lines[-count:]]
        return []


def of_cluster(folder: Path, cluster: str, node: str | None = None) -> set[int]:
    """Every process of the cluster in ``folder``: daemons, slurmstepd, jobs and what those started.

    With ``node``, only what runs on that node. Never this process or one that it runs in.
    """
    children: dict[int, list[int]] = {}
    found = set()
    for pid in _pids():
        if stat := _stat(pid):
            children.setdefault(int(stat[1]), []).append(pid)
        variables = dict(entry.split("=", 1) for entry in _strings(pid, "environ") if "=" in entry)
        daemon = variables.get(MARK) == str(folder) and node in (None, variables.get(NODE_MARK))
        # a shell under salloc is the user's: it has the cluster's name, but no node
        job_node = variables.get("SLURMD_NODENAME") if variables.get("SLURM_CLUSTER_NAME") == cluster else None
        if daemon or (job_node and node in (None, job_node)):
            found.add(pid)
    waiting = list(found)
    while waiting:
        new = set(children.get(waiting.pop(), [])) - found
        found |= new
        waiting += new
    return found - set(_ancestry())


def _ancestry() -> Iterator[int]:
    pid = os.getpid()
    while pid:
        yield pid
        pid = int((_stat(pid) or ["", "0"])[1])


def end(pids: Iterable[int], seconds: float) -> None:
    """SIGTERM, up to ``seconds`` of patience, SIGKILL; returns when all are gone."""
    alive = {pid: stat[19] for pid in pids if (stat := _stat(pid))}
    for sent, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
        if sent == signal.SIGTERM and not seconds:
            continue
        for pid in alive:
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + patience
        while alive and time.monotonic() < deadline:
            alive = {pid: born for pid, born in alive.items() if _lives(pid, born)}
            time.sleep(0.02)


def _lives(pid: int, born: str) -> bool:
    with contextlib.suppress(ChildProcessError):  # our own child would stay a zombie
        os.waitpid(pid, os.WNOHANG)
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z" and stat[19] == born
