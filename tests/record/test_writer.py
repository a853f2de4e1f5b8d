"""The writing side of a record."""

import hashlib
import json
import math

import pytest

from normhpc.config import Resources, RunConfig
from normhpc.record import RecordWriter, RunFolder, append_event, read_status, read_summary
from normhpc.record.journal import read_journal


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(RunConfig(), sweep="demo", swept={}, resources=Resources(), code={})
    return folder


def test_attempts_count_starts(folder):
    for attempt, kind in enumerate(["started", "resumed", "resumed"], start=1):
        writer = RecordWriter(folder)
        assert writer.attempt == attempt
        writer.event(kind)
        writer.event("preempted")
        writer.close()
        append_event(folder, "submitted")
    assert [(row["event"], row.get("attempt")) for row in read_journal(folder.events).rows] == [
        ("started", 1),
        ("preempted", 1),
        ("submitted", None),
        ("resumed", 2),
        ("preempted", 2),
        ("submitted", None),
        ("resumed", 3),
        ("preempted", 3),
        ("submitted", None),
    ]


def test_metrics_have_their_place_first(folder):
    writer = RecordWriter(folder)
    writer.metrics(epoch=2, step=20, split="val", values={"loss": 0.5, "top1": 0.75})
    writer.close()
    line = json.loads(folder.metrics.read_text())
    assert list(line) == ["time", "attempt", "epoch", "step", "split", "loss", "top1"]
    assert [line[key] for key in list(line)[1:]] == [1, 2, 20, "val", 0.5, 0.75]


def test_what_is_not_finite_is_null_and_told(folder):
    writer = RecordWriter(folder)
    writer.metrics(epoch=1, step=9, split="train", values={"top1": 0.1, "loss": math.nan, "lr": math.inf})
    writer.metrics(epoch=2, step=18, split="train", values={"top1": 0.1, "loss": 1.0, "lr": 1.0})
    writer.close()
    first, second = read_journal(folder.metrics).rows
    assert (first["loss"], first["lr"], first["top1"]) == (None, None, 0.1)
    assert (second["loss"], second["lr"]) == (1.0, 1.0)
    events = read_journal(folder.events).rows
    assert [(row["event"], row["message"], row["epoch"], row["step"]) for row in events] == [
        ("warning", "train loss, lr not finite", 1, 9)
    ]


@pytest.mark.parametrize("state", ["finished", "diverged"])
def test_the_seal(folder, state):
    writer = RecordWriter(folder)
    writer.event("started")
    for epoch in range(3):
        writer.metrics(epoch=epoch, step=epoch, split="train", values={"loss": 1.0})
    writer.seal({"state": state, "best": {"val_loss": math.nan}})
    writer.close()
    content = folder.metrics.read_bytes()
    summary = read_summary(folder)
    assert summary == {
        "state": state,
        "best": {"val_loss": None},
        "metrics": {"rows": 3, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
    }
    assert "NaN" not in folder.summary.read_text()
    assert read_journal(folder.events).rows[-1]["event"] == state
    status = read_status(folder)
    assert (status.state, status.summary) == (state, summary)
    assert not list(folder.path.glob(".*"))


def test_a_writer_that_cannot_open_its_second_journal_lets_go_of_the_first(folder):
    folder.metrics.mkdir()
    with pytest.raises(IsADirectoryError):
        RecordWriter(folder)  # a ResourceWarning would be an error only for file objects: count descriptors
    assert not any(str(folder.events) == target for target in open_files())


def open_files():
    from pathlib import Path

    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return found
