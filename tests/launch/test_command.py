"""``normhpc sweep``: what it shows, refuses, launches and answers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.launches import SWEEP, Answer, events, fingerprint, normhpc, rows

from normhpc.launch import command
from normhpc.launch.local import held_sweep


@pytest.fixture(autouse=True)
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``fakes.yaml``, a sweep of four runs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("fakes.yaml").write_text(SWEEP)


def launch(*more: object) -> Answer:
    return normhpc("sweep", "fakes.yaml", "--local", "--slots", 2, *more)


def run_ids() -> list[str]:
    return [json.loads(line)["run_id"] for line in normhpc("expand", "fakes.yaml").out.splitlines()]


def test_dry_run_shows_the_plan_and_touches_nothing() -> None:
    ids = run_ids()
    answer = normhpc("sweep", "fakes.yaml", "--dry-run")
    lines = [line.rstrip() for line in answer.out.splitlines()]
    assert (answer.code, answer.err) == (0, "")
    assert lines == [
        "fakes",
        "axis   values",
        "norm   2       none, batch",
        "seeds  2       0, 1",
        "runs: 4 (4 new)",
        "to launch: 4 runs, at most 2.00 GPU-hours by the time limits",
        f"  {ids[0]}  norm=none seed=0",
        f"  {ids[1]}  norm=none seed=1",
        f"  {ids[2]}  norm=batch seed=0",
        f"  {ids[3]}  norm=batch seed=1",
    ]
    assert list(Path().iterdir()) == [Path("fakes.yaml")]


def test_launch_tells_a_line_a_start_and_a_line_an_end() -> None:
    ids = run_ids()
    answer = normhpc("sweep", "fakes.yaml", "--local", "--slots", 1)
    lines = answer.err.splitlines()
    labels = [f"norm={norm} seed={seed}" for norm in ("none", "batch") for seed in (0, 1)]
    seconds = [line.rpartition("(")[2].split()[0] for line in lines[2:-1:2]]
    assert all(0 < float(number) < 60 for number in seconds)
    expected = ["launching 4 runs on 1 slot"]
    for index, (run, label, second) in enumerate(zip(ids, labels, seconds, strict=True)):
        expected.append(f"started   {run}  {label} (slot 0)")
        expected.append(f"finished  {run}  {label}  test_top1 0.7500 ({second} s, {index + 1}/4)")
    assert lines == [*expected, "fakes: launched 4 of 4 runs; 4 finished"]
    assert (answer.code, answer.out) == (0, "")


def test_second_launch_changes_no_byte() -> None:
    assert launch().code == 0
    before = fingerprint(Path("runs"))
    assert launch() == (0, "", "fakes: launched 0 of 4 runs; 4 finished\n")
    assert fingerprint(Path("runs")) == before
    assert len(before) == 1 + 4 * 7  # the sweep, and of each run its folder and six files


def test_added_value_launches_only_its_runs_and_a_removed_one_leaves_orphans() -> None:
    launch()
    old = run_ids()
    Path("fakes.yaml").write_text(SWEEP.replace("[none, batch]", "[none, batch, layer]"))
    new = [run for run in run_ids() if run not in old]
    answer = launch("--json")
    assert json.loads(answer.out) == {
        "sweep": "fakes",
        "launched": dict.fromkeys(new, "finished"),
        "runs": dict.fromkeys(run_ids(), "finished"),
    }
    assert answer.err.splitlines()[-1] == "fakes: launched 2 of 6 runs; 6 finished"
    Path("fakes.yaml").write_text(SWEEP.replace("[none, batch]", "[batch, layer]"))
    gone = sorted(old[:2])
    lines = normhpc("sweep", "fakes.yaml", "--dry-run").out.splitlines()
    assert lines[-3:] == [
        "runs: 4 (4 finished)",
        "to launch: 0 runs, at most 0.00 GPU-hours by the time limits, 0.00 at the pace of the finished ones",
        f"no longer declared: 2 runs in runs/fakes: {gone[0]}, {gone[1]}",
    ]


def test_dry_run_as_json_is_the_same_plan() -> None:
    launch("--limit", 1)
    ids = run_ids()
    answer = normhpc("sweep", "fakes.yaml", "--dry-run", "--json", "--limit", 2)
    states = dict.fromkeys(["submitted", "running", "failed", "diverged", "cancelled", "lost"], 0)
    assert json.loads(answer.out) == {
        "sweep": "fakes",
        "folder": "runs/fakes",
        "runs": 4,
        "states": states | {"new": 3, "finished": 1},
        "launch": ids[1:3],
        "orphans": [],
        "gpu_hours_limit": 1.0,
        "gpu_hours_measured": 0.02,
        "norm_sites": [],
        "notes": [],
    }
    assert (answer.code, answer.err) == (0, "")


def test_limit_only_and_set_choose_what_is_launched() -> None:
    ids = run_ids()
    answer = launch("--limit", 1)
    assert (answer.code, answer.err.splitlines()[-1]) == (0, "fakes: launched 1 of 4 runs; 3 new, 1 finished")
    answer = launch("--only", "norm=batch", "--only", "seed=1")
    assert (answer.code, answer.err.splitlines()[-1]) == (0, "fakes: launched 1 of 1 run; 1 finished")
    assert sorted(path.name for path in Path("runs/fakes").iterdir()) == sorted([ids[0], ids[3]])
    answer = launch("--set", "epochs=2", "--set", "seeds=1", "--only", "norm=none", "--json")
    (changed,) = json.loads(answer.out)["launched"]
    assert changed not in ids
    assert json.loads(Path(f"runs/fakes/{changed}/run.json").read_text())["config"]["epochs"] == 2


def test_budget_refuses_before_anything_is_made() -> None:
    assert launch("--max-gpu-hours", 1.5) == (
        2,
        "",
        "error: launching 4 runs could take 2.00 GPU-hours by the time limits, more than --max-gpu-hours 1.5; lower "
        "resources.minutes, or launch fewer with --limit or --only\n",
    )
    assert not Path("runs").exists()
    assert launch("--max-gpu-hours", 2).code == 0
    assert launch("--max-gpu-hours", 0).code == 0  # nothing is left to launch


def test_failed_runs_are_told_and_launched_again_on_request(behave: Callable[..., None]) -> None:
    behave(**{"1": {"faults": {"0": "raise_once"}}})
    ids = run_ids()
    told = [
        f"  failed {ids[1]} norm=none seed=1: ValueError: no good",
        f"  failed {ids[3]} norm=batch seed=1: ValueError: no good",
    ]
    hint = "  read more: normhpc logs RUN; launch failed runs again: --retry-failed"
    answer = launch()
    assert answer.code == 1
    assert answer.err.splitlines()[-4:] == ["fakes: launched 4 of 4 runs; 2 finished, 2 failed", *told, hint]
    assert launch() == (1, "", f"fakes: launched 0 of 4 runs; 2 finished, 2 failed\n{hint}\n")
    plan = normhpc("sweep", "fakes.yaml", "--dry-run").out.splitlines()
    assert plan[-1] == "not launched: 2 failed; --retry-failed launches them again"
    assert "Traceback: no good" in normhpc("logs", ids[1]).out
    answer = launch("--retry-failed")
    assert (answer.code, answer.err.splitlines()[-1]) == (0, "fakes: launched 2 of 4 runs; 4 finished")
    assert events(Path("runs/fakes") / ids[1]) == ["submitted", "started", "failed", "submitted", "started", "finished"]


def test_lost_run_fails_the_command_and_one_left_for_later_does_not(behave: Callable[..., None]) -> None:
    behave(**{"1": {"faults": {"0": "die"}}})
    ids = run_ids()
    assert launch("--only", "seed=1").code == 1
    behave()
    answer = launch("--limit", 1)
    assert answer.err.splitlines()[-1] == "fakes: launched 1 of 4 runs; 1 new, 1 finished, 2 lost"
    assert answer.code == 0
    assert launch().code == 0
    assert events(Path("runs/fakes") / ids[1])[-3:] == ["submitted", "started", "finished"]


def test_runs_that_were_sealed_meanwhile_are_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    def held_after_another_launcher(folder: Path) -> object:
        monkeypatch.setattr(command, "held_sweep", held_sweep)
        launch("--only", "norm=none")
        return held_sweep(folder)

    monkeypatch.setattr(command, "held_sweep", held_after_another_launcher)
    answer = launch()
    assert answer.err.splitlines()[-1] == "fakes: launched 2 of 4 runs; 4 finished"
    for run in run_ids():
        assert events(Path("runs/fakes") / run) == ["submitted", "started", "finished"]


def test_run_json_says_what_was_asked_for() -> None:
    launch("--limit", 1)
    content = json.loads(Path(f"runs/fakes/{run_ids()[0]}/run.json").read_text())
    assert content["sweep"] == "fakes"
    assert content["swept"] == {"data.name": "synthetic", "model.name": "convnet", "norm.name": "none"}
    assert content["resources"]["minutes"] == 30
    assert set(content["code"]) == {"version", "commit", "dirty"}


def test_text_in_brackets_and_colons_is_printed_as_it_is(behave: Callable[..., None]) -> None:
    Path("fakes.yaml").write_text(SWEEP.replace("seeds: 2", "description: '[red]'\nexclude: [{norm.name: group}]"))
    answer = launch("--runs", "[bold]:100:[/x]")
    assert answer.code == 0
    assert answer.err.splitlines()[0] == "note: exclude[0] matches no run"
    assert Path("[bold]:100:[/x]/fakes").is_dir()
    assert normhpc("sweep", "fakes.yaml", "--dry-run", "--runs", "[bold]:100:[/x]").code == 0
    Path("[bold]:100:[/x]/fakes/0123456789abcdef").mkdir()
    plan = normhpc("sweep", "fakes.yaml", "--dry-run", "--runs", "[bold]:100:[/x]").out
    assert "no longer declared: 1 run in [bold]:100:[/x]/fakes: 0123456789abcdef\n" in plan


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            [],
            "no Slurm on this machine: sbatch is not on the PATH; launch from a login node of the cluster, or on this "
            "machine with --local",
        ),
        (
            ["--local", "--partition", "gpu"],
            "--local runs on this machine, --partition and --profile on a cluster; give one of the two",
        ),
        (["--smoke", "--local"], "--smoke belongs to --dry-run; give both"),
        (["--local", "--only", "norm=group"], "fakes.yaml: no run is left; exclude or --only leaves nothing of it"),
    ],
)
def test_usage_that_makes_no_sense(arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    answer = normhpc("sweep", "fakes.yaml", *arguments)
    assert (answer.code, answer.out, answer.err) == (2, "", f"error: {text}\n")
    assert not Path("runs").exists()


def test_more_ranks_than_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    answer = launch("--set", "resources.gpus_per_node=2")
    assert answer.code == 2
    assert answer.err == (
        "error: a run of 2 ranks (resources nodes x gpus_per_node) needs as many GPUs, this machine shows 1; set "
        "resources.gpus_per_node to at most 1\n"
    )
    assert not Path("runs").exists()


def test_runs_of_the_whole_command_get_distinct_gpus(monkeypatch: pytest.MonkeyPatch, quiet_environment: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    answer = normhpc("sweep", "fakes.yaml", "--local", "--set", "resources.runs_per_gpu=2")
    assert answer.err.splitlines()[0] == "launching 4 runs on 4 slots"
    seen = [row["CUDA_VISIBLE_DEVICES"] for row in rows(quiet_environment) if row["what"] == "start"]
    assert sorted(seen) == ["3", "3", "5", "5"]
