"""Runs reach a real Slurm, are trained there, and are submitted once, whatever the limits of the cluster are."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.launches import rows
from support.slurm_sweeps import SlurmSweep, wrapper

if TYPE_CHECKING:
    from conftest import Minicluster


@pytest.fixture(scope="module")
def limited(minicluster: "Minicluster", tmp_path_factory: pytest.TempPathFactory) -> SlurmSweep:
    """Two runs in one job that is too short for them; it goes on while the other tests of this file run."""
    resources = {"minutes": 1, "gpus_per_node": 0, "runs_per_job": 2, "runs_per_gpu": 2}
    fakes = {"epochs": 115, "epoch_seconds": 0.4}
    folder = tmp_path_factory.mktemp("limited")
    sweep = SlurmSweep(minicluster, folder, seeds=2, resources=resources, fakes=fakes, name="limited")
    sweep.sweep()
    return sweep


@pytest.fixture
def cluster(minicluster: "Minicluster", limited: SlurmSweep) -> Iterator["Minicluster"]:
    yield minicluster
    spared = {job.partition("_")[0] for job in limited.jobs()}
    jobs = set(minicluster.run("squeue", "--noheader", "--format=%F").stdout.split()) - spared
    if jobs:
        minicluster.run("scancel", *jobs)


def test_array_of_runs_and_nothing_new_the_second_time(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=6)
    assert sweep.sweep().err.endswith("s: 6 runs in 6 jobs, 6 submitted\n")
    assert "nothing to submit" in sweep.sweep().err
    sweep.wait()
    sweep.assert_finished_once(6)
    before = len(sweep.journal)
    assert "nothing to submit" in sweep.sweep().err
    assert len(sweep.journal) == before
    for run in sweep.records():
        assert len([*run.iterdir()]) <= 6


def test_leaked_variables_change_nothing_and_slurm_conf_is_kept(cluster, tmp_path):
    fakes = {"epoch_seconds": 3}  # until the last rank has come
    sweep = SlurmSweep(cluster, tmp_path, fakes=fakes, resources={"nodes": 2, "gpus_per_node": 2})
    leaked = {
        "RANK": "7",
        "WORLD_SIZE": "9",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "nowhere",
        "MASTER_PORT": "1",
        "SLURM_NTASKS": "99",
        "SLURM_JOB_ID": "12345",
        "SLURM_CPU_BIND": "mask_cpu:0x1",
        "SBATCH_PARTITION": "none-such",
        "SRUN_CPUS_PER_TASK": "64",
        "SLURM_NNODES": "77",
        "CUDA_VISIBLE_DEVICES": "5",
        "NORMHPC_RENDEZVOUS": "/nowhere",
    }
    sweep.sweep(env=leaked)
    sweep.wait()
    sweep.assert_finished_once(1)
    started = [row for row in rows(sweep.trace) if row["what"] == "start"]
    seen = sorted((row["RANK"], row["LOCAL_RANK"], row["WORLD_SIZE"]) for row in started)
    assert seen == [("0", "0", "4"), ("1", "1", "4"), ("2", "0", "4"), ("3", "1", "4")]
    assert {row["CUDA_VISIBLE_DEVICES"] for row in started} == {"0,1"}


def test_submission_from_inside_a_job(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=2)
    script = tmp_path / "job.sh"
    exports = [f"export {name}={shlex.quote(sweep.env[name])}" for name in ("FAKE_RANKS", "FAKE_TRACE", "PYTHONPATH")]
    script.write_text("\n".join(["#!/bin/bash", f"cd {tmp_path}", *exports, shlex.join(sweep.sweep_command())]) + "\n")
    cluster.run("sbatch", "-W", "-N2", "-n2", "--gres=gpu:1", f"--output={tmp_path}/out", str(script))
    sweep.wait()
    sweep.assert_finished_once(2)


def test_waves_within_max_submit_jobs_with_nobody_left_behind(cluster, tmp_path):
    runs = 40
    resources = {"gpus_per_node": 0, "runs_per_job": 2, "runs_per_gpu": 2}
    sweep = SlurmSweep(cluster, tmp_path, seeds=runs, resources=resources)
    calls = tmp_path / "calls"
    env = wrapper(tmp_path, "sbatch", f'echo x >>{calls}; exec $REAL "$@"', sweep.env)
    limit = ("sacctmgr", "-i", "modify", "user", "root", "set")
    cluster.run(*limit, "MaxSubmitJobs=5")
    most = 0
    try:
        sweep.sweep(env=env)
        while sweep.queue():
            most = max(most, len(sweep.queue()))
    finally:
        cluster.run(*limit, "MaxSubmitJobs=-1")
    sweep.assert_finished_once(runs)
    assert most <= 5
    assert set(sweep.submitted_chunks().values()) == {1}
    assert len(calls.read_text().split()) <= runs // 2


def test_limit_that_cannot_be_read_beforehand_is_found_by_halving(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=9, resources={"gpus_per_node": 0})
    limit = ("sacctmgr", "-i", "modify", "account", "normhpc", "set")
    cluster.run(*limit, "GrpSubmitJobs=5")
    try:
        sweep.sweep()
        assert 0 < len(sweep.queue()) <= 5
        sweep.wait()
    finally:
        cluster.run(*limit, "GrpSubmitJobs=-1")
    sweep.assert_finished_once(9)


def test_packed_runs_share_a_job_and_leave_each_other_alone(cluster, tmp_path):
    sweep = SlurmSweep(
        cluster,
        tmp_path,
        seeds=8,
        resources={"runs_per_job": 4, "runs_per_gpu": 2, "gpus_per_node": 1},
    )
    behaviour = {"1": {"faults": {"0": "die"}}, "2": {"faults": {"0": "raise"}}, "default": {}}
    answer = sweep.sweep(env={"FAKE_RANKS": json.dumps(behaviour)})
    assert "8 runs in 2 jobs, 2 submitted" in answer.err
    sweep.wait()
    assert len(sweep.finished()) == 6
    told = {
        json.loads((run / "run.json").read_text())["config"]["seed"]: sweep.events(run)[-1] for run in sweep.records()
    }
    assert told[1]["event"] == "lost"
    assert told[1]["message"] == f"rank 0 on {os.uname().nodename} was killed by SIGKILL"
    assert (told[2]["event"], told[2]["class"], told[2]["message"]) == ("failed", "ValueError", "no good\nat all")
    # the killed one goes on with the next call, the failed one only when asked
    assert "1 run in 1 job" in sweep.sweep().err
    sweep.wait()
    assert len(sweep.finished()) == 7
    assert "1 run in 1 job" in sweep.sweep("--retry-failed").err
    assert "nothing to submit" in sweep.sweep("--retry-failed").err
    sweep.wait()
    sweep.assert_finished_once(8)


def test_edited_code_does_not_reach_queued_runs(cluster, tmp_path):
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(__file__).parents[2] / "normhpc", checkout / "normhpc", ignore=ignored)
    sweep = SlurmSweep(cluster, tmp_path, profile={"sbatch": {"hold": True}})
    sweep.sweep(env={"PYTHONPATH": str(checkout)})
    for module in ("launch/worker.py", "launch/slurm/task.py", "record/__init__.py"):
        (checkout / "normhpc" / module).write_text("raise SystemExit('edited')\n")
    sweep.release()
    sweep.wait()
    sweep.assert_finished_once(1)


def test_more_runs_than_one_array_holds(cluster, slurm_folder, tmp_path):
    small = type(cluster)(slurm_folder / "m")
    assert small.command("up", "--nodes", "1", "--gpus", "0", "--set", "MaxArraySize=11").returncode == 0
    try:
        resources = {"gpus_per_node": 0, "runs_per_job": 2, "runs_per_gpu": 2}
        sweep = SlurmSweep(small, tmp_path, seeds=24, resources=resources)
        assert "24 runs in 12 jobs, 12 submitted" in sweep.sweep().err
        assert [(row["start"], row["stop"]) for row in sweep.journal if row["event"] == "intent"] == [
            (0, 10),
            (10, 12),
        ]
        sweep.wait(120)
        sweep.assert_finished_once(24)
    finally:
        assert small.command("down").returncode == 0


def test_time_limit_stops_saves_and_goes_on(cluster, limited):
    limited.wait(150)
    limited.assert_finished_once(2)
    counts = limited.counts()
    assert counts["requeued"] >= 2
    assert counts["resumed"] == counts["preempted"] == counts["requeued"]
    assert counts["started"] == 2
