"""From what a user types to the run that is meant."""

import pytest

from normhpc.config import Resources, RunConfig
from normhpc.errors import InputError
from normhpc.record import RunFolder
from normhpc.record.find import find_run


@pytest.fixture
def runs(tmp_path):
    for name in ("0123456789abcdef", "0124456789abcdef", "ffff456789abcdef"):
        RunFolder(tmp_path / "runs" / "demo" / name).create(
            RunConfig(), sweep="demo", swept={}, resources=Resources(), code={}
        )
    return tmp_path / "runs"


def test_a_folder_or_the_start_of_an_id(runs):
    folder = runs / "demo" / "ffff456789abcdef"
    assert find_run(str(folder), runs).path == folder
    for name in ("f", "ffff", "ffff456789abcdef"):
        assert find_run(name, runs).path == folder


def test_no_such_run(runs):
    for name in ("abc", "*", "demo", "../demo", "f" * 17, ""):
        with pytest.raises(InputError) as caught:
            find_run(name, runs)
        shown = name or "''"
        assert str(caught.value) == (
            f"{shown}: no such run in {runs}/; give its folder or the start of its id (normhpc collect --per-run)"
        )


def test_more_than_one_run(runs):
    with pytest.raises(InputError) as caught:
        find_run("012", runs)
    shown = f"{runs / 'demo' / '0123456789abcdef'}, {runs / 'demo' / '0124456789abcdef'}"
    assert str(caught.value) == f"012: could be 2 runs: {shown}; give more of the id, or the folder"
