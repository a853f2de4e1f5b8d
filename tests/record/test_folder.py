"""``run.json`` and the folder it lies in."""

import json
import re
import time

import pytest

from normhpc.config import SCHEMA_VERSION, Resources, RunConfig
from normhpc.errors import BusyError, DamagedError, InputError
from normhpc.record import RunFolder, run_folders
from normhpc.record.folder import timestamp

CONFIG = RunConfig.model_validate({"norm": {"name": "group", "groups": 8}, "seed": 3})
CODE = {"version": "0.1", "commit": "abc", "dirty": False}


def create(path, config=CONFIG, **changes):
    told = {"sweep": "demo", "swept": {"norm": "group", "seed": 3}, "resources": Resources(), "code": CODE}
    RunFolder(path).create(config, **(told | changes))
    return RunFolder(path)


@pytest.fixture
def folder(tmp_path):
    return create(tmp_path / "run")


def test_run_json_is_written_whole_and_read_back(folder):
    content = json.loads(folder.run_json.read_text())
    assert set(content) == {"run_id", "schema_version", "sweep", "swept", "config", "resources", "created", "code"}
    assert content["run_id"] == CONFIG.run_id
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["config"] == CONFIG.to_json()
    info = folder.read_run()
    assert (info.run_id, info.config, info.sweep) == (CONFIG.run_id, CONFIG, "demo")
    assert (info.swept, info.resources, info.code) == ({"norm": "group", "seed": 3}, Resources(), CODE)
    assert info.created == content["created"]
    assert [file.name for file in folder.path.iterdir()] == ["run.json"]


def test_creating_it_again_touches_nothing(folder):
    before = (folder.run_json.read_bytes(), folder.run_json.stat().st_mtime_ns, folder.run_json.stat().st_ino)
    time.sleep(0.002)
    create(folder.path)
    assert (folder.run_json.read_bytes(), folder.run_json.stat().st_mtime_ns, folder.run_json.stat().st_ino) == before


def test_only_what_is_outside_the_identity_is_brought_up_to_date(folder):
    before = json.loads(folder.run_json.read_text())
    moved = CONFIG.model_copy(update={"checkpoint": CONFIG.checkpoint.model_copy(update={"every_steps": 5})})
    assert moved.run_id == CONFIG.run_id
    time.sleep(0.002)
    create(
        folder.path,
        moved,
        sweep="other",
        swept={},
        resources=Resources(cpus_per_gpu=4),
        code={"version": "0.2", "commit": "def", "dirty": True},
    )
    after = json.loads(folder.run_json.read_text())
    assert {key for key in before if before[key] != after[key]} == {"sweep", "swept", "resources", "config"}
    assert after["config"]["checkpoint"]["every_steps"] == 5
    assert (after["created"], after["code"]) == (before["created"], CODE)
    assert folder.read_run().resources.cpus_per_gpu == 4


def rewritten(folder, **changes):
    content = json.loads(folder.run_json.read_text()) | changes
    folder.run_json.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_another_schema_version_is_refused(folder):
    config = {**CONFIG.to_json(), "a_field_of_the_future": 1}
    rewritten(folder, schema_version=SCHEMA_VERSION + 1, config=config)
    with pytest.raises(DamagedError) as caught:
        folder.read_run()
    assert str(caught.value) == (
        f"{folder.run_json}: written by another version of normhpc (schema {SCHEMA_VERSION + 1}, "
        f"this version has schema {SCHEMA_VERSION}); launch the sweep again to make a new run"
    )
    assert caught.value.exit_code == 2


def test_a_configuration_that_is_not_the_runs_is_refused(folder):
    other = RunConfig.model_validate({"seed": 4})
    rewritten(folder, config=other.to_json())
    with pytest.raises(DamagedError) as caught:
        folder.read_run()
    assert str(caught.value) == (
        f"{folder.run_json}: says run {CONFIG.run_id}, but its configuration is that of run {other.run_id}; "
        "delete the folder and launch the sweep again"
    )


def test_a_wrong_configuration_names_its_fields(folder):
    rewritten(folder, config={**CONFIG.to_json(), "batch_size": -1, "epoch": 3})
    with pytest.raises(InputError) as caught:
        folder.read_run()
    problems = [str(problem) for problem in caught.value.problems]
    assert f"{folder.run_json}: batch_size: expected a positive integer, got -1" in problems
    assert any(problem.startswith(f"{folder.run_json}: epoch: unknown key 'epoch'") for problem in problems)


def test_no_run_json(tmp_path):
    with pytest.raises(InputError) as caught:
        RunFolder(tmp_path).read_run()
    assert str(caught.value) == f"{tmp_path}: not a run: there is no run.json in it; normhpc sweep makes run folders"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b'{"run_id": "12', b"[]", b"3", b"\xff\xfe\x00"])
def test_run_json_that_is_none(folder, content):
    folder.run_json.write_bytes(content)
    expected = re.escape(f"{folder.run_json}: not JSON (") + r".+\); delete the folder and launch the sweep again"
    with pytest.raises(DamagedError, match=f"^{expected}$"):
        folder.read_run()
    with pytest.raises(DamagedError, match=f"^{expected}$"):
        create(folder.path)
    assert folder.run_json.read_bytes() == content


@pytest.mark.parametrize("missing", ["run_id", "config", "sweep", "swept", "resources"])
def test_run_json_with_a_part_missing(folder, missing):
    rewritten(folder, **{missing: None})
    with pytest.raises(DamagedError, match=f"has no {missing}; delete the folder and launch the sweep again$"):
        folder.read_run()


def test_two_trainers(folder):
    assert not folder.is_held()
    with folder.held_for_training():
        assert folder.is_held()
        began = time.monotonic()
        with pytest.raises(BusyError) as caught, folder.held_for_training():
            pytest.fail("both hold it")
        assert str(caught.value) == f"{folder.path}: this run is being trained by another process"
        assert 0.4 < time.monotonic() - began < 5
        assert folder.is_held()
    assert not folder.is_held()
    with folder.held_for_training():
        pass


def test_asking_for_the_lock_leaves_no_trace(tmp_path):
    folder = create(tmp_path / "run")
    assert not folder.is_held()
    assert not folder.events.exists()


def test_run_folders_by_name(tmp_path):
    for name in ("b", "a"):
        create(tmp_path / name)
    (tmp_path / "not_a_run").mkdir()
    (tmp_path / "file").touch()
    assert [folder.path.name for folder in run_folders(tmp_path)] == ["a", "b"]


def test_timestamps_are_utc_and_in_order():
    stamps = [timestamp() for _ in range(3)]
    assert stamps == sorted(stamps)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp) for stamp in stamps)
