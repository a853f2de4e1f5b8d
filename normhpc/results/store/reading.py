"""Many ``metrics.jsonl`` at once, on all processors that this process may use.

A worker is ``python -m normhpc.results.store.reading``, not a fork or a pool of Python's: those may not be used where
threads run, or run the caller's script again. It gets a JSON list of paths on its standard input and answers with a line
of JSON and two arrays on its standard output. What a worker did not answer is read here.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic_core import from_json

from normhpc.results.store.folder import Mark, without_garbage_collection
from normhpc.results.store.lines import LINE, Extent, LineParser, Parsed, Shapes

_WORTH_A_WORKER = 32_000_000
"""Bytes that take longer to parse than a worker takes to start."""
_MOST_WORKERS = 8


class Read(NamedTuple):
    """The content of files in the order of their paths, and the mark each had before it was read."""

    marks: list[Mark]
    parsed: Parsed


def read_files(paths: Sequence[str], size: int, shapes: Shapes) -> Read:
    """Parse the files at ``paths``, of ``size`` bytes together; forms of lines that are new are added to ``shapes``."""
    workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS, size // _WORTH_A_WORKER)
    if workers < 2:
        return read_here(paths, shapes)
    bounds = [len(paths) * number // workers for number in range(workers + 1)]
    shares = [paths[first:end] for first, end in itertools.pairwise(bounds)]
    answers: list[bytes] = [b""] * len(shares)
    threads = [
        threading.Thread(target=_ask, args=(share, number, answers)) for number, share in enumerate(shares[1:], 1)
    ]
    for thread in threads:
        thread.start()
    parts = [read_here(shares[0], shapes)]
    for number, thread in enumerate(threads, 1):
        thread.join()
        parts.append(_understood(answers[number], shapes) or read_here(shares[number], shapes))
        answers[number] = b""
    return Read(
        [mark for part in parts for mark in part.marks],
        Parsed(
            np.concatenate([part.parsed.lines for part in parts]),
            np.concatenate([part.parsed.values for part in parts]),
            [extent for part in parts for extent in part.parsed.extents],
        ),
    )


def read_here(paths: Sequence[str], shapes: Shapes) -> Read:
    """Parse the files at ``paths`` in this process; one that vanished is empty."""
    parser = LineParser(shapes)
    marks: list[Mark] = []
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - no Path is made for it
                found = os.fstat(file.fileno())
                content = file.read()
            marks.append((found.st_size, found.st_mtime_ns, found.st_ino))
        except OSError:
            content = b""
            marks.append((-1, -1, -1))
        parser.add(content)
    return Read(marks, parser.parsed())


def _ask(paths: Sequence[str], number: int, answers: list[bytes]) -> None:
    command = [sys.executable, "-m", "normhpc.results.store.reading"]
    try:
        worker = subprocess.run(command, input=json.dumps(paths).encode(), capture_output=True, check=False)
    except OSError:
        # no more processes are allowed
        return
    if worker.returncode == 0:
        answers[number] = worker.stdout


def _understood(answer: bytes, shapes: Shapes) -> Read | None:
    """What a worker found, with the numbers that ``shapes`` has for its forms of lines."""
    if not answer:
        return None
    end = answer.index(b"\n")
    head = from_json(answer[:end])
    lines_end = end + 1 + head["lines"] * LINE.itemsize
    lines = np.frombuffer(answer, LINE, head["lines"], end + 1).copy()
    values = np.frombuffer(answer, np.float64, head["values"], lines_end)
    numbers = np.array([shapes.number(split, tuple(names)) for split, names in head["shapes"]], LINE["shape"])
    lines["shape"] = numbers[lines["shape"]]
    marks = [(mark[0], mark[1], mark[2]) for mark in head["marks"]]
    return Read(marks, Parsed(lines, values, [Extent(*extent) for extent in head["extents"]]))


@without_garbage_collection()
def _answer() -> None:
    shapes = Shapes()
    marks, parsed = read_here(json.load(sys.stdin.buffer), shapes)
    head = {
        "lines": len(parsed.lines),
        "values": len(parsed.values),
        "shapes": shapes.known,
        "marks": marks,
        "extents": parsed.extents,
    }
    out = sys.stdout.buffer
    out.write(json.dumps(head).encode() + b"\n")
    out.write(parsed.lines.view(np.uint8).data)
    out.write(parsed.values.view(np.uint8).data)


if __name__ == "__main__":
    _answer()
