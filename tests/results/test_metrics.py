import math

import pytest
from results.fabricate import failed_run, new_run, sealed_run, started_run, write_epochs

from normhpc.record import RecordWriter
from normhpc.results import load_metrics

COLUMNS = ["run_id", "sweep", "data.name", "model.name", "norm.name", "seed"]
COLUMNS += ["epoch", "step", "split", "attempt", "metric", "value"]


def write_metrics(tmp_path, content):
    folder = new_run(tmp_path, {"seed": 0})
    folder.metrics.write_bytes(content)
    return folder


def read(tmp_path):
    frame = load_metrics(tmp_path)
    return frame, list(zip(frame["epoch"], frame["split"], frame["metric"], frame["value"], strict=True))


def line(epoch, **values):
    fields = "".join(f', "{name}": {value}' for name, value in values.items())
    return f'{{"time": "t", "attempt": 1, "epoch": {epoch}, "step": {epoch}, "split": "val"{fields}}}\n'.encode()


def test_every_number_of_every_line_is_a_row(tmp_path):
    folder = sealed_run(tmp_path, {"seed": 3}, 0.75)
    frame, rows = read(tmp_path)
    assert list(frame.columns) == COLUMNS
    assert rows[:8] == [
        (1, "train", "images_per_second", 700.0),
        (1, "train", "loss", 1.0),
        (1, "train", "lr", 0.1),
        (1, "train", "seconds", 2.0),
        (1, "train", "top1", 0.5),
        (1, "val", "loss", 2.0),
        (1, "val", "top1", 0.4),
        (1, "val", "top5", 0.8),
    ]
    assert rows[-3:] == [(2, "test", "loss", 0.25), (2, "test", "top1", 0.75), (2, "test", "top5", 1.0)]
    assert len(rows) == 19
    assert set(frame["run_id"]) == {folder.path.name}
    assert set(frame["seed"]) == {3}
    assert frame["step"].tolist() == [5] * 8 + [10] * 11
    assert frame.attrs["notes"] == []


def test_finished_epochs_of_runs_without_a_result_are_there(tmp_path):
    failed_run(tmp_path, {"seed": 0})
    started_run(tmp_path, {"seed": 1})
    started_run(tmp_path, {"seed": 2}, host="")
    frame = load_metrics(tmp_path)
    assert frame.groupby("seed").size().to_dict() == {0: 8, 1: 8, 2: 8}


def test_after_a_resume_the_last_line_per_epoch_step_and_split_holds(tmp_path):
    folder = started_run(tmp_path, {"seed": 0})
    writer = RecordWriter(folder)
    write_epochs(writer, 3, first=2)
    writer.event("resumed")
    writer.close()
    writer = RecordWriter(folder)
    writer.metrics(epoch=2, step=10, split="val", values={"loss": 7.0})
    writer.close()
    frame, rows = read(tmp_path)
    assert [row for row in rows if row[:2] == (2, "val")] == [(2, "val", "loss", 7.0)]
    assert [row for row in rows if row[:2] == (3, "val")] == [
        (3, "val", "loss", 2 / 3),
        (3, "val", "top1", 0.4),
        (3, "val", "top5", 0.8),
    ]
    assert frame["epoch"].is_monotonic_increasing
    assert frame[frame["value"] == 7.0]["attempt"].tolist() == [3]


def test_keys_may_appear_late_and_ints_turn_to_floats(tmp_path):
    write_metrics(tmp_path, line(1, loss=1) + line(2, loss=0.5, top1=0.25))
    assert read(tmp_path)[1] == [(1, "val", "loss", 1.0), (2, "val", "loss", 0.5), (2, "val", "top1", 0.25)]


def test_a_key_only_in_the_second_run_is_kept(tmp_path):
    write_metrics(tmp_path, line(1, loss=1))
    new_run(tmp_path, {"seed": 1}).metrics.write_bytes(line(1, map_macro=0.5))
    frame = load_metrics(tmp_path)
    assert frame[["seed", "metric", "value"]].values.tolist() == [[0, "loss", 1.0], [1, "map_macro", 0.5]]


@pytest.mark.parametrize(
    ("content", "values", "torn"),
    [
        (line(1, loss=1) + line(2, loss=2)[:-9], [1.0], 1),
        (line(1, loss=1)[:-9] + line(2, loss=2) + line(3, loss=3), [3.0], 1),
        (line(1, loss=1) + b"\x00" * 400, [1.0], 1),
        (line(1, loss=1) + b"\n\n  \n" + line(2, loss=2), [1.0, 2.0], 0),
        (line(1, loss=1) + b"[1, 2]\n17\n", [1.0], 2),
        (line(1, loss=1) + b'{"loss": 2}\n{"epoch": null, "step": 1, "split": "val", "loss": 2}\n', [1.0], 2),
        (line(1, loss=1) + b"\xff\xfe garbage \xff\n" + line(2, loss=2), [1.0, 2.0], 1),
        (line(1, loss=1).replace(b"\n", b"\r\n"), [1.0], 0),
    ],
    ids=["torn last", "glued", "NUL tail", "blank lines", "no mappings", "no place", "not text", "CRLF"],
)
def test_damaged_lines_are_counted_and_skipped(tmp_path, content, values, torn):
    folder = write_metrics(tmp_path, content)
    frame = load_metrics(tmp_path)
    assert frame["value"].tolist() == values
    lines = "line" if torn == 1 else "lines"
    assert frame.attrs["notes"] == ([f"{torn} torn {lines} skipped: {folder.metrics} ({torn})"] if torn else [])


def test_nan_literals_and_nulls_are_missing_values(tmp_path):
    write_metrics(tmp_path, line(1, loss="NaN", top1="null") + line(2, loss="Infinity"))
    _, rows = read(tmp_path)
    assert [row[:3] for row in rows] == [(1, "val", "loss"), (1, "val", "top1"), (2, "val", "loss")]
    assert [math.isnan(row[3]) for row in rows] == [True, True, False]
    assert rows[2][3] == math.inf


def test_what_is_no_number_is_no_metric(tmp_path):
    write_metrics(tmp_path, line(1, loss=1, name='"x"', flag="true", parts="[1]"))
    assert read(tmp_path)[1] == [(1, "val", "loss", 1.0)]


def test_empty_and_absent_files_give_an_empty_table_of_the_same_form(tmp_path):
    write_metrics(tmp_path, b"")
    new_run(tmp_path, {"seed": 1})
    frame = load_metrics(tmp_path)
    assert frame.empty
    assert list(frame.columns) == COLUMNS
    assert str(frame["value"].dtype) == "float64"
    assert frame.attrs["notes"] == []


def test_torn_lines_of_a_sealed_run_are_counted_too(tmp_path):
    folder = sealed_run(tmp_path, {"seed": 0})
    content = folder.metrics.read_bytes()
    folder.metrics.write_bytes(b"{" * 7 + b"\n" + content[8:])
    frame = load_metrics(tmp_path)
    assert frame.attrs["notes"] == [f"2 torn lines skipped: {folder.metrics} (2)"]
