"""The configuration files of a minicluster: every line of slurm.conf, gres.conf and slurmdbd.conf, as pure functions."""

import hashlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path


class SettingError(ValueError):
    """A ``--set`` that cannot be used: what was given, what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``up`` can be asked for; two equal ``Options`` give the same cluster."""

    nodes: int = 2
    gpus: int = 2
    """GPUs of each node: files that Slurm counts and hands out as if they were devices."""
    cpus: int = 4
    """CPUs of each node, also beyond those that this machine has."""
    mem_mb: int = 8000
    requeue_delay_s: int = 10
    """Seconds that a requeued job waits at least; Slurm's own default is 120."""
    set: dict[str, str] = field(default_factory=dict)
    """``Key=Value`` of slurm.conf, or ``PARTITION.Key=Value`` of one of its partitions."""

    @property
    def node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True, kw_only=True)
class Ports:
    slurmctld: int
    slurmdbd: int
    slurmd: list[int]


PARTITIONS = {
    "gpu": {"Default": "YES", "PriorityTier": "1", "PreemptMode": "REQUEUE", "MaxTime": "1-00:00:00"},
    "high": {"PriorityTier": "10", "PreemptMode": "OFF", "MaxTime": "1-00:00:00"},
    "debug": {"PriorityTier": "1", "PreemptMode": "REQUEUE", "MaxTime": "00:10:00"},
}

# Paths, ports and keys that hold the cluster together and inside its folder.
OWNED = [
    "AccountingStorageHost",
    "AccountingStoragePass",
    "AccountingStoragePort",
    "AccountingStorageType",
    "AuthInfo",
    "AuthType",
    "ClusterName",
    "CredType",
    "GresTypes",
    "NodeName",
    "PartitionName",
    "SlurmUser",
    "SlurmctldHost",
    "SlurmctldLogFile",
    "SlurmctldPidFile",
    "SlurmctldPort",
    "SlurmdLogFile",
    "SlurmdPidFile",
    "SlurmdPort",
    "SlurmdSpoolDir",
    "SlurmdUser",
    "StateSaveLocation",
]


def cluster_name(folder: Path) -> str:
    """One name per folder: jobs carry it as SLURM_CLUSTER_NAME, by which ``down`` knows the processes of its own."""
    return f"mini-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def users() -> list[str]:
    """root and whoever called sudo: those who have an association."""
    return sorted({"root", os.environ.get("SUDO_USER", "root")})


def parse_settings(settings: list[str]) -> dict[str, str]:
    """``Key=Value`` strings as a dict; raises ``SettingError`` for what a minicluster cannot let go."""
    parsed = {}
    owned = {key.lower(): key for key in OWNED}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise SettingError(f"--set {setting}: expected Key=Value, or PARTITION.Key=Value")
        if key.lower() == "authinfo":
            raise SettingError(
                f"--set {setting}: minicluster sets AuthInfo; its cred_expire is --requeue-delay SECONDS"
            )
        if key.lower() in owned:
            raise SettingError(f"--set {setting}: minicluster sets {owned[key.lower()]} itself")
        partition, dot, _ = key.partition(".")
        if dot and partition not in PARTITIONS:
            raise SettingError(f"--set {setting}: no partition {partition}; there are {', '.join(PARTITIONS)}")
        parsed[key] = value
    return parsed


def _merged(defaults: dict[str, str], changes: dict[str, str]) -> dict[str, str]:
    """``defaults`` with ``changes``; Slurm's keys have no case."""
    spelt = {key.lower(): key for key in defaults}
    return defaults | {spelt.get(key.lower(), key): value for key, value in changes.items()}


def slurm_conf(options: Options, folder: Path, ports: Ports) -> str:
    host = socket.gethostname().partition(".")[0]
    munge = folder / "munge" / "socket"
    settings = {
        "ClusterName": cluster_name(folder),
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": str(ports.slurmctld),
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # cred_expire is also what a requeued job waits for
        "AuthInfo": f"socket={munge},cred_expire={options.requeue_delay_s}",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/run/slurmd-%n.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd-%n.log",
        # nothing listens beyond loopback
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "DefMemPerCPU": str(max(1, options.mem_mb // options.cpus)),
        "GresTypes": "gpu",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "JobRequeue": "1",
        "KillWait": "5",
        "ReturnToService": "2",
        # with both, a dead slurmd is noticed within 20 s
        "SlurmdTimeout": "8",
        "MessageTimeout": "5",
        "BatchStartTimeout": "60",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_continue",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=5",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "localhost",
        "AccountingStoragePort": str(ports.slurmdbd),
        "AccountingStoragePass": str(munge),
        "AccountingStorageTRES": "gres/gpu",
        "AccountingStorageEnforce": "associations,limits,qos",
    }
    of_partition = {key: value for key, value in options.set.items() if "." in key}
    lines = [f"{key}={value}" for key, value in _merged(settings, _without(options.set, of_partition)).items()]
    gres = f" Gres=gpu:{options.gpus}" if options.gpus else ""
    lines += [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={options.cpus} "
        f"RealMemory={options.mem_mb}{gres} State=UNKNOWN"
        for name, port in zip(options.node_names, ports.slurmd, strict=True)
    ]
    for partition, defaults in PARTITIONS.items():
        prefix = f"{partition}."
        changes = {key.removeprefix(prefix): of_partition[key] for key in of_partition if key.startswith(prefix)}
        fields = " ".join(f"{key}={value}" for key, value in _merged(defaults, changes).items())
        lines.append(f"PartitionName={partition} Nodes=ALL State=UP {fields}")
    return "\n".join(lines) + "\n"


def _without(settings: dict[str, str], others: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key not in others}


def gres_conf(options: Options, folder: Path) -> str:
    if not options.gpus:
        return ""
    return (
        f"NodeName={','.join(options.node_names)} Name=gpu File={folder}/gpu/gpu[0-{options.gpus - 1}] "
        "Flags=nvidia_gpu_env\n"
    )


def slurmdbd_conf(folder: Path, ports: Ports) -> str:
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge/socket",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": ports.slurmdbd,
        "CommunicationParameters": "NoInAddrAny",
        "SlurmUser": "root",
        "PidFile": f"{folder}/run/slurmdbd.pid",
        "LogFile": f"{folder}/log/slurmdbd.log",
        # "localhost" means MariaDB's socket, whose path comes with MYSQL_UNIX_PORT
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "root",
        "StorageLoc": "slurm_acct_db",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
