"""Bad sweep files: every mistake of a file at once, with its place, in the exact words of ``bad/NAME.error.txt``."""

from pathlib import Path

import pytest

from normhpc.errors import InputError
from normhpc.sweep import load

BAD = Path(__file__).parent / "bad"
FILES = sorted(BAD.glob("*.yaml"))


def test_there_are_enough_of_them():
    assert len(FILES) >= 25


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_message(file, monkeypatch):
    monkeypatch.chdir(BAD)
    with pytest.raises(InputError) as caught:
        load(file.name)
    assert f"{caught.value}\n" == file.with_suffix(".error.txt").read_text()


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError) as caught:
        load(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"


def test_a_file_that_is_not_text(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"base: {act: \xff}")
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: not UTF-8 text: invalid start byte at byte 12"


def test_the_name_of_the_file_must_do_as_a_name(tmp_path):
    file = tmp_path / "my sweep.yaml"
    file.write_text("base: {}")
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}:1:1: name: expected letters, digits, dots, _ and -, not starting with a dot, got 'my sweep', "
        "the name of the file; give the sweep a name"
    )


def test_a_name_that_is_a_number_in_yaml(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("name: 3")
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value) == (
        f'{file}:1:7: name: expected letters, digits, dots, _ and -, not starting with a dot, got 3, a number; write "3"'
    )


def test_contradictions_of_a_large_sweep_are_met_while_expanding(tmp_path):
    file = tmp_path / "large.yaml"
    rates = ", ".join(str(rate / 1000) for rate in range(1, 201))
    file.write_text(
        f"matrix:\n  optim.lr: [{rates}]\n  optim.momentum: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]\n"
        "  schedule.warmup_epochs: [0, 1, 2, 3, 4, 5]\n  epochs: [10, 3]\n"
    )
    sweep = load(file)
    with pytest.raises(InputError) as caught:
        list(sweep.runs())
    assert str(caught.value) == (
        f"{file}:4:40: matrix.schedule.warmup_epochs[4]: expected at most the run's 3 epochs, got 4"
    )


def test_misfits_are_found_once_and_do_not_stop_the_expansion(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "matrix:\n  norm: [{name: group, groups: 5}, group, batch]\n  epochs: [1, 2]\n"
        "base: {data: synthetic, data.height: 2}\nseeds: 3\n"
    )
    sweep = load(file)
    assert sweep.count() == 18
    assert [str(problem) for problem in sweep.misfits()] == [
        f"{file}:2:32: matrix.norm[0].groups: groups 5 does not divide the 32 channels of a layer of convnet; "
        "what divides all its widths (32, 64): 1, 2, 4, 8, 16, 32; "
        "indivisible: shrink takes the next number of groups that does",
        f"{file}:4:14: base.data: model.widths: 2 layers halve synthetic images of 2x32 to nothing; use at most 1; "
        "set model.widths",
    ]
