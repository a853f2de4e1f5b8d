"""The ``normhpc`` command line whose launcher starts ``fake_rank.py`` instead of a training."""

import functools
import sys
from pathlib import Path

from normhpc import cli
from normhpc.launch import command
from normhpc.record import RunFolder


def fake_command(folder: RunFolder) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("fake_rank.py")), str(folder.path)]


launch_with_fakes = functools.partial(command.launch_locally, command=fake_command)

if __name__ == "__main__":
    command.launch_locally = launch_with_fakes
    cli.main()
