"""What Slurm says of itself: partitions, limits, and our jobs. One question each, whatever the number of runs."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from normhpc.errors import InputError, NormhpcError

_TIMEOUT_SECONDS = 60


class SlurmError(NormhpcError):
    """Slurm did not answer, or refused."""


def ask(*command: str, check: bool = True) -> str:
    """Output of a Slurm command. Raises :class:`SlurmError` with its own words when it fails."""
    # without this, long lists of array tasks are cut short
    environment = {**os.environ, "SLURM_BITSTR_LEN": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{' '.join(command)}: {error}") from None
    if done.returncode and check:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SlurmError(f"{command[0]} failed: {words[-1]}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition, as far as a request can exceed it. ``minutes`` is None without a limit."""

    name: str
    default: bool
    minutes: int | None
    nodes: int
    cpus_per_node: int
    mem_mb_per_node: int
    gpus_per_node: int


class Cluster:
    """The cluster of this login node. Asked lazily, each thing once. ``locally`` says how to do without one."""

    def __init__(self, locally: str = "with --local") -> None:
        if shutil.which("sbatch") is None:
            raise InputError(
                "no Slurm on this machine: sbatch is not on the PATH; launch from a login node of the cluster, or on "
                f"this machine {locally}"
            )
        self._locally = locally

    @cached_property
    def config(self) -> Mapping[str, str]:
        """``scontrol show config``."""
        lines = (line.split("=", 1) for line in ask("scontrol", "show", "config").splitlines() if "=" in line)
        return {key.strip(): value.strip() for key, value in lines}

    @cached_property
    def partitions(self) -> list[Partition]:
        """Every partition that this user sees. Raises :class:`SlurmError` with what to do without an answer."""
        try:
            text = ask("sinfo", "--noheader", "--format=%P|%l|%D|%c|%m|%G")
        except SlurmError as error:
            advice = f"launch where Slurm answers, or on this machine {self._locally}"
            raise SlurmError(f"{error}; {advice}") from None
        found: dict[str, Partition] = {}
        for line in text.splitlines():
            name, limit, nodes, cpus, memory, gres = (part.strip() for part in line.split("|"))
            gpus = sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)(?=[,(]|$)", gres))
            here = Partition(
                name=name.rstrip("*"),
                default=name.endswith("*"),
                minutes=minutes_of(limit),
                nodes=int(nodes),
                cpus_per_node=int(cpus.rstrip("+")),
                mem_mb_per_node=int(memory.rstrip("+")),
                gpus_per_node=gpus,
            )
            before = found.get(here.name)
            found[here.name] = here if before is None else _largest(before, here)
        return list(found.values())

    def partition(self, name: str | None) -> Partition:
        """The partition called ``name``, or the default one. Raises :class:`InputError` with those there are."""
        for partition in self.partitions:
            if partition.name == name or (name is None and partition.default):
                return partition
        there = ", ".join(partition.name for partition in self.partitions) or "none"
        if name is None:
            raise InputError(f"the cluster has no default partition; name one with --partition: {there}")
        raise InputError(f"--partition {name}: no such partition; there are: {there}")

    @cached_property
    def max_array_size(self) -> int:
        """Most tasks of one array."""
        return int(self.config.get("MaxArraySize", "1001")) - 1

    def free_submissions(self) -> int:
        """Array tasks that may still be submitted, by the limits of the controller, the association and the QOS."""
        mine = len(self.my_jobs(None))
        everyone = int(self.config.get("MaxJobCount", "10000"))
        # finished jobs count, too, until the controller forgets them (MinJobAge)
        known = len(ask("squeue", "--noheader", "--array", "--states=all", "--format=%i").split())
        return max(0, min(everyone - known, *self._limits(mine)))

    def _limits(self, mine: int) -> list[int]:
        mine_here = [f"user={pwd.getpwuid(os.getuid()).pw_name}"]
        if name := self.config.get("ClusterName"):
            mine_here.append(f"cluster={name}")  # one database may keep the accounts of many clusters
        try:
            associations = ask(
                "sacctmgr", "--noheader", "--parsable2", "show", "assoc", *mine_here, "format=MaxSubmitJobs,QOS"
            )
            qos = ask("sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=Name,MaxSubmitJobsPU")
        except SlurmError:
            return [self.max_array_size * 1000]  # a cluster without accounting has no such limits
        limits = [int(line.split("|")[0]) for line in associations.splitlines() if line.split("|")[0]]
        allowed = {name for line in associations.splitlines() for name in line.split("|")[1].split(",")}
        limits += [
            int(limit) for name, limit in (line.split("|") for line in qos.splitlines()) if limit and name in allowed
        ]
        return [limit - mine for limit in limits] or [self.max_array_size * 1000]

    def my_jobs(self, prefix: str | None, *, ended: bool = False) -> list["QueuedJob"]:
        """This user's array tasks in the queue whose job name begins with ``prefix``; all of them for None.

        With ``ended`` also those that ended so lately that the controller still knows them, minutes by default.
        """
        states = ["--states=all"] if ended else []
        text = ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", *states, "--format=%F|%K|%T|%r|%j")
        jobs = []
        for line in text.splitlines():
            array, task, state, reason, name = line.split("|", 4)
            if prefix is None or name.startswith(prefix):
                jobs.append(QueuedJob(array, int(task) if task.isdigit() else 0, state, reason, name))
        return jobs


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """One array task in the queue, in Slurm's words."""

    array_id: str
    task: int
    state: str
    reason: str
    name: str


def minutes_of(text: str) -> int | None:
    """Slurm's ``days-hours:minutes:seconds`` in minutes; None for an unlimited time."""
    if text in ("infinite", "UNLIMITED", "n/a"):
        return None
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes = (*parts, 0, 0)[:2]
    else:
        hours, minutes = (0, 0, *parts)[-3:-1] if len(parts) > 1 else (0, parts[0])
    return int(days or 0) * 1440 + hours * 60 + minutes


def _largest(one: Partition, other: Partition) -> Partition:
    """Nodes of different kinds in one partition: the most of each."""
    return Partition(
        one.name,
        one.default or other.default,
        one.minutes,
        one.nodes + other.nodes,
        max(one.cpus_per_node, other.cpus_per_node),
        max(one.mem_mb_per_node, other.mem_mb_per_node),
        max(one.gpus_per_node, other.gpus_per_node),
    )
