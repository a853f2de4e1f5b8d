"""Calling ``normhpc``: in this process, or as one of its own that can be killed; and reading what came of it."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from support.fake_cli import launch_with_fakes

from normhpc import cli
from normhpc.launch import command

FAKE_CLI = Path(__file__).with_name("fake_cli.py")

SWEEP = """
name: fakes
base:
  data: {name: synthetic, images: 64, test_images: 16, channels: 1, height: 8, width: 8}
  model: {name: convnet, widths: [4]}
  epochs: 1
  batch_size: 16
matrix:
  norm: [none, batch]
seeds: 2
resources: {minutes: 30}
"""


class Answer(NamedTuple):
    """What a call of ``normhpc`` gave."""

    code: int
    out: str
    err: str


def normhpc(*arguments: object) -> Answer:
    """Call ``normhpc`` in this process, with ranks that train nothing."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    argv = ["normhpc", *map(str, arguments)]
    code = 0
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(command, "launch_locally", launch_with_fakes),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Answer(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


@dataclass
class Launch:
    """A launcher in a process and a session of its own."""

    process: subprocess.Popen[bytes]
    err_path: Path

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)


@contextlib.contextmanager
def launching(
    *arguments: object, cwd: Path, fakes: dict | None = None, real: bool = False, prefix: tuple[str, ...] = ()
) -> Iterator[Launch]:
    """``normhpc ARGUMENTS`` in the background; with ``real`` it trains. Killed with all its ranks at the end."""
    program = ["-m", "normhpc"] if real else [str(FAKE_CLI)]
    environment = os.environ | {"FAKE_RANKS": json.dumps(fakes or {}), "FAKE_TRACE": str(cwd / "trace.jsonl")}
    err_path = cwd / f"err-{time.monotonic_ns()}"
    with err_path.open("wb") as err:
        process = subprocess.Popen(
            [*prefix, sys.executable, *program, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield Launch(process, err_path)
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], object], seconds: float = 60) -> float:
    """Wait until ``true``; how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"waited {seconds} s in vain"
        time.sleep(0.02)
    return time.monotonic() - began


def rows(path: Path) -> list[dict]:
    """The lines of a journal or trace; none when it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events(run: Path) -> list[str]:
    return [row["event"] for row in rows(run / "events.jsonl")]


def fingerprint(folder: Path) -> dict[str, str]:
    """Digest of every file below ``folder``; a folder has an entry too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
