"""The ``normhpc`` command line whose Slurm jobs start ``fake_rank.py``: the journal says so, and the tasks obey it."""

import sys
from pathlib import Path

from normhpc import cli
from normhpc.launch.slurm.journal import Launch, SubmissionJournal

FAKE_RANK = [sys.executable, str(Path(__file__).with_name("fake_rank.py"))]

_declare = SubmissionJournal.declare


def declare_with_fakes(self: SubmissionJournal, *arguments: object) -> Launch:
    return _declare(self, *arguments, command=FAKE_RANK)  # type: ignore[arg-type]


def main() -> None:
    SubmissionJournal.declare = declare_with_fakes  # type: ignore[method-assign, assignment]
    cli.main()


if __name__ == "__main__":
    main()
