"""Real trainings disturbed on a real Slurm end with the weights of the undisturbed ones, bit for bit."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.launches import until
from support.slurm_sweeps import SlurmSweep
from support.trainings import TINY, exit_codes, outcome, start_ranks

from normhpc.record import RunFolder, read_summary
from normhpc.train import run

if TYPE_CHECKING:
    from conftest import Minicluster

SIGNALS = int(os.environ.get("NORMHPC_TEST_SIGNALS", "1"))
"""How many USR2 a run of 2 nodes x 2 ranks gets; 50 take a quarter of an hour."""

BASE = TINY | {"batch_size": 12, "checkpoint": {"every_epochs": 10_000}}


@pytest.fixture
def cluster(minicluster: "Minicluster") -> Iterator["Minicluster"]:
    yield minicluster
    minicluster.cancel_all()


RECIPES = {
    "optim": [
        {"name": "sgd", "lr": 0.5, "nesterov": True},
        {"name": "adam"},
        {"name": "adamw", "ema_decay": 0.9},
        {"name": "muon", "ema_decay": 0.7, "weight_decay": 0.01},
    ],
    "schedule": [
        {"name": "plateau", "patience": 0, "threshold": 0.1, "factor": 0.7},
        {"name": "constant"},
        {"name": "cosine", "warmup_epochs": 0.7},
        {"name": "two_level", "drop_at": 0.4, "warmup_epochs": 0.5},
    ],
    "precision": ["fp32", "fp16", "bf16", "fp16"],
}
"""Every optimizer, with all else that a checkpoint keeps: averages, the scale of fp16, what a plateau has seen."""


def undisturbed(sweep: SlurmSweep) -> dict:
    """What the same run gives when nothing disturbs its ranks, on this machine without a cluster."""
    info = RunFolder(sweep.records()[0]).read_run()
    folder = RunFolder(sweep.folder / "undisturbed")
    folder.create(info.config, sweep="undisturbed", swept={}, resources=info.resources, code={})
    assert exit_codes(start_ranks(folder, info.resources.ranks)) == [0] * info.resources.ranks
    return outcome(folder)


def test_random_warnings_over_two_nodes_of_two_ranks(cluster, tmp_path):
    base = BASE | {"epochs": 60 + 15 * SIGNALS}
    resources = {"nodes": 2, "gpus_per_node": 2, "minutes": 60}
    sweep = SlurmSweep(cluster, tmp_path, base=base, resources=resources, real=True)
    sweep.sweep()
    chance = random.Random(SIGNALS)
    for number in range(1, SIGNALS + 1):
        kinds = ("submitted",) if chance.random() < 0.3 else ("started", "resumed")
        while sum(sweep.counts()[kind] for kind in kinds) < number:
            sweep.hurry()
            time.sleep(0.2)
        time.sleep(chance.uniform(0, 1))
        assert not sweep.counts()["finished"], f"finished before signal {number}"
        cluster.run("scancel", "--signal=USR2", sweep.jobs()[0])
        sweep.until("requeued", number)
        assert sweep.counts()["preempted"] == number
        print(f"signal {number}: {time.strftime('%H:%M:%S')}", flush=True)
    sweep.wait(300)
    sweep.assert_finished_once(1)
    counts = sweep.counts()
    assert [counts[kind] for kind in ("preempted", "requeued", "resumed", "started")] == [SIGNALS] * 3 + [1]
    (path,) = sweep.records()
    assert len(list(path.iterdir())) == 6  # whatever the number of ranks
    assert outcome(RunFolder(path)) == undisturbed(sweep)


def hold(sweep: SlurmSweep, runs: int) -> None:
    """Stop the one rank of each of ``runs`` runs when it has a checkpoint, so that none ends before the slowest has."""
    held: set[Path] = set()

    def hold_those_saved() -> bool:
        for path in {path.parent for path in sweep.runs.glob("*/checkpoint.pt")} - held:
            started = next(event for event in sweep.events(path) if event["event"] == "started")
            os.kill(started["pids"][0], signal.SIGSTOP)
            held.add(path)
        return len(held) == runs

    until(hold_those_saved, 180)


def test_every_kind_of_state_survives_preemption(cluster, tmp_path):
    runs = len(RECIPES["optim"])
    sweep = SlurmSweep(
        cluster,
        tmp_path,
        base=TINY | {"epochs": 100, "checkpoint": {"every_epochs": None, "every_steps": 30}},
        declared={"zip": [RECIPES]},
        resources={"runs_per_job": runs, "runs_per_gpu": runs},
        real=True,
    )
    sweep.sweep()
    hold(sweep, runs)
    high = cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    cluster.wait_for_state(high, "RUNNING", "COMPLETED")
    assert not sweep.finished()
    sweep.wait()
    sweep.assert_finished_once(runs)
    counts = sweep.counts()
    assert [counts[kind] for kind in ("started", "preempted", "resumed")] == [runs] * 3
    for path in sweep.records():
        disturbed = RunFolder(path)
        info = disturbed.read_run()
        whole = RunFolder(tmp_path / "undisturbed" / path.name)
        whole.create(info.config, sweep="undisturbed", swept={}, resources=info.resources, code={})
        expected = run(whole.path)
        assert outcome(disturbed) == outcome(whole), info.config.optim
        summary = read_summary(disturbed)
        for key in ("state", "final", "best", "epochs", "steps", "norm_plan", "data_digest", "weights_sha256"):
            assert summary[key] == expected[key], (info.config.optim, key)


def test_killed_rank_of_two_nodes(cluster, tmp_path):
    base = BASE | {"epochs": 100_000}
    sweep = SlurmSweep(cluster, tmp_path, base=base, resources={"nodes": 2, "gpus_per_node": 1}, real=True)
    sweep.sweep()
    sweep.until("started")
    path = sweep.records()[0]
    until(lambda: (path / "metrics.jsonl").exists() and (path / "metrics.jsonl").stat().st_size)
    started = next(event for event in sweep.events(path) if event["event"] == "started")
    os.kill(started["pids"][1], signal.SIGKILL)
    freed = sweep.wait(60)
    print(f"allocation free {freed:.1f} s after the death of rank 1 of 2")
    lost = [event for event in sweep.events(path) if event["event"] == "lost"]
    assert [event["message"] for event in lost] == [f"rank 1 on {os.uname().nodename} was killed by SIGKILL"]
    assert sweep.events(path)[-1]["event"] == "lost"


def test_two_rank_runs_at_once_on_one_host(cluster, tmp_path):
    runs = int(os.environ.get("NORMHPC_TEST_CONCURRENT", "2"))
    sweep = SlurmSweep(
        cluster,
        tmp_path,
        seeds=runs,
        base=BASE | {"epochs": 2},
        resources={"nodes": 2, "gpus_per_node": 0},
        real=True,
    )
    sweep.sweep()
    sweep.wait(240)
    sweep.assert_finished_once(runs)
