"""The commands, called as a user calls them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.launches import FAKE_CLI, SWEEP, launching, normhpc, until

from normhpc.record import RunFolder, append_event


@pytest.fixture(autouse=True)
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``fakes.yaml`` in the current folder, ranks that train nothing, no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace.jsonl"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("FAKE_RANKS", raising=False)
    Path("fakes.yaml").write_text(SWEEP)


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda **seeds: monkeypatch.setenv("FAKE_RANKS", json.dumps(seeds))


def run_ids() -> list[str]:
    return [json.loads(line)["run_id"] for line in normhpc("expand", "fakes.yaml").out.splitlines()]


def test_mistakes_in_a_sweep_are_told_all_at_once_with_their_places() -> None:
    Path("bad.yaml").write_text("name: bad\nbase:\n  epochz: 3\nmatrix:\n  norm: [batch, {name: group, groups: -7}]\n")
    answer = normhpc("sweep", "bad.yaml", "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == [
        "bad.yaml:3:3: base.epochz: unknown key 'epochz', did you mean 'epochs'? allowed: data, model, norm, act, "
        "augment, loss, optim, schedule, epochs, batch_size, precision, seed, probes, checkpoint, resources",
        "bad.yaml:5:39: matrix.norm[1].groups: expected a positive integer, got -7",
    ]


def test_missing_sweep_file() -> None:
    text = "error: none.yaml: cannot be read: No such file or directory\n"
    for command in (["sweep", "none.yaml", "--dry-run"], ["expand", "none.yaml"], ["status", "none.yaml"]):
        assert normhpc(*command) == (2, "", text)


def test_run_that_cannot_be_trained_is_refused_with_its_place() -> None:
    Path("fakes.yaml").write_text(SWEEP.replace("[none, batch]", "[none, {name: group, groups: 3}]"))
    answer = normhpc("sweep", "fakes.yaml", "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "fakes.yaml:9:38: matrix.norm[1].groups: groups 3 does not divide the 4 channels of a layer of convnet; "
        "what divides all its widths (4): 1, 2, 4; indivisible: shrink takes the next number of groups that does\n"
    )


def test_expand() -> None:
    answer = normhpc("expand", "fakes.yaml", "--only", "seed=1", "--set", "epochs=7")
    documents = [json.loads(line) for line in answer.out.splitlines()]
    assert [set(document) for document in documents] == [{"run_id", "config"}] * 2
    assert [(doc["config"]["norm"]["name"], doc["config"]["epochs"]) for doc in documents] == [
        ("none", 7),
        ("batch", 7),
    ]
    assert normhpc("expand", "fakes.yaml", "--count") == (0, "4\n", "")


def test_set_of_a_part_of_a_zip_group_is_a_mistake() -> None:
    Path("zipped.yaml").write_text("zip: [{batch_size: [512, 32], epochs: [60, 10]}]")
    answer = normhpc("expand", "zipped.yaml", "--set", "batch_size=512")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "error: --set batch_size: expected all lists of zip[0], which advance together, or none, got batch_size without "
        "epochs; set epochs as well, or leave runs out with --only\n"
    )
    assert normhpc("expand", "zipped.yaml", "--count", "--only", "batch_size=512") == (0, "1\n", "")


def test_expand_into_a_pipe_that_closes_early() -> None:
    Path("fakes.yaml").write_text(SWEEP.replace("seeds: 2", "seeds: 5000"))
    command = f"'{sys.executable}' '{FAKE_CLI}' expand fakes.yaml | head -n 1 | wc -l"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("1", "")


@pytest.mark.parametrize(
    ("arguments", "code", "err"),
    [
        ("expand fakes.yaml >/dev/full", 1, "error: writing failed: No space left on device\n"),
        ("schema run >/dev/full", 1, "error: writing failed: No space left on device\n"),
        ("expand fakes.yaml >&-", 0, ""),
        ("sweep fakes.yaml --dry-run --json >&- <&-", 0, ""),
        ("expand none.yaml >&-", 2, "error: none.yaml: cannot be read: No such file or directory\n"),
        ("expand none.yaml 2>&-", 2, ""),
    ],
)
def test_output_that_is_full_or_closed_ends_without_a_traceback(arguments: str, code: int, err: str) -> None:
    command = f"{sys.executable} -m normhpc {arguments}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", err)


def test_status_of_folders_and_sweep_files(behave: Callable[..., None]) -> None:
    behave(**{"1": {"faults": {"0": "raise"}}})
    normhpc("sweep", "fakes.yaml", "--local", "--slots", 2, "--runs", "elsewhere")
    by_file = normhpc("status", "fakes.yaml", "--runs", "elsewhere", "--json")
    (document,) = json.loads(by_file.out)
    assert normhpc("status", "elsewhere/fakes", "--json") == by_file
    assert normhpc("status", "fakes", "--runs", "elsewhere", "--json") == by_file
    assert document["sweep"] == "fakes"
    assert {state: count for state, count in document["counts"].items() if count} == {"finished": 2, "failed": 2}
    shown = [line.split() for line in normhpc("status", "elsewhere").out.splitlines()]
    assert shown[:2] == [["sweep", "runs", "finished", "failed"], ["fakes", "4", "2", "2"]]
    assert normhpc("status") == (2, "", "error: runs: there is no such folder; normhpc sweep SWEEP.yaml makes runs\n")


def test_status_in_a_pipe_is_as_wide_as_what_it_says() -> None:
    assert normhpc("sweep", "fakes.yaml", "--limit", "0").code == 0
    for run_id, message in zip(run_ids(), ("no good " * 50, "bad", "worse", "odd"), strict=True):
        append_event(RunFolder(Path("runs", "fakes", run_id)), "failed", **{"class": "ValueError"}, message=message)
    told = normhpc("status").out.splitlines()
    assert [line for line in told if line != line.rstrip()] == []
    assert sorted({len(line) > 100 for line in told}) == [False, True]


def test_logs_of_one_run() -> None:
    normhpc("sweep", "fakes.yaml", "--local", "--limit", 1)
    run = run_ids()[0]
    expected = (0, "[0] epoch 1\n", "")
    assert normhpc("logs", run) == expected
    assert normhpc("logs", run[:5]) == expected
    assert normhpc("logs", f"runs/fakes/{run}") == expected
    hint = "give its folder or the start of its id (normhpc collect --per-run)"
    assert normhpc("logs", "nobody") == (2, "", f"error: nobody: no such run in runs/; {hint}\n")


def test_logs_follow_a_run_until_it_ends(tmp_path: Path) -> None:
    run = run_ids()[0]
    fakes = {"default": {"epochs": 3, "epoch_seconds": 0.6}}
    with launching("sweep", "fakes.yaml", "--local", "--limit", 1, cwd=tmp_path, fakes=fakes) as launch:
        until(Path(f"runs/fakes/{run}/log.txt").exists)
        assert normhpc("logs", run, "-f") == (0, "[0] epoch 1\n[0] epoch 2\n[0] epoch 3\n", "")
        assert launch.wait() == 0


def test_interrupted_command_ends_with_130(tmp_path: Path) -> None:
    fakes = {"default": {"epoch_seconds": 60}}
    with launching("sweep", "fakes.yaml", "--local", "--limit", 1, cwd=tmp_path, fakes=fakes):
        run = Path("runs/fakes") / run_ids()[0]
        until(lambda: (run / "log.txt").exists() and len((run / "events.jsonl").read_text().splitlines()) == 2)
        with launching("logs", run.name, "--follow", cwd=tmp_path) as follow:
            until(
                lambda: (
                    b"futex" in (state := Path(f"/proc/{follow.process.pid}/wchan").read_bytes())
                    or b"nanosleep" in state
                )
            )
            follow.process.send_signal(signal.SIGINT)
            assert follow.wait(20) == 130
        assert "Traceback" not in follow.err


def test_list_parts() -> None:
    norms = json.loads(normhpc("list", "norms", "--json").out)
    assert [entry["name"] for entry in norms][:2] == ["none", "batch"]
    batch = next(entry for entry in norms if entry["name"] == "batch")
    assert (batch["family"], batch["scope"]) == ("hand-crafted", "batch")
    assert batch["formula"].startswith("(x - mean(x, 'batch'))")
    assert batch["reference"] == "Ioffe and Szegedy 2015, arXiv:1502.03167"
    momentum = next(field for field in batch["fields"] if field["name"] == "momentum")
    assert (momentum["default"], momentum["required"]) == (0.1, False)
    assert momentum["meaning"].startswith("Weight of the newest batch")
    lines = normhpc("list", "norms").out.splitlines()
    assert lines[0].split()[0] == "none"
    assert any(line.split()[:3] == ["momentum", "=", "0.1"] for line in lines)
    for what, name in (("models", "convnet"), ("data", "digits")):
        assert name in [entry["name"] for entry in json.loads(normhpc("list", what, "--json").out)]
        assert name in [line.split()[0] for line in normhpc("list", what).out.splitlines()]


def test_list_sweeps_of_this_folder() -> None:
    assert normhpc("list", "sweeps") == (0, "no sweeps here\n", "")
    assert normhpc("list", "sweeps", "--json") == (0, "[]\n", "")
    Path("sweeps").mkdir()
    Path("fakes.yaml").rename("sweeps/fakes.yaml")
    assert normhpc("list", "sweeps").out.split() == ["sweeps/fakes.yaml", "4", "runs"]


@pytest.mark.parametrize("what", ["run", "sweep"])
def test_schema_is_a_json_schema(what: str) -> None:
    document = json.loads(normhpc("schema", what).out)
    jsonschema.validators.validator_for(document).check_schema(document)
    if what == "sweep":
        jsonschema.validate(yaml.safe_load(SWEEP), document)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"name": "x", "matrics": {}}, document)


def test_collect_writes_its_table_on_stdout_and_notes_on_stderr() -> None:
    normhpc("sweep", "fakes.yaml", "--local", "--slots", 2)
    answer = normhpc("collect", "runs/fakes", "--per-run", "--format", "csv", "--metric", "test_top1")
    lines = answer.out.splitlines()
    assert answer.code == 0
    assert lines[0] == "run_id,sweep,state,seed,data.name,model.name,norm.name,test_top1"
    assert sorted(line.split(",")[0] for line in lines[1:]) == sorted(run_ids())
    assert {line.rpartition(",")[2] for line in lines[1:]} == {"0.75"}
    table = normhpc("collect", "--by", "norm.name", "--metric", "test_top1", "--format", "json")
    assert [(row["norm.name"], row["n"], row["test_top1_mean"]) for row in json.loads(table.out)] == [
        ("none", 2, 0.75),
        ("batch", 2, 0.75),
    ]
    parquet = subprocess.run(
        [sys.executable, str(FAKE_CLI), "collect", "--per-run", "--format", "parquet"], capture_output=True, check=True
    )
    assert parquet.stdout[:4] == b"PAR1"


def test_strict_collect_shows_its_table_and_ends_with_1_when_something_is_odd(behave: Callable[..., None]) -> None:
    behave(**{"1": {"faults": {"0": "raise"}}})
    normhpc("sweep", "fakes.yaml", "--local", "--slots", 2)
    plain = normhpc("collect", "--format", "csv")
    answer = normhpc("collect", "--format", "csv", "--strict", "--rebuild")
    assert (plain.code, answer.code, answer.out) == (0, 1, plain.out)
    odd = [line.removeprefix("note: ") for line in plain.err.splitlines()]
    assert odd[0].startswith("failed: ")
    assert answer.err == plain.err + "".join(f"error: {note}\n" for note in odd)


def test_train_of_a_folder_that_is_no_run() -> None:
    text = "error: nothing: not a run: there is no run.json in it; normhpc sweep makes run folders\n"
    assert normhpc("train", "nothing") == (2, "", text)
