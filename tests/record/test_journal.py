"""Journals: what survives a crash at any byte."""

import errno
import json
import math
import multiprocessing
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.appending import append_many

from normhpc.record import RunFolder
from normhpc.record.journal import Journal, finite, read_journal

ROWS = [{"n": 1, "text": "plain"}, {"n": 2, "text": "ü {\n}"}, {"n": 3, "list": [1.5, None, {"a": True}]}]


def written(path, rows):
    with Journal(path) as journal:
        for row in rows:
            journal.append(row)
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path):
    content = written(tmp_path / "j", ROWS)
    assert read_journal(tmp_path / "j") == (ROWS, 0)
    assert content.count(b"\n") == 3
    assert content.endswith(b"\n")
    assert content.splitlines()[0] == b'{"n":1,"text":"plain"}'


def test_opening_and_closing_writes_nothing(tmp_path):
    content = written(tmp_path / "j", ROWS)
    assert written(tmp_path / "j", []) == content


def test_absent_is_empty(tmp_path):
    assert read_journal(tmp_path / "nothing") == ([], 0)


def test_torn_at_every_byte_of_the_last_line(tmp_path):
    """Cut anywhere, then gone on with: the whole lines before and all lines after are there, the torn one is counted."""
    path = tmp_path / "j"
    whole = written(path, ROWS)
    before = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for cut in range(before, len(whole) + 1):
        path.write_bytes(whole[:cut])
        written(path, [{"n": 4}, {"n": 5}])
        rows, torn = read_journal(path)
        complete = cut >= len(whole) - 1  # only the newline is missing, which is supplied
        assert rows == [*ROWS[: 3 if complete else 2], {"n": 4}, {"n": 5}], cut
        assert torn == (0 if complete or cut == before else 1), cut


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), min_size=1, max_size=4), st.data())
def test_any_rows_torn_anywhere(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("journal") / "j"
    whole = written(path, rows)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    written(path, [{"after": "this"}])
    found, torn = read_journal(path)
    # a line that lost no more than its newline is whole
    ends = [0]
    for line in whole.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    complete = sum(cut >= end - 1 for end in ends[1:])
    assert found == [*rows[:complete], {"after": "this"}]
    assert torn == (cut not in ends and cut + 1 not in ends)


def test_lines_that_are_no_rows_are_torn(tmp_path):
    (tmp_path / "j").write_bytes(b'{"n": 1}\n[1, 2]\n"text"\nnull\n\xff\xfe\n\n   \n{"n": 2}{"n": 3}\n{"n": 4}')
    assert read_journal(tmp_path / "j") == ([{"n": 1}, {"n": 4}], 5)


@pytest.mark.parametrize("kept", [0, 1, 10])
def test_partial_write_is_an_error_and_the_next_line_is_whole(tmp_path, monkeypatch, kept):
    path = tmp_path / "j"
    write = os.write
    with Journal(path) as journal:
        journal.append({"n": 1})
        monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:kept]))
        with pytest.raises(OSError, match="No space left") as caught:
            journal.append({"n": 2, "text": "long enough"})
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(path)
        monkeypatch.undo()
        journal.append({"n": 3})
        journal.append({"n": 4})
    assert read_journal(path) == ([{"n": 1}, {"n": 3}, {"n": 4}], int(kept > 0))


def test_disk_full_twice_in_a_row(tmp_path, monkeypatch):
    """The second line cannot begin on a line of its own yet; it must not be glued to the first for good."""
    path = tmp_path / "j"
    write = os.write

    def refuse(descriptor, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(path) as journal:
        monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:5]))
        with pytest.raises(OSError, match="No space left"):
            journal.append({"n": 1})
        monkeypatch.setattr(os, "write", refuse)
        with pytest.raises(OSError, match="No space left"):
            journal.append({"n": 2})
        monkeypatch.undo()
        journal.append({"n": 3})
    assert read_journal(path) == ([{"n": 3}], 1)


def test_a_journal_that_cannot_be_healed_is_closed(tmp_path, monkeypatch):
    (tmp_path / "j").write_bytes(b"torn")
    closed = []
    close = os.close

    def refuse(descriptor, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)
    monkeypatch.setattr(os, "close", lambda descriptor: closed.append(descriptor) or close(descriptor))
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path / "j")
    assert len(closed) == 1


def test_each_line_is_one_write_and_one_sync(tmp_path, monkeypatch):
    calls = []
    write, sync = os.write, os.fdatasync
    with Journal(tmp_path / "j") as journal:
        monkeypatch.setattr(os, "write", lambda d, content: calls.append(bytes(content)) or write(d, content))
        monkeypatch.setattr(os, "fdatasync", lambda d: calls.append("sync") or sync(d))
        journal.append({"n": 1})
        journal.append({"n": 2})
        monkeypatch.undo()
    assert calls == [b'{"n":1}\n', "sync", b'{"n":2}\n', "sync"]


def test_what_json_has_no_word_for_is_null(tmp_path):
    row = {"a": math.nan, "b": [math.inf, 1.0, (-math.inf,)], "c": {"d": math.nan, "e": "NaN"}, "f": 2}
    expected = {"a": None, "b": [None, 1.0, [None]], "c": {"d": None, "e": "NaN"}, "f": 2}
    assert finite(row) == expected
    content = written(tmp_path / "j", [row])
    assert json.loads(content, parse_constant=pytest.fail) == expected


def test_two_processes_append_at_once_and_lose_nothing(tmp_path):
    context = multiprocessing.get_context("forkserver")
    folder = RunFolder(tmp_path)
    writers = [context.Process(target=append_many, args=(str(tmp_path), name, 150)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    rows, torn = read_journal(folder.events)
    assert torn == 0
    for name in "ab":
        own = [row for row in rows if row["who"] == name]
        assert [row["number"] for row in own] == list(range(150))
        assert all(row["message"] == name * 3000 for row in own)
    assert len({row["who"] for row in rows[:250]}) == 2  # they did run at the same time
