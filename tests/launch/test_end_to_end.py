"""Real trainings, killed for real: two ranks on this machine, from the sweep file to the table."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.launches import Launch, alive, events, launching, normhpc, rows, until

from normhpc.record.lock import is_locked

SWEEP = """
name: pair
base:
  data: {name: synthetic, images: 96, test_images: 32, channels: 1, height: 8, width: 8, val_fraction: 0}
  model: {name: convnet, widths: [4]}
  norm: {name: batch, sync: true}
  epochs: 100000
  batch_size: 48
  checkpoint: {every_epochs: 20}
resources: {gpus_per_node: 2}
"""


def ranks_of(launch: Launch) -> dict[int, int]:
    """Process of each rank of the one run under way."""
    children = Path(f"/proc/{launch.process.pid}/task/{launch.process.pid}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(entry[5:]): pid for entry in environment if entry.startswith(b"RANK=")}
    return found


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_two_ranks_killed_one_by_one_and_with_their_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pair.yaml").write_text(SWEEP)
    run = Path("runs/pair") / json.loads(normhpc("expand", "pair.yaml").out)["run_id"]
    command = ("sweep", "pair.yaml", "--local")

    with launching(*command, cwd=tmp_path, real=True) as launch:
        until(lambda: lines(run / "metrics.jsonl") >= 30, 120)
        ranks = ranks_of(launch)
        os.kill(ranks[1], signal.SIGKILL)
        freed = until(lambda: launch.process.poll() is not None)
    assert freed < 60
    assert launch.process.returncode == 1
    lost = rows(run / "events.jsonl")[-1]
    host = os.uname().nodename
    assert {key: lost[key] for key in ("event", "rank", "host", "message")} == {
        "event": "lost",
        "rank": 1,
        "host": host,
        "message": f"rank 1 on {host} was killed by SIGKILL",
    }
    assert not any(map(alive, ranks.values()))

    before = lines(run / "metrics.jsonl")
    with launching(*command, cwd=tmp_path, real=True) as launch:
        until(lambda: lines(run / "metrics.jsonl") >= before + 10, 120)
        ranks = ranks_of(launch)
        launch.process.kill()
        freed_by_launcher = until(lambda: not any(map(alive, ranks.values())))
    assert freed_by_launcher < 60
    assert not is_locked(Path("runs/pair"))
    assert not is_locked(run / "events.jsonl")
    kinds = [kind for kind in events(run) if kind != "warning"]
    assert kinds == ["submitted", "started", "lost", "submitted", "resumed", "preempted"]
    print(f"slot free after {freed:.1f} s (rank killed), {freed_by_launcher:.1f} s (launcher killed)")


def test_one_rank_trains_to_the_end_and_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("name: one\nbase: {epochs: 1}\n")
    with launching("sweep", "one.yaml", "--local", cwd=tmp_path, real=True) as launch:
        assert launch.wait(120) == 0
    (run,) = Path("runs/one").iterdir()
    log = (run / "log.txt").read_text().splitlines()
    assert [line.split()[:4] for line in log] == [["[0]", "epoch", "1/1", split] for split in ("train", "val", "test")]
    (row,) = json.loads(normhpc("collect", "--per-run", "--format", "json").out)
    assert (row["run_id"], row["state"], row["norm.name"]) == (run.name, "finished", "batch")
    assert row["test_top1"] == json.loads((run / "summary.json").read_text())["final"]["test_top1"]
    with launching("sweep", "one.yaml", "--local", cwd=tmp_path, real=True) as again:
        assert again.wait() == 0
    assert again.err == "one: launched 0 of 1 run; 1 finished\n"
