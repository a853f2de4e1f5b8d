import json
import random
import sys

import numpy as np
import pytest

from normhpc.results.store import reading
from normhpc.results.store.lines import Shapes


@pytest.fixture
def paths(tmp_path):
    """Files of different forms, one torn, one empty, one that is not there."""
    source = random.Random(0)
    for number in range(20):
        names = source.sample(("loss", "top1", "top5"), 2)
        rows = [
            {"attempt": 1, "epoch": e, "step": e, "split": "val"} | {n: source.random() for n in names}
            for e in range(9)
        ]
        (tmp_path / str(number)).write_text("\n".join(map(json.dumps, rows)) + "\n")
    with (tmp_path / "3").open("a") as file:
        file.write("{")
    (tmp_path / "4").write_text("")
    return [str(tmp_path / str(number)) for number in range(21)]


def plainly(read, shapes):
    """Marks, extents, values, and every line with its form spelled out."""
    lines = [(e, s, a, shapes.known[form]) for e, s, a, form in read.parsed.lines.tolist()]
    return read.marks, read.parsed.extents, read.parsed.values.tolist(), lines


@pytest.fixture
def workers(monkeypatch):
    monkeypatch.setattr(reading, "_WHILE_A_WORKER_STARTS", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2})


def test_workers_find_what_one_process_finds(paths, workers):
    here, there = Shapes(), Shapes([("test", ("loss",))])
    expected = plainly(reading.read_here(paths, here), here)
    assert expected[0][20] == (-1, -1, -1)
    assert (expected[1][3].torn, expected[1][4].lines, len(expected[3])) == (1, 0, 19 * 9)
    assert plainly(reading.read_files(paths, 1000, there), there) == expected
    assert there.known[0] == ("test", ("loss",))


@pytest.mark.parametrize("command", ["/nonexistent/python", "false"])
def test_what_no_worker_answers_is_read_here(paths, workers, monkeypatch, command):
    here, there = Shapes(), Shapes()
    expected = plainly(reading.read_here(paths, here), here)
    monkeypatch.setattr(sys, "executable", command)
    assert plainly(reading.read_files(paths, 1000, there), there) == expected


@pytest.mark.parametrize("end", ["exit 0", "kill -9 $$"])
def test_an_answer_that_is_cut_short_is_none(paths, workers, monkeypatch, tmp_path, end):
    here, there = Shapes(), Shapes()
    expected = plainly(reading.read_here(paths, here), here)
    worker = tmp_path / "worker"
    head = '{"lines":5,"values":5,"shapes":[],"marks":[],"extents":[]}'
    worker.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{head}'\nprintf abc\n{end}\n")
    worker.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(worker))
    assert plainly(reading.read_files(paths, 1000, there), there) == expected


def test_few_bytes_need_no_worker(paths, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    shapes = Shapes()
    assert np.isfinite(reading.read_files(paths, 10**6, shapes).parsed.values).all()
