import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from results.fabricate import failed_run, new_run, norm_config, sealed_run, small_study, started_run, write_epochs

from normhpc.record import RecordWriter, RunFolder
from normhpc.record.lock import exclusive_lock
from normhpc.results import collect, load_metrics, load_runs
from normhpc.results.store import folder as store_folder
from normhpc.results.store import metrics as store_metrics
from normhpc.results.store.lines import LineParser
from normhpc.results.store.marks import mark_of

FORMATS = ("table", "csv", "json", "parquet", "markdown", "latex", "html")


def everything(*dirs, formats=("csv",)):
    """The tables of the runs in ``dirs``."""
    tables = [collect(dirs, format=name, per_run=True) for name in formats]
    return [*tables, *(collect(dirs, format=name, strict=True) for name in formats)], load_metrics(*dirs)


def without_cache(*dirs, formats=("csv",)):
    """The same, read from the records alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_folder, "_writable_place", lambda records: None)
        return everything(*dirs, formats=formats)


def assert_same(found, expected):
    assert found[0] == expected[0]
    pd.testing.assert_frame_equal(found[1], expected[1], check_exact=True)
    assert found[1].attrs == expected[1].attrs


def cache_of(runs):
    return runs / ".normhpc-cache"


@pytest.fixture
def study(tmp_path):
    """Runs of all kinds, one of them resumed, one torn."""
    runs = tmp_path / "runs"
    small_study(runs)
    started_run(runs, norm_config("rms", 0), host="")
    new_run(runs, norm_config("none", 7), sweep="other")
    torn = failed_run(runs, norm_config("none", 8), sweep="other")
    with torn.metrics.open("ab") as file:
        file.write(b'{"epoch": 2, "st\n')
    return runs


def resume(folder, epochs=4):
    writer = RecordWriter(folder)
    write_epochs(writer, epochs)
    writer.close()


def test_tables_from_the_cache_are_those_from_the_records(study):
    expected = without_cache(study, formats=FORMATS)
    assert not cache_of(study).exists()
    assert_same(everything(study, formats=FORMATS), expected)
    assert cache_of(study).is_dir()
    assert_same(everything(study, formats=FORMATS), expected)
    assert_same(everything(study / "demo", study), without_cache(study / "demo", study))
    # a run's own folder holds nothing but what the run writes
    run = next((study / "demo").glob("*/run.json")).parent
    assert_same(everything(run), without_cache(run))
    assert not cache_of(run).exists()


@pytest.mark.parametrize("seed", range(6))
def test_the_cache_follows_whatever_happens_to_the_records(study, seed):
    source = random.Random(seed)
    added = 0
    for _ in range(8):
        run = source.choice(sorted(path.parent for path in study.glob("*/*/run.json")))
        folder = RunFolder(run)
        match source.randrange(9):
            case 0:
                resume(folder, source.randrange(1, 5))
            case 1:
                shutil.rmtree(run)
            case 2:
                folder.summary.unlink(missing_ok=True)
            case 3:
                folder.metrics.unlink(missing_ok=True)
            case 4:
                folder.run_json.write_text(source.choice(("{", "[]", folder.run_json.read_text() + " ")))
            case 5:
                content = json.loads(folder.summary.read_text()) if folder.summary.exists() else {"state": "diverged"}
                folder.summary.write_text(json.dumps(content | {"seconds": source.random()}))
            case 6:
                with folder.metrics.open("ab") as file:
                    file.write(source.choice((b"\n", b'{"torn', b"\x00" * 9)))
            case 7:
                content = folder.metrics.read_bytes() if folder.metrics.exists() else b""
                folder.metrics.write_bytes(content[: source.randrange(len(content) + 1)])
            case 8:
                added += 1
                sealed_run(study, norm_config("instance", 100 + added), source.random())
        assert_same(everything(study), without_cache(study))


def test_rebuild_reads_all_anew(study):
    expected = everything(study)
    (cache_of(study) / "foreign").write_text("")
    collect([study], rebuild=True)
    assert not (cache_of(study) / "foreign").exists()
    assert_same(everything(study), expected)
    frame = load_metrics(study, rebuild=True)
    pd.testing.assert_frame_equal(frame, expected[1])
    # an in-place change that leaves bytes, time and inode alike is the one thing a cache cannot see
    run = RunFolder(next((study / "demo").glob("*/summary.json")).parent)
    before = run.metrics.stat()
    run.metrics.write_bytes(run.metrics.read_bytes().replace(b'"top1":0.5', b'"top1":0.7'))
    os.utime(run.metrics, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not (load_metrics(study)["value"] == 0.7).any()
    assert (load_metrics(study, rebuild=True)["value"] == 0.7).any()


def test_only_what_changed_is_read(study, monkeypatch):
    read = []
    real = LineParser.add
    monkeypatch.setattr(LineParser, "add", lambda self, content: (read.append(content), real(self, content))[1])
    everything(study)
    assert len(read) == 9 - 1  # a run that never began has no lines
    read.clear()
    everything(study)
    assert read == []
    resume(RunFolder(next(study.glob("demo/*/summary.json")).parent))
    everything(study)
    assert len(read) == 1
    documents = []
    monkeypatch.setattr("normhpc.results.records.read_json", lambda path: documents.append(path))
    load_runs(study)
    assert documents == []


def damages(content):
    """What can become of a file."""
    middle = len(content) // 2
    yield b""
    yield content[:middle]
    yield content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    yield content[:middle] + b"\x00" * (len(content) - middle)
    yield content + b"more"
    yield b"nonsense\n[]"


def test_a_damaged_cache_is_read_again(study):
    expected = everything(study)
    names = sorted(path.name for path in cache_of(study).iterdir())
    assert [name.split("-")[0] for name in names] == ["documents", "metrics"] + ["segment"] * (len(names) - 2)
    for name in names:
        path = cache_of(study) / name
        if not path.exists():
            # replaced after the damage of another one
            continue
        for damage in damages(path.read_bytes()):
            path.write_bytes(damage)
            assert_same(everything(study), expected)
    for path in list(cache_of(study).iterdir()):
        path.unlink(missing_ok=True)
        assert_same(everything(study), expected)


@pytest.mark.parametrize("file", ["documents", "metrics"])
@pytest.mark.parametrize(
    "content", [b"{}", b"[1, 2]", b"null", b"[[]],\n[1]", b'{"shapes": 3, "segments": [], "runs": []}']
)
def test_a_whole_file_of_another_form_is_not_used(study, file, content):
    expected = everything(study)
    store_folder.CacheFolder(str(study)).write_head(file, content)
    assert_same(everything(study), expected)


def test_a_cache_of_another_reader_is_not_used(study, monkeypatch):
    expected = everything(study)
    monkeypatch.setattr(store_folder, "READER", store_folder.READER + 1)
    read = []
    real = LineParser.add
    monkeypatch.setattr(LineParser, "add", lambda self, content: (read.append(content), real(self, content))[1])
    assert_same(everything(study), expected)
    assert len(read) == 8


def test_many_segments_become_one_and_dead_parts_go(study, monkeypatch):
    monkeypatch.setattr(store_metrics, "_MOST_SEGMENTS", 3)
    run = RunFolder(next(study.glob("demo/*/summary.json")).parent)
    most = 0
    for epochs in range(3, 12):
        resume(run, epochs)
        assert_same(everything(study), without_cache(study))
        most = max(most, len(list(cache_of(study).glob("segment-*.lines"))))
    assert 1 < most <= 4
    for path in list(study.glob("demo/*")):
        shutil.rmtree(path)
    resume(RunFolder(next(study.glob("other/*/events.jsonl")).parent))
    assert_same(everything(study), without_cache(study))
    assert len(list(cache_of(study).glob("segment-*.lines"))) == 1


def wanted(runs, names):
    return [
        store_metrics.Wanted(name, str(runs / name / "metrics.jsonl"), mark_of(str(runs / name / "metrics.jsonl")))
        for name in names
    ]


def metric_cache(runs):
    return store_metrics.MetricCache(store_folder.CacheFolder(str(runs)))


def write_lines(runs, name, epochs):
    (runs / name).mkdir(exist_ok=True)
    lines = [
        f'{{"time": "t", "attempt": 1, "epoch": {epoch}, "step": {epoch}, "split": "val", "loss": {epoch}.5}}\n'
        for epoch in epochs
    ]
    (runs / name / "metrics.jsonl").write_text("".join(lines))


def test_runs_without_lines_may_be_asked_for_in_any_order(tmp_path, monkeypatch):
    contents = {"empty": [], "first": [1, 2], "none": [], "second": [3]}
    for name, epochs in contents.items():
        write_lines(tmp_path, name, epochs)
    metric_cache(tmp_path).measured(wanted(tmp_path, contents), str(tmp_path))
    monkeypatch.setattr(store_metrics, "read_files", lambda *_: pytest.fail("read again"))
    for names in itertools.permutations(contents):
        found = metric_cache(tmp_path).measured(wanted(tmp_path, names), str(tmp_path))
        expected = [epoch for name in names for epoch in contents[name]]
        assert found.lines["epoch"].tolist() == expected
        assert found.values.tolist() == [epoch + 0.5 for epoch in expected]
        assert [extent.lines for extent in found.extents] == [len(contents[name]) for name in names]


@pytest.mark.parametrize("damage", [b"", None], ids=["cut", "absent"])
def test_a_damaged_segment_is_left_out_when_all_become_one(tmp_path, damage):
    """Where nobody asked for its numbers, so that it is not noticed before."""
    for number, name in enumerate("abc"):
        write_lines(tmp_path, name, range(number + 1))
    metric_cache(tmp_path).extents(wanted(tmp_path, "abc"), str(tmp_path))
    (segment,) = cache_of(tmp_path).glob("segment-*.values")
    segment.unlink() if damage is None else segment.write_bytes(damage)
    write_lines(tmp_path, "c", range(5))
    extents = metric_cache(tmp_path).extents(wanted(tmp_path, "abc"), str(tmp_path))
    assert [extent.lines for extent in extents] == [1, 2, 5]
    found = metric_cache(tmp_path).measured(wanted(tmp_path, "abc"), str(tmp_path))
    assert found.lines["epoch"].tolist() == [0, 0, 1, 0, 1, 2, 3, 4]
    assert not segment.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from normhpc.results.store import folder
from normhpc.results import load_metrics

left = int(sys.argv[2])

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

real = Path.replace
def replace(self, target):
    step()
    found = real(self, target)
    step()
    return found

Path.replace = replace
load_metrics(sys.argv[1])
"""


