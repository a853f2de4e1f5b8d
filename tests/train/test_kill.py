"""A run killed with SIGKILL at ten random moments ends like the one that nobody touched."""

import os
import random
import signal
import subprocess
import sys
import time

from support.trainings import events, exit_codes, new_run, outcome, start_ranks, wait_for_progress

from normhpc.record.journal import read_journal
from normhpc.train import run

KILLS = 10
LONG = {
    "batch_size": 64,
    "epochs": 80,
    "augment": "standard",
    "checkpoint": {"every_steps": 3},
    "model": {"name": "convnet", "widths": [8, 16]},
}


def command(folder):
    """The command a user types, in a process of its own."""
    with folder.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "normhpc", "train", str(folder.path)], stdout=log, stderr=subprocess.STDOUT
        )


class Command:
    """:func:`command` with the names of a multiprocessing process."""

    def __init__(self, folder):
        self.popen = command(folder)
        self.pid = self.popen.pid

    def is_alive(self):
        return self.popen.poll() is None

    def join(self):
        self.popen.wait()

    @property
    def exitcode(self):
        return self.popen.poll()


def test_ten_kills(tmp_path):
    """The first attempt is the command as a user types it; the others do the same in a process forked with torch loaded."""
    whole, cut = new_run(tmp_path / "whole", LONG), new_run(tmp_path / "cut", LONG)
    expected = run(whole.path)
    chance = random.Random(20)
    places = []
    for attempt in range(KILLS):
        process = Command(cut) if attempt == 0 else start_ranks(cut)[0]
        # what counts are moments of the training, not of the imports before it
        wait_for_progress(cut, process)
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, cut.log.read_text()
        assert not cut.summary.exists()
        places.append(cut.checkpoint.stat().st_mtime_ns)
    assert exit_codes(start_ranks(cut)) == [0], cut.log.read_text()
    assert outcome(cut) == outcome(whole)
    summary = run(cut.path)
    assert {key: summary[key] for key in ("state", "final", "best", "steps")} == {
        key: expected[key] for key in ("state", "final", "best", "steps")
    }
    assert len(set(places)) == KILLS
    told = events(cut)
    assert told[0] == "started"
    assert told.count("resumed") == KILLS
    assert told[-1] == "finished"
    assert "failed" not in told
    steps = [(row["epoch"], row["step"]) for row in read_journal(cut.events).rows if row["event"] == "resumed"]
    assert steps == sorted(steps)
    assert any(step for _, step in steps)  # resumed inside an epoch, not only between two
    print(f"resumed at (epoch, step) {steps}")
