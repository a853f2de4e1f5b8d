"""Runs reach a real Slurm, are trained there, and are submitted once, whatever the limits of the cluster are."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.launches import rows
from support.slurm_sweeps import SlurmSweep, wrapper

if TYPE_CHECKING:
    from conftest import Minicluster


@pytest.fixture
def cluster(minicluster: "Minicluster") -> Iterator["Minicluster"]:
    yield minicluster
    minicluster.cancel_all()


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
    sweep = SlurmSweep(cluster, tmp_path, seeds=1, resources={"nodes": 2, "gpus_per_node": 2})
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
    lines = [f"export {name}={json.dumps(value)}" for name, value in sweep.env.items() if name.startswith("FAKE_")]
    quoted = " ".join(f"'{word}'" for word in sweep.sweep_command())
    script.write_text(
        "\n".join(["#!/bin/bash", f"cd {tmp_path}", f"export PYTHONPATH={sweep.env['PYTHONPATH']}", quoted])
    )
    lines_file = tmp_path / "out"
    del lines
    cluster.run(
        "sbatch",
        "-W",
        "-N2",
        "-n2",
        "--gres=gpu:1",
        f"--output={lines_file}",
        f"--export=ALL,FAKE_TRACE={sweep.trace}",
        str(script),
    )
    sweep.wait()
    sweep.assert_finished_once(2)


def test_waves_within_max_submit_jobs_with_nobody_left_behind(cluster, tmp_path):
    runs = 40
    sweep = SlurmSweep(cluster, tmp_path, seeds=runs, fakes={"epoch_seconds": 0.1}, resources={"gpus_per_node": 0})
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
    assert len(calls.read_text().split()) <= runs


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
    import shutil

    checkout = tmp_path / "checkout"
    shutil.copytree(
        Path(__file__).parents[2] / "normhpc", checkout / "normhpc", ignore=shutil.ignore_patterns("__pycache__")
    )
    sweep = SlurmSweep(cluster, tmp_path, seeds=1)
    env = {"PYTHONPATH": str(checkout)}
    blocker = cluster.submit("-N2", "--exclusive", "--output=/dev/null", "--wrap=sleep 100")
    cluster.wait_for_state(blocker, "RUNNING")
    sweep.sweep(env=env)
    for module in ("launch/worker.py", "launch/slurm/task.py", "train/__init__.py"):
        (checkout / "normhpc" / module).write_text("raise SystemExit('edited')\n")
    cluster.run("scancel", blocker)
    sweep.wait()
    sweep.assert_finished_once(1)