def test_killed_at_any_moment_of_writing(study):
    expected = without_cache(study)
    killed = 0
    for moment in range(1, 20):
        shutil.rmtree(cache_of(study), ignore_errors=True)
        code = subprocess.run([sys.executable, "-c", KILLED, str(study), str(moment)], check=False).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        assert_same(everything(study), expected)
    # two steps around each of documents, lines, values and manifest
    assert killed == 8
    shutil.rmtree(cache_of(study))
    subprocess.run([sys.executable, "-c", KILLED, str(study), "3"], check=False)
    assert list(cache_of(study).glob("*.tmp"))
    everything(study)
    assert not list(cache_of(study).glob("*.tmp"))


MANY = """
import sys
from normhpc.record.lock import exclusive_lock
from normhpc.results import collect, load_metrics
for _ in range(8):
    load_metrics(sys.argv[1])
    print(hash(collect([sys.argv[1]], per_run=True, format="csv").content))
    print(hash(load_metrics(sys.argv[1]).to_csv()))
"""


def test_several_collects_at_a_time(study):
    """They start together with nothing kept, and delete what is kept under each other's feet."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    for path in study.glob("demo/*"):
        os.utime(path)
    started = [
        subprocess.Popen([sys.executable, "-c", MANY, str(study)], stdout=subprocess.PIPE, env=environment)
        for _ in range(4)
    ]
    while any(process.poll() is None for process in started):
        for path in cache_of(study).glob("*") if cache_of(study).exists() else ():
            path.unlink(missing_ok=True)
    answers = [process.communicate()[0].split() for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert len({(*answer[:2],) for answer in answers}) == 1
    assert all(set(answer) == set(answers[0][:2]) for answer in answers)


def test_another_process_that_writes_is_not_waited_for(study):
    cache_of(study).mkdir()
    with exclusive_lock(cache_of(study), "busy"):
        assert_same(everything(study), without_cache(study))
    assert list(cache_of(study).iterdir()) == []


def test_a_full_disk_is_no_error(study, monkeypatch):
    def full(self, name, parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_folder.CacheFolder, "_put", full)
    assert_same(everything(study), without_cache(study))


@contextlib.contextmanager
def ordinary_user():
    """The superuser may write anywhere: for a while, be somebody else."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_records_in_a_folder_that_cannot_be_written(study, monkeypatch):
    """Their cache is the reader's own; where that cannot be written either, there is none."""
    expected = collect([study], format="csv").content
    with tempfile.TemporaryDirectory() as place:
        runs, own = Path(place) / "runs", Path(place) / "own"
        shutil.copytree(study, runs, ignore=shutil.ignore_patterns(".*"))
        own.mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(own))
        for path, mode in ((own, 0o777), (Path(place), 0o755), (runs, 0o555)):
            path.chmod(mode)
        with ordinary_user():
            assert [collect([runs], format="csv").content for _ in range(2)] == [expected] * 2
        assert not cache_of(runs).exists()
        assert len(list(own.glob("normhpc/*/documents"))) == 1
        shutil.rmtree(own / "normhpc")
        own.chmod(0o555)
        with ordinary_user():
            assert collect([runs], format="csv").content == expected
        assert list(own.iterdir()) == []
        runs.chmod(0o755)
