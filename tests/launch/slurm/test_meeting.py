"""Ranks of many runs on one host meet at once: through files, so no port can clash."""

import multiprocessing
from pathlib import Path

from support.trainings import _warm_server
from support.worlds import meet

RUNS = 64


def test_sixty_four_runs_of_two_ranks_meet_at_once(tmp_path: Path) -> None:
    _warm_server()
    context = multiprocessing.get_context("forkserver")
    pairs = [(run, rank) for run in range(RUNS) for rank in range(2)]
    ranks = [context.Process(target=meet, args=(str(tmp_path), *pair)) for pair in pairs]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * (2 * RUNS)
    assert all((tmp_path / f"{run}.{rank}").read_text() == str(2 * run + 1) for run, rank in pairs)
