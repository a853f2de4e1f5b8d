"""Many ``metrics.jsonl`` at once, on all processors that this process may use.

A worker is ``python -m normhpc.results.store.reading``, not a fork or a pool of Python's: those may not be used where
threads run, or run the caller's script again. It gets a JSON list of paths on its standard input and answers with a line
of JSON and two arrays on its standard output. What a worker did not answer is read here.
"""

import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from normhpc.results.store.garbage import without_garbage_collection
from normhpc.results.store.lines import LINE, Extent, LineParser, Parsed, Shapes
from normhpc.results.store.marks import Mark

_WHILE_A_WORKER_STARTS = 64_000_000
"""Bytes that are parsed while a worker starts, and hands over what it parsed: so many more are the caller's share."""
_MOST_WORKERS = 8


class Read(NamedTuple):
    """The content of files in the order of their paths, and the mark each had before it was read."""

    marks: list[Mark]
    parsed: Parsed


def read_files(paths: Sequence[str], size: int, shapes: Shapes) -> Read:
    """Parse the files at ``paths``, of ``size`` bytes together; forms of lines that are new are added to ``shapes``."""
    processes = min(len(os.sched_getaffinity(0)), _MOST_WORKERS, 1 + size // (2 * _WHILE_A_WORKER_STARTS))
    if processes < 2:
        return read_here(paths, shapes)
    others = (size - _WHILE_A_WORKER_STARTS) / size / processes
    bounds = [0, *(round(len(paths) * (1 - others * left)) for left in range(processes - 1, -1, -1))]
    shares = [paths[first:end] for first, end in itertools.pairwise(bounds)]
    answers: list[_Answer | None] = [None] * len(shares)
    threads = [
        threading.Thread(target=_ask, args=(share, number, answers)) for number, share in enumerate(shares[1:], 1)
    ]
    for thread in threads:
        thread.start()
    parser = LineParser(shapes)
    marks = _parse(shares[0], parser)
    for number, thread in enumerate(threads, 1):
        thread.join()
        answer = answers[number]
        if answer:
            marks += [(mark[0], mark[1], mark[2]) for mark in answer.head["marks"]]
            parser.append(_understood(answer, shapes))
        else:
            marks += _parse(shares[number], parser)
    return Read(marks, parser.parsed())


def read_here(paths: Sequence[str], shapes: Shapes) -> Read:
    """Parse the files at ``paths`` in this process; one that vanished is empty."""
    parser = LineParser(shapes)
    return Read(_parse(paths, parser), parser.parsed())


def _parse(paths: Sequence[str], parser: LineParser) -> list[Mark]:
    """Give ``parser`` the files at ``paths``; the mark that each had before it was read."""
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
    return marks


class _Answer(NamedTuple):
    """What a worker found, with its own numbers of the forms of lines, and what else it says."""

    head: dict[str, Any]
    lines: NDArray[np.void]
    values: NDArray[np.float64]


def _ask(paths: Sequence[str], number: int, answers: list[_Answer | None]) -> None:
    command = [sys.executable, "-m", "normhpc.results.store.reading"]
    try:
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        # no more processes are allowed
        return
    with worker, contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
        asked, told = cast("io.BufferedWriter", worker.stdin), cast("io.BufferedReader", worker.stdout)
        asked.write(json.dumps(paths).encode())
        asked.close()
        head = msgspec.json.decode(told.readline())
        # straight to where it stays: new memory costs more than parsing
        found = _Answer(head, np.empty(head["lines"], LINE), np.empty(head["values"]))
        got = [told.readinto(part.view(np.uint8).data) for part in found[1:]]
        if got == [found.lines.nbytes, found.values.nbytes] and worker.wait() == 0:
            answers[number] = found


def _understood(answer: _Answer, shapes: Shapes) -> Parsed:
    """What a worker found, with the numbers that ``shapes`` has for its forms of lines."""
    known = [shapes.number(split, tuple(names)) for split, names in answer.head["shapes"]]
    answer.lines["shape"] = np.array(known, LINE["shape"])[answer.lines["shape"]]
    return Parsed(answer.lines, answer.values, [Extent(*extent) for extent in answer.head["extents"]])


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
