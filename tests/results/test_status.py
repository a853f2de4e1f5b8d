import json
from dataclasses import asdict

import pytest
from results.fabricate import diverged_run, failed_run, new_run, sealed_run, small_study, started_run

from normhpc.errors import InputError
from normhpc.record import append_event
from normhpc.results.status import Failure, Progress, newest_row, sweep_statuses


def test_counts_progress_and_errors_of_each_sweep(tmp_path):
    small_study(tmp_path)
    running = started_run(tmp_path, {"seed": 7, "epochs": 5}, sweep="second", swept={"act": "relu"})
    append_event(started_run(tmp_path, {"seed": 8}, sweep="second"), "cancelled")
    new_run(tmp_path, {"seed": 9}, sweep="second")
    demo, second = sweep_statuses([tmp_path])
    assert (demo.sweep, demo.total, demo.in_flight) == ("demo", 6, ())
    nothing = dict.fromkeys(("new", "submitted", "running", "finished", "failed", "diverged", "cancelled", "lost"), 0)
    assert demo.counts == nothing | {"finished": 4, "failed": 1, "diverged": 1}
    (failure,) = demo.failures
    told = ("OutOfMemory", "2 GiB more than there are", failure.fingerprint)
    assert failure == Failure(failure.run_id, {"norm": "layer"}, *told)
    assert (second.sweep, second.total, second.failures) == ("second", 3, ())
    assert second.counts == nothing | {"new": 1, "running": 1, "cancelled": 1}
    assert second.in_flight == (
        Progress(running.path.name, "running", {"act": "relu"}, epochs=5, epoch=1, split="val", loss=2.0, top1=0.4),
    )
    assert (demo.notes, second.notes) == ((), ())


def test_the_status_is_json(tmp_path):
    started_run(tmp_path, {"seed": 0})
    failed_run(tmp_path, {"seed": 1})
    (status,) = json.loads(json.dumps([asdict(sweep) for sweep in sweep_statuses([tmp_path])]))
    assert status["counts"]["running"] == 1
    assert status["in_flight"][0]["loss"] == 2.0
    assert status["failures"][0]["error"] == "OutOfMemory"


def test_a_run_in_flight_without_measurements_has_none(tmp_path):
    folder = new_run(tmp_path, {"seed": 0})
    append_event(folder, "started", host="elsewhere")
    (status,) = sweep_statuses([folder.path])
    assert status.in_flight == (Progress(folder.path.name, "running", {}, epochs=10),)
    assert status.sweep == "demo"


@pytest.mark.parametrize("tail", [b'{"epoch": 2, "lo', b"\x00" * 100, b"[1]\n", b'{"warning": 1}\n', b"\n\n"])
def test_the_newest_whole_line_counts(tmp_path, tail):
    folder = started_run(tmp_path, {"seed": 0})
    with folder.metrics.open("ab") as file:
        file.write(tail)
    row = newest_row(folder)
    assert (row["epoch"], row["split"], row["loss"]) == (1, "val", 2.0)


def test_the_newest_line_of_a_long_file_is_found_from_its_end(tmp_path):
    folder = started_run(tmp_path, {"seed": 0})
    line = folder.metrics.read_bytes().splitlines(keepends=True)[0]
    folder.metrics.write_bytes(line * 2000 + b'{"epoch": 9, "split": "val", "loss": 3.0}\n')
    assert newest_row(folder) == {"epoch": 9, "split": "val", "loss": 3.0}


def test_damaged_files_are_told_or_passed_over_never_fatal(tmp_path):
    sealed = sealed_run(tmp_path, {"seed": 0})
    sealed.summary.write_text("{}")
    failed = failed_run(tmp_path, {"seed": 1})
    failed.run_json.write_text("{")
    diverged_run(tmp_path, {"seed": 2})
    (status,) = sweep_statuses([tmp_path])
    assert {state: count for state, count in status.counts.items() if count} == {"lost": 1, "failed": 1, "diverged": 1}
    (failure,) = status.failures
    assert (failure.run_id, failure.swept, failure.error) == (failed.path.name, {}, "OutOfMemory")
    assert status.notes == (
        f"{sealed.summary}: says neither finished nor diverged; delete it, the run will write it again",
    )


def test_an_empty_folder_says_which_command_makes_runs(tmp_path):
    with pytest.raises(InputError) as caught:
        sweep_statuses([tmp_path])
    assert str(caught.value) == f"{tmp_path}: there are no runs in it; normhpc sweep SWEEP.yaml makes runs"
