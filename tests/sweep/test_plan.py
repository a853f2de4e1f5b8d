"""The declared runs against the records that exist."""

import json
import platform
from pathlib import Path

import pytest

from normhpc.errors import DamagedError, InputError
from normhpc.record import RunFolder, append_event
from normhpc.record.lock import exclusive_lock
from normhpc.sweep import load
from normhpc.sweep.plan import Plan, distinct_cases, make_plan

SWEEP = """
name: s
base: {epochs: 3}
matrix: {norm: [none, batch, layer, instance, {name: group, groups: 8}], optim.lr: [0.1, 0.05]}
resources: {nodes: 2, gpus_per_node: 3, runs_per_gpu: 2, minutes: 90}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP)
    return path


def plan_of(file: Path, only: tuple[str, ...] = (), **options: object) -> Plan:
    return make_plan(load(file, only=only), file.parent / "runs", **options)  # type: ignore[arg-type]


def put(file: Path, index: int, *kinds: str, summary: dict | None = None) -> str:
    """Give run number ``index`` a record of these events."""
    run = list(load(file).runs())[index]
    folder = RunFolder(file.parent / "runs" / "s" / run.run_id)
    folder.path.mkdir(parents=True)
    for kind in kinds:
        append_event(folder, kind, host=platform.node())
    if summary is not None:
        folder.summary.write_text(json.dumps(summary))
    return run.run_id


def test_fresh_sweep_is_all_new_and_nothing_is_touched(file: Path) -> None:
    plan = plan_of(file)
    ids = [run.run_id for run in load(file).runs()]
    assert plan.states == dict.fromkeys(ids, "new")
    assert list(plan.states) == ids == [run.run_id for run in plan.launch]
    assert (plan.orphans, plan.notes, plan.in_flight, plan.finished_seconds) == ([], [], [], [])
    assert plan.gpu_hours_limit == 10 * (2 * 3 / 2) * 1.5
    assert plan.gpu_hours_measured is None
    assert sorted(path.name for path in file.parent.iterdir()) == ["s.yaml"]


@pytest.mark.parametrize(
    ("resources", "hours"),
    [
        ("{minutes: 30}", 0.5),
        ("{minutes: 30, runs_per_gpu: 2}", 0.25),
        ("{minutes: 30, runs_per_job: 10}", 0.5),
        ("{minutes: 30, runs_per_job: 10, runs_per_gpu: 2}", 0.25),
        ("{minutes: 30, gpus_per_node: 0}", 0.0),
    ],
)
def test_hours_of_the_limits(file: Path, resources: str, hours: float) -> None:
    """A job of several runs has the time of all that follow one another."""
    file.write_text(f"name: s\nseeds: 20\nresources: {resources}\n")
    assert plan_of(file).gpu_hours_limit == pytest.approx(20 * hours, rel=1e-12)


def test_states_decide_what_is_launched(file: Path) -> None:
    ids = [run.run_id for run in load(file).runs()]
    put(file, 0, "submitted", "started", "finished", summary={"state": "finished", "seconds": 1200.0})
    put(file, 1, "submitted", "started", summary={"state": "diverged", "seconds": 1.0})
    put(file, 2, "submitted", "started", "failed")
    put(file, 3, "submitted", "started")  # its process is gone
    put(file, 4, "submitted", "started", "preempted", "cancelled")
    put(file, 5)  # only the folder
    put(file, 6, "submitted", "started", "finished", summary={"state": "finished", "seconds": 2400.0})
    running = RunFolder(file.parent / "runs/s" / put(file, 7, "submitted", "started"))
    with running.held_for_training():
        plan = plan_of(file)
        retried = plan_of(file, retry_failed=True)
    states = ["finished", "diverged", "failed", "lost", "cancelled", "new", "finished", "running", "new", "new"]
    assert plan.states == dict(zip(ids, states, strict=True))
    assert dict(plan.counts) == {
        "finished": 2, "diverged": 1, "failed": 1, "lost": 1, "cancelled": 1, "new": 3, "running": 1,
    }  # fmt: skip
    assert [run.run_id for run in plan.launch] == [ids[index] for index in (3, 4, 5, 8, 9)]
    assert [run.run_id for run in plan.in_flight] == [ids[7]]
    assert [run.run_id for run in retried.launch] == [ids[index] for index in (2, 3, 4, 5, 8, 9)]
    assert plan.finished_seconds == [1200.0, 2400.0]
    assert plan.gpu_hours_limit == 5 * 3 * 1.5
    assert plan.gpu_hours_measured == 5 * 3 * 0.5


def test_a_run_that_was_trained_with_others_counts_its_share(file: Path) -> None:
    put(file, 0, "finished", summary={"state": "finished", "seconds": 3600.0, "share_seconds": 900.0})
    put(file, 1, "finished", summary={"state": "finished", "seconds": 2700.0, "share_seconds": 2700.0})
    plan = plan_of(file)
    assert plan.finished_seconds == [900.0, 2700.0]
    assert plan.gpu_hours_measured == 8 * 3 * 0.5


def test_submitted_runs_belong_to_the_launcher_that_holds_the_sweep(file: Path) -> None:
    run = put(file, 0, "submitted")
    with exclusive_lock(file.parent / "runs" / "s", "busy"):
        held = plan_of(file)
    assert (held.states[run], [flying.run_id for flying in held.in_flight]) == ("submitted", [run])
    assert plan_of(file).states[run] == "lost"


def test_limit_takes_the_first_that_are_to_launch(file: Path) -> None:
    ids = [run.run_id for run in load(file).runs()]
    put(file, 0, summary={"state": "finished"})
    plan = plan_of(file, limit=2)
    assert [run.run_id for run in plan.launch] == ids[1:3]
    assert len(plan.states) == 10


def test_orphans_are_told_for_whole_sweeps_alone(file: Path) -> None:
    gone = [put(file, 0), put(file, 9)]
    (file.parent / "runs" / "s" / "not-a-run-id").mkdir()
    file.write_text(SWEEP.replace("none, batch", "batch").replace(", {name: group, groups: 8}", ""))
    assert plan_of(file).orphans == sorted(gone)
    assert plan_of(file, only=("norm=batch",)).orphans == []


def test_labels_name_what_varies(file: Path) -> None:
    plan = plan_of(file)
    assert [plan.label(run) for run in plan.launch[-3:]] == [
        "norm=instance lr=0.05 seed=0",
        "norm=group groups=8 lr=0.1 seed=0",
        "norm=group groups=8 lr=0.05 seed=0",
    ]
    filtered = plan_of(file, only=("norm=batch",))
    assert [filtered.label(run) for run in filtered.launch] == ["lr=0.1 seed=0", "lr=0.05 seed=0"]


def test_distinct_cases_differ_in_what_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmatrix: {norm: [none, batch], optim.lr: [0.1, 0.2], epochs: [1, 2], precision: [fp32, bf16]}\nseeds: 3\n"
    )
    plan = make_plan(load(path), tmp_path / "runs")
    assert len(plan.launch) == 48
    assert [plan.label(run) for run in distinct_cases(plan.launch)] == [
        f"norm={norm} lr=0.1 epochs=1 precision={precision} seed=0"
        for norm in ("none", "batch")
        for precision in ("fp32", "bf16")
    ]


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("none", [64]),
        ("layer", [64]),
        ("batch", [64, 3]),
        ("{name: batch, sync: true}", [64]),
        ("{name: ghost_batch, ghost_size: 1}", [64]),
        ("{name: ghost_batch, ghost_size: 32}", [64, 65]),
        ("{name: ghost_batch, ghost_size: 33}", [64, 3]),
    ],
)
def test_batches_that_leave_an_image_alone_are_cases_of_their_own(
    tmp_path: Path, norm: str, expected: list[int]
) -> None:
    """On two ranks: shares of 32; 33 and 32; 1 and 2."""
    path = tmp_path / "s.yaml"
    path.write_text(
        f"name: s\nbase: {{norm: {norm}}}\nmatrix: {{batch_size: [64, 65, 128, 3]}}\nresources: {{nodes: 2}}\n"
    )
    found = [
        json.loads(run.config_json)["batch_size"] for run in distinct_cases(make_plan(load(path), tmp_path).launch)
    ]
    assert found == expected


def test_patterns_of_parameters_make_cases(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmatrix:\n  optim.lr_factors: [[], [{parameters: a, factor: 2}], [{parameters: a, factor: 3}], "
        "[{parameters: b, factor: 2}]]\n  optim.name: [sgd, muon]\n  optim.clip_norm: [null, 1]\n"
    )
    found = [json.loads(run.config_json)["optim"] for run in distinct_cases(make_plan(load(path), tmp_path).launch)]
    assert [(optim["name"], [entry["parameters"] for entry in optim["lr_factors"]]) for optim in found] == [
        (name, patterns) for patterns in ([], ["a"], ["b"]) for name in ("sgd", "muon")
    ]


def test_misfits_are_refused_all_at_once_with_their_places(file: Path) -> None:
    file.write_text(
        "name: s\nbase: {model: {name: convnet, widths: [4, 4, 4, 4]}}\nmatrix:\n  norm: [{name: group, groups: 3}, batch]\n"
    )
    with pytest.raises(InputError) as caught:
        plan_of(file)
    assert str(caught.value).splitlines() == [
        f"{file}:4:32: matrix.norm[0].groups: groups 3 does not divide the 4 channels of a layer of convnet; what "
        "divides all its widths (4): 1, 2, 4; indivisible: shrink takes the next number of groups that does",
        f"{file}:2:39: base.model.widths: 4 layers halve digits images of 8x8 to nothing; use at most 3",
    ]


def test_a_misfit_of_a_default_is_told_where_the_other_field_stands(file: Path) -> None:
    file.write_text("name: s\nbase: {data: {name: synthetic, multi_label: true}}\n")
    with pytest.raises(InputError) as caught:
        plan_of(file)
    assert str(caught.value) == (
        f"{file}:2:14: base.data: loss: images of synthetic have several labels each: expected bce or asymmetric, got "
        "cross_entropy; set loss"
    )


def test_the_best_epoch_needs_val_images(file: Path) -> None:
    file.write_text("name: s\nbase: {checkpoint.keep_best: true}\nmatrix: {data.val_fraction: [0.1, 0]}\n")
    with pytest.raises(InputError) as caught:
        plan_of(file)
    assert str(caught.value) == (
        f"{file}:2:30: base.checkpoint.keep_best: the best epoch is chosen on the val images, but data.val_fraction is 0; "
        "hold some images out"
    )


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ("digits", 1437 - 143),
        ("{name: digits, val_fraction: 0}", 1437),
        ("mnist", 54_000),
        ("{name: cifar10, val_fraction: 0, allow_partial: true}", 50_000),
        ("{name: cifar100, val_fraction: 0.001}", 49_950),
        ("{name: synthetic, images: 256}", 256 - 25),
    ],
)
def test_a_batch_larger_than_the_images(file: Path, data: str, rows: int) -> None:
    name = data.split(",")[0].removeprefix("{name: ")
    text = (
        f"name: s\nbase: {{model: {{name: convnet, widths: [4]}}, data: {data}}}\nmatrix: {{batch_size: [64, {rows}, "
    )
    file.write_text(f"{text}{rows + 1}]}}\n")
    with pytest.raises(InputError) as caught:
        plan_of(file)
    assert str(caught.value) == (
        f"{file}:3:{len(text.splitlines()[-1]) + 1}: matrix.batch_size[2]: expected at most the {rows} training images of "
        f"{name}, got {rows + 1}; use a smaller batch"
    )
    file.write_text(f"{text}1]}}\n")
    assert len(plan_of(file).launch) == 3


@pytest.mark.parametrize(
    ("resources", "accumulate", "least", "ranks"),
    [
        ("{nodes: 2, gpus_per_node: 4}", 1, 8, 8),
        ("{nodes: 3, gpus_per_node: 0}", 2, 6, 3),
    ],
)
def test_a_batch_without_an_image_for_each_rank(
    file: Path, resources: str, accumulate: int, least: int, ranks: int
) -> None:
    text = (
        f"name: s\nbase: {{data: digits, optim: {{accumulate: {accumulate}}}}}\nresources: {resources}\n"
        f"matrix: {{batch_size: [{least}, "
    )
    file.write_text(f"{text}{least - 1}]}}\n")
    with pytest.raises(InputError) as caught:
        plan_of(file)
    assert str(caught.value) == (
        f"{file}:4:{len(text.splitlines()[-1]) + 1}: matrix.batch_size[1]: expected at least {least} images, one for each of "
        f"{accumulate} micro-batches on {ranks} ranks, got {least - 1}; use a larger batch or fewer nodes or GPUs"
    )
    file.write_text(f"{text}{least + 1}]}}\n")
    assert len(plan_of(file).launch) == 2


def test_nothing_left(file: Path) -> None:
    with pytest.raises(InputError) as caught:
        plan_of(file, only=("seed=7",))
    assert str(caught.value) == f"{file}: no run is left; exclude or --only leaves nothing of it"


def test_damaged_summary_is_named(file: Path) -> None:
    run = put(file, 0)
    summary = file.parent / "runs/s" / run / "summary.json"
    summary.write_text("{")
    with pytest.raises(DamagedError) as caught:
        plan_of(file)
    assert str(caught.value).startswith(f"{summary}: not JSON (")
    assert str(caught.value).endswith("); delete it, the run will write it again")


def test_images_without_a_folder_are_told(file: Path) -> None:
    file.write_text("{name: s, matrix: {data: [digits, cifar10, {name: mnist, path: here}, cifar100], seed: [0, 1]}}")
    note = "runs on cifar10 and cifar100 fail without the folder of their images; give it: --set data.path=DIR"
    assert plan_of(file).notes == [note]
    assert plan_of(file, limit=2).notes == []
    assert plan_of(file, only=("data.name=digits",)).notes == []


def test_notes_of_the_sweep_are_the_plans(file: Path) -> None:
    file.write_text(SWEEP + "exclude: [{norm.name: batch, epochs: 9}]\n")
    assert plan_of(file).notes == ["exclude[0] matches no run"]
