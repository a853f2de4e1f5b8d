"""The journal of submissions, torn and cut off anywhere."""

from pathlib import Path

import pytest
from support.submittable import runs

from normhpc.launch.profile import Profile
from normhpc.launch.slurm.journal import Launch, SubmissionJournal


@pytest.fixture
def journal(tmp_path: Path) -> SubmissionJournal:
    journal = SubmissionJournal(tmp_path / "s")
    journal.folder.mkdir(parents=True)
    return journal


def declare(journal: SubmissionJournal, count: int, **resources: int) -> Launch:
    return journal.declare(runs(count, **resources), Profile(partition="p"), "/code", {"version": "1"})


@pytest.mark.parametrize(("count", "size", "sizes"), [(1, 1, [1]), (7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2])])
def test_chunks(journal: SubmissionJournal, count: int, size: int, sizes: list[int]) -> None:
    launch = declare(journal, count, runs_per_job=size)
    assert [len(chunk) for chunk in launch.chunks] == sizes
    assert [run_id for chunk in launch.chunks for run_id in chunk] == [run.run_id for run in runs(count)]
    assert [len(journal.read_chunk(launch.token, index)) for index in range(len(sizes))] == sizes
    with pytest.raises(IndexError):
        journal.read_chunk(launch.token, len(sizes))


def test_what_is_written_is_read(journal: SubmissionJournal) -> None:
    launch = declare(journal, 5)
    first = journal.intend(launch, 0, 2)
    journal.accepted(first, "17")
    second = journal.intend(launch, 2, 5)
    [read] = journal.launches()
    assert (read.token, read.resources, read.profile, read.code, read.version) == (
        launch.token,
        launch.resources,
        launch.profile,
        "/code",
        {"version": "1"},
    )
    assert [(wave.name, wave.start, wave.stop, wave.job_id) for wave in read.waves] == [
        (first, 0, 2, "17"),
        (second, 2, 5, None),
    ]
    assert read.submitted == 5
    assert not read.closed
    journal.close([launch])
    assert journal.launches()[0].closed


def test_a_refused_name_is_never_used_again(journal: SubmissionJournal) -> None:
    launch = declare(journal, 5)
    first = journal.intend(launch, 0, 5)
    journal.refused(first, "why")
    assert journal.is_refused(first)
    [read] = journal.launches()
    assert (read.waves, read.submitted, read.intents) == ([], 0, 1)
    again = journal.intend(read, 0, 5)
    assert again != first
    assert not journal.is_refused(again)


def test_cut_off_at_any_byte_it_is_a_journal_of_what_was_whole(journal: SubmissionJournal) -> None:
    launch = declare(journal, 3)
    name = journal.intend(launch, 0, 3)
    journal.accepted(name, "5")
    whole = journal.path.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == 10]
    for cut in [0, 1, ends[0], ends[0] + 1, ends[1] - 3, ends[1] + 1, ends[2] - 1]:
        journal.path.write_bytes(whole[:cut])
        lines = sum(cut >= end for end in ends)
        launches = journal.launches()
        assert len(launches) == (lines >= 1)
        assert [wave.job_id for launch in launches for wave in launch.waves] == [None] * (lines == 2)
        # and it goes on after the torn line
        fresh = declare(journal, 1)
        assert journal.launches()[-1].token == fresh.token
