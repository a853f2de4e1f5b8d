"""Faults caused on a real Slurm: every run ends finished exactly once, or with a state and reason that one understands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.launches import rows, until
from support.slurm_sweeps import SlurmSweep, wrapper

if TYPE_CHECKING:
    from conftest import Minicluster

HOST = os.uname().nodename


@pytest.fixture
def cluster(minicluster: "Minicluster") -> Iterator["Minicluster"]:
    yield minicluster
    minicluster.cancel_all()


def test_preemption_by_a_job_of_high_priority(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=2, fakes={"epochs": 60, "epoch_seconds": 0.1})
    sweep.sweep()
    sweep.until("started", 2)
    sweep.until_saved(2)
    options = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")
    high = cluster.submit(*options, "--wrap=sleep 1")
    cluster.wait_for_state(high, "RUNNING", "COMPLETED")
    assert {row[1] for row in sweep.queue()} == {"PENDING"}
    assert "nothing to submit" in sweep.sweep().err
    sweep.wait()
    sweep.assert_finished_once(2)
    assert sweep.counts()["started"] == 2
    assert sweep.counts()["resumed"] == 2


def test_killed_rank_frees_the_allocation_and_is_named(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, fakes={"epochs": 1, "epoch_seconds": 600})
    sweep.sweep()
    sweep.until("started")
    os.kill(rows(sweep.trace)[0]["pid"], signal.SIGKILL)
    freed = sweep.wait(60)
    print(f"allocation free {freed:.1f} s after the death of the rank")
    event = sweep.events(sweep.records()[0])[-1]
    assert (event["event"], event["message"]) == ("lost", f"rank 0 on {HOST} was killed by SIGKILL")


def test_rank_that_raises_is_told_with_its_exception(cluster, tmp_path):
    fakes = {"faults": {"1": "raise"}, "epoch_seconds": 600}
    sweep = SlurmSweep(cluster, tmp_path, fakes=fakes, resources={"nodes": 2, "gpus_per_node": 1})
    sweep.sweep()
    sweep.until("failed")
    sweep.wait(60)
    failed = next(event for event in sweep.events(sweep.records()[0]) if event["event"] == "failed")
    assert (failed["class"], failed["rank"]) == ("ValueError", 1)


def test_killed_run_leaves_the_rest_of_its_chunk(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=3, resources={"nodes": 2, "gpus_per_node": 1, "runs_per_job": 3})
    behaviour = {"1": {"faults": {"1": "die"}, "epoch_seconds": 600}, "default": {}}
    sweep.sweep(env={"FAKE_RANKS": json.dumps(behaviour)})
    sweep.wait(60)
    assert len(sweep.finished()) == 2
    assert sweep.counts()["lost"] == 1
    assert sweep.counts()["started"] == 3


def test_node_that_loses_power(cluster, tmp_path):
    sweep = SlurmSweep(
        cluster, tmp_path, fakes={"epochs": 40, "epoch_seconds": 0.2}, profile={"sbatch": {"nodelist": "n1"}}
    )
    sweep.sweep()
    sweep.until("started")
    sweep.until_saved()
    cluster.kill_node("n1", with_jobs=True)
    began = time.monotonic()
    try:
        until(lambda: sweep.jobs("PENDING"), 120)
    finally:
        cluster.start_node("n1")
    # nothing hurries it: Slurm waits until the credentials of the lost job have run out, or takes the new one for it
    sweep.until("resumed")
    print(f"training goes on {time.monotonic() - began:.1f} s after the loss of the node")
    sweep.wait()
    sweep.assert_finished_once(1)


def test_node_that_slurm_gives_up_but_that_trains_on(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, fakes={"epochs": 1, "epoch_seconds": 32})
    sweep.sweep()
    sweep.until("started")
    node = cluster.run("squeue", "--noheader", "--format=%N").stdout.strip()
    cluster.kill_node(node)
    try:
        until(lambda: sweep.jobs("PENDING"), 120)
        sweep.wait()
        sweep.assert_finished_once(1)
        assert sweep.counts()["started"] == 1
    finally:
        cluster.start_node(node)


def test_controller_restarted_in_the_middle_of_a_sweep(cluster, tmp_path):
    limit = ("sacctmgr", "-i", "modify", "user", "root", "set")
    sweep = SlurmSweep(cluster, tmp_path, seeds=10, fakes={"epoch_seconds": 0.5}, resources={"gpus_per_node": 0})
    cluster.run(*limit, "MaxSubmitJobs=4")
    try:
        sweep.sweep()
        sweep.until("finished", 1)
        assert cluster.command("restart-controller", "--after", "3").returncode == 0
        sweep.wait()
    finally:
        cluster.run(*limit, "MaxSubmitJobs=-1")
    sweep.assert_finished_once(10)
    assert set(sweep.submitted_chunks().values()) == {1}


TIMED_OUT = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'
UNREACHABLE = 'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller" >&2; exit 1'


def test_sbatch_that_fails(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=3)
    answer = sweep.sweep(env=wrapper(tmp_path, "sbatch", UNREACHABLE, sweep.env), code=1)
    assert answer.err.endswith(
        "error: sbatch refused 3 jobs: sbatch: error: Batch job submission failed: Unable to contact slurm controller\n"
    )
    assert not sweep.queue()
    sweep.sweep()
    assert len(sweep.queue()) == 3
    sweep.wait()
    sweep.assert_finished_once(3)


def test_sbatch_that_succeeds_but_says_it_timed_out(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=3)
    assert (
        "3 submitted"
        in sweep.sweep(env=wrapper(tmp_path, "sbatch", f'$REAL "$@" >/dev/null; {TIMED_OUT}', sweep.env)).err
    )
    assert "nothing to submit" in sweep.sweep().err
    assert set(sweep.submitted_chunks().values()) == {1}
    sweep.wait()
    sweep.assert_finished_once(3)


def test_sbatch_that_is_accepted_long_after_it_timed_out(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=3, fakes={"epoch_seconds": 1})
    late = f'(sleep 6; exec $REAL "$@") >/dev/null 2>&1 & {TIMED_OUT}'
    assert "refused 3 jobs" in sweep.sweep(env=wrapper(tmp_path, "sbatch", late, sweep.env), code=1).err
    sweep.sweep()
    until(lambda: "believed to be refused" in sweep.outputs(), 30)
    sweep.wait()
    sweep.assert_finished_once(3)


def test_sweep_killed_at_each_step_of_its_submission(cluster, tmp_path):
    points = range(1, 1 + int(os.environ.get("NORMHPC_TEST_KILL_POINTS", "20")))
    sweeps = {}
    for point in points:
        options = {"resources": {"gpus_per_node": 0}, "profile": {"sbatch": {"hold": True}}}
        sweep = sweeps[point] = SlurmSweep(cluster, tmp_path, name=f"k{point}", **options)
        content = json.loads(sweep.path.read_text())
        # two shapes, so two arrays
        content |= {"matrix": {"norm": ["none", "batch", "layer"]}}
        content |= {"when": [{"match": {"norm.name": "layer"}, "set": {"resources.minutes": 7}}]}
        sweep.path.write_text(json.dumps(content))
    done = sweep.call([sys.executable, "-m", "support.killed_cli", str(points[-1]), "--profile", "./profile.yaml"])
    assert [line for line in done.out.splitlines() if line.startswith("point")] == [
        f"point {point}: killed by {signal.SIGKILL.value}, then 0, then 0" for point in points
    ]
    for point, sweep in sweeps.items():
        assert len(sweep.queue()) == 3, (point, sweep.queue(), sweep.journal)
    chosen = [sweep for point, sweep in sweeps.items() if point in (5, 12, 20)]
    for sweep in chosen:
        sweep.release()
    for sweep in chosen:
        until(lambda sweep=sweep: len(sweep.finished()) == 3)
        sweep.assert_finished_once(3)


def test_two_sweeps_started_at_once_by_two_shells(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=4)
    both = [sweep.background() for _ in range(2)]
    told = sorted((process.wait(60), process.communicate()[1]) for process in both)
    assert told[0][0] == 0
    assert told[1][0] == 0 or "another normhpc sweep is launching this sweep" in told[1][1]
    sweep.wait()
    sweep.assert_finished_once(4)
    assert set(sweep.submitted_chunks().values()) == {1}


def test_record_folder_that_cannot_be_written(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=3, resources={"runs_per_job": 3}, profile={"sbatch": {"hold": True}})
    sweep.sweep()
    ids = next(row for row in sweep.journal if row["event"] == "launch")["chunks"][0]
    barred = sweep.runs / ids[1]
    barred.mkdir()
    immutable = subprocess.run(["chattr", "+i", str(barred)], capture_output=True).returncode == 0
    if not immutable:
        barred.rmdir()
        barred.write_text("in the way")
    try:
        sweep.release()
        sweep.wait()
    finally:
        if immutable:
            subprocess.run(["chattr", "-i", str(barred)], check=True)
    assert sweep.finished().keys() == {ids[0], ids[2]}
    trouble = next(row for row in sweep.journal if row["event"] == "trouble")
    assert re.match(
        rf"{barred}: cannot be started \((Operation not permitted|File exists|Not a directory)\)", trouble["message"]
    )
    if not immutable:
        barred.unlink()
    sweep.sweep()
    sweep.release()
    sweep.wait()
    sweep.assert_finished_once(3)


def test_a_cancelled_sweep_ends_and_the_next_launch_goes_on(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=2, fakes={"epochs": 40, "epoch_seconds": 0.2})
    sweep.sweep()
    sweep.until("started", 2)
    sweep.until_saved(2)
    assert sweep.call(sweep.command("cancel", "s")).err == "s: 2 runs cancelled\n"
    sweep.wait()
    assert (sweep.finished(), sweep.call(sweep.command("cancel", "s")).err) == ({}, "s: 0 runs cancelled\n")
    assert "2 runs in 2 jobs" in sweep.sweep().err
    sweep.wait()
    sweep.assert_finished_once(2)
    assert sweep.counts()["resumed"] == 2


def test_cancelled_task_says_so_and_goes_on_with_the_next_launch(cluster, tmp_path):
    sweep = SlurmSweep(cluster, tmp_path, seeds=2, fakes={"epochs": 40, "epoch_seconds": 0.2})
    sweep.sweep()
    sweep.until("started", 2)
    sweep.until_saved(2)
    cluster.run("scancel", sweep.jobs()[0])
    sweep.wait()
    assert len(sweep.finished()) == 1
    cancelled = next(run for run in sweep.records() if run.name not in sweep.finished())
    last = sweep.events(cancelled)[-1]
    assert (last["event"], last["reason"]) == ("cancelled", "Slurm stopped the job")
    assert "1 run in 1 job" in sweep.sweep().err
    sweep.wait()
    sweep.assert_finished_once(2)
    assert sweep.counts()["resumed"] == 1
