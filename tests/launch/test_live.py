"""What a launch looks like on a terminal."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console
from rich.live import Live
from support.launches import FAKE_CLI, SWEEP, normhpc

from normhpc.launch.live import LineWatcher, TableWatcher
from normhpc.launch.ranks import ActiveRun
from normhpc.record import RunFolder

ESCAPE = re.compile(r"\x1b\[[0-9;?]*([A-Za-z])")


def on_terminal(*arguments: str, columns: int = 100, **environment: str) -> tuple[int, str]:
    """Exit code and all that a terminal was sent by ``normhpc ARGUMENTS`` with fake ranks."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(FAKE_CLI), *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"} | environment,
        start_new_session=True,
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            sent += (piece := os.read(ours, 65536))
        except OSError:  # how Linux says that nobody has the terminal open any more
            break
        if not piece:
            break
    os.close(ours)
    return process.wait(30), sent.decode()


@pytest.fixture(autouse=True)
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    Path("fakes.yaml").write_text(SWEEP)
    monkeypatch.setenv(
        "FAKE_RANKS",
        json.dumps({"0": {"epochs": 3, "epoch_seconds": 1.2}, "1": {"faults": {"0": "raise"}}}),
    )


def test_table_with_the_newest_metrics_and_a_bar_on_a_terminal() -> None:
    code, sent = on_terminal("sweep", "fakes.yaml", "--local", "--slots", "1", "--limit", "2")
    text = ESCAPE.sub("", sent)
    ids = sorted(path.name for path in Path("runs/fakes").iterdir())
    assert code == 1
    header = ["slot", "run", "seconds", "epoch", "newest"]
    assert header in [line.split() for line in text.splitlines()]
    label = r"0\s+[0-9a-f]{16}\s+norm=none seed=0\s+\d+\s+"
    assert re.search(label + r"0/1\s", text)
    assert re.search(label + r"[12]/1\s+val_loss 0\.5000 val_top1 0\.2500", text)
    assert re.search(r"runs ━+ 0/2 0:0\d:\d\d", text)
    assert re.search(r"1/2 0:0\d:\d\d 1 finished", text)
    failed = next(line for line in text.splitlines() if line.startswith("failed "))
    assert re.fullmatch(rf"failed ({'|'.join(ids)})  norm=none seed=1", failed)
    assert "fakes: launched 2 of 4 runs; 2 new, 1 finished, 1 failed" in text.splitlines()
    assert "\x1b[?25l" in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")  # the cursor is back


def test_the_result_of_images_with_several_labels(tmp_path: Path) -> None:
    final = {"test_loss": 0.2, "test_map_macro": 0.625, "test_cf1": 0.5}
    (tmp_path / "summary.json").write_text(json.dumps({"state": "finished", "final": final}))
    (tmp_path / "metrics.jsonl").write_text(
        '{"epoch": 1, "split": "val", "loss": 0.5, "map_macro": 0.25, "cf1": 0.1}\n'
    )
    job = SimpleNamespace(folder=RunFolder(tmp_path), label="norm=none", epochs=2)
    run = cast(ActiveRun, SimpleNamespace(job=job, slots=(), seconds=3.0))
    shown = io.StringIO()
    LineWatcher(1, 1, Console(file=shown)).ended(run, "finished")
    assert shown.getvalue().splitlines()[1] == (
        f"finished  {tmp_path.name}  norm=none  test_map_macro 0.6250 (3.0 s, 1/1)"
    )
    watcher = TableWatcher(1)
    with Live(console=Console(file=shown, width=200), auto_refresh=False) as live:
        watcher.attach(live)
        watcher.tick([run], 0)
    assert "1/2    val_loss 0.5000 val_map_macro 0.2500" in shown.getvalue()


def test_no_colour_where_none_is_wanted() -> None:
    _, colourful = on_terminal("doctor")
    assert "\x1b[32mok  \x1b[0m" in colourful
    _, plain = on_terminal("doctor", NO_COLOR="1")
    assert {match[0] for match in re.finditer(r"\x1b\[[0-9;]*m", plain)} <= {"\x1b[0m", "\x1b[1m"}
    assert "ok" in plain


def test_piped_output_has_no_escapes_and_no_wraps() -> None:
    long = "a_long_folder_name_" * 8
    answers = [
        normhpc("sweep", "fakes.yaml", "--local", "--runs", long),
        normhpc("sweep", "fakes.yaml", "--dry-run", "--runs", long),
        normhpc("status", "--runs", long),
        normhpc("doctor", "--runs", long),
        normhpc("list", "norms"),
        normhpc("list", "data"),
    ]
    lines = [line for answer in answers for line in (answer.out + answer.err).splitlines()]
    assert not any("\x1b" in line for line in lines)
    assert max(map(len, lines)) > 160
    failed = [line for line in answers[2].out.splitlines() if "alike" in line]
    assert len(failed) == 1
    # which of the two failed first is chance
    expected = r"\S+ and 1 alike +data=synthetic +model=convnet +norm=(none|batch) +ValueError: no good"
    assert re.fullmatch(expected, failed[0].strip())
