import json
import subprocess
import sys

import pandas as pd
import pytest
from results.fabricate import new_run, norm_config, sealed_run, small_study, started_run

from normhpc.config import SCHEMA_VERSION
from normhpc.errors import InputError
from normhpc.results import collect, load_metrics, load_runs, render, summarize
from normhpc.results.output import Collected

NOTES = (
    "failed: 1 of 6 runs (norm.name=layer); normhpc status names the errors",
    "diverged: 1 of 6 runs (norm.name=layer)",
)


def test_text_for_stdout_and_notes_for_stderr(tmp_path):
    small_study(tmp_path)
    table = summarize(load_runs(tmp_path))
    assert collect([tmp_path], format="csv") == Collected(render(table, "csv"), NOTES)
    # the table for the terminal has its notes below it already
    assert collect([tmp_path]) == Collected(render(table, "table"), ())


@pytest.mark.parametrize("format", ["table", "csv", "json", "parquet", "markdown", "latex", "html"])
@pytest.mark.parametrize("per_run", [False, True])
def test_every_format_goes_whole_to_a_file(tmp_path, format, per_run):
    small_study(tmp_path / "runs")
    shown = collect([tmp_path / "runs"], format=format, per_run=per_run)
    out = tmp_path / "table.out"
    out.write_text("old")
    assert collect([tmp_path / "runs"], format=format, per_run=per_run, out=out) == Collected(None, NOTES)
    content = shown.content if isinstance(shown.content, bytes) else shown.content.encode()
    assert out.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["table.out"]


def test_runs_for_machines_have_every_metric_unless_some_are_named(tmp_path):
    small_study(tmp_path)
    rows = json.loads(collect([tmp_path], per_run=True, format="json").content)
    assert list(rows[0]) == list(load_runs(tmp_path).columns)
    rows = json.loads(collect([tmp_path], per_run=True, format="json", metrics=["val_top1"]).content)
    assert list(rows[0]) == ["run_id", "sweep", "state", "seed", "data.name", "model.name", "norm.name", "val_top1"]


def test_bad_usage_writes_nothing(tmp_path):
    small_study(tmp_path / "runs")
    out = tmp_path / "out.csv"
    for wrong, message in (
        (
            {"per_run": True, "by": ["norm.name"]},
            "--by groups runs into cells and --per-run shows each run; give one of the two",
        ),
        (
            {"format": "cvs"},
            "no format is called 'cvs', did you mean 'csv'? "
            "There are: table, csv, json, parquet, markdown, latex, html",
        ),
        ({"out": tmp_path / "no" / "x.csv"}, f"{tmp_path}/no: --out: there is no such folder to write into"),
        ({"out": tmp_path}, f"{tmp_path}: --out: expected a file to write, this is a folder"),
    ):
        with pytest.raises(InputError) as caught:
            collect([tmp_path / "runs"], **{"out": out, **wrong})
        assert str(caught.value) == message
    with pytest.raises(InputError):
        collect([tmp_path / "absent"], out=out)
    with pytest.raises(InputError):
        collect([tmp_path / "runs"], metrics=["zebra"], out=out)
    assert not out.exists()


def test_only_damaged_runs_give_an_empty_table_and_a_note(tmp_path):
    sealed_run(tmp_path, {"seed": 0}).run_json.write_text("{")
    for format in ("table", "csv", "json", "parquet", "markdown", "latex", "html"):
        for per_run in (False, True):
            shown = collect([tmp_path], format=format, per_run=per_run)
            assert len(shown.notes) == (format != "table")
    assert json.loads(collect([tmp_path], format="json").content) == []


def test_functions_are_exported_without_loading_them():
    import normhpc.results

    with pytest.raises(AttributeError, match=r"^module 'normhpc\.results' has no attribute 'colect'$"):
        _ = normhpc.results.colect


def test_collect_loads_no_torch_and_status_no_pandas(tmp_path):
    small_study(tmp_path)
    code = (
        "import sys; from normhpc.results import sweep_statuses; sweep_statuses([sys.argv[1]]);"
        "assert 'pandas' not in sys.modules and 'numpy' not in sys.modules;"
        "from normhpc.results import collect, load_metrics; load_metrics(sys.argv[1]);"
        "[collect([sys.argv[1]], format=f) for f in ('table', 'csv', 'json', 'parquet', 'markdown', 'latex', 'html')];"
        "assert 'pandas' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_same_records_give_the_same_bytes_in_another_process(tmp_path):
    small_study(tmp_path)
    code = (
        "import sys; from normhpc.results import collect; print(collect([sys.argv[1]], format='csv').content, end='')"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1] == collect([tmp_path], format="csv").content.encode()
    assert pd.notna(summarize(load_runs(tmp_path))["test_top1_mean"]).all()


def test_strict_lists_all_that_is_odd(tmp_path):
    small_study(tmp_path)
    strict = collect([tmp_path], format="csv", strict=True)
    # a run that diverged is a result
    assert strict.odd == NOTES[:1]
    assert strict.notes == NOTES
    torn = sealed_run(tmp_path, norm_config("rms", 0), images_per_statistic=None)
    content = torn.metrics.read_bytes()
    torn.metrics.write_bytes(b"{" * 7 + b"\n" + content[8:])
    old = sealed_run(tmp_path, norm_config("rms", 1), images_per_statistic=None)
    asked = json.loads(old.run_json.read_text())
    old.run_json.write_text(json.dumps(asked | {"schema_version": 1}))
    copy = sealed_run(tmp_path, norm_config("rms", 0), images_per_statistic=None, sweep="again")
    started_run(tmp_path, norm_config("rms", 2), host="")
    damaged = sealed_run(tmp_path, norm_config("none", 0))
    damaged.run_json.write_text("{")
    strict = collect([tmp_path], per_run=True, strict=True)
    code = "commit=abc123 dirty=False version=0.1.0"
    assert set(strict.odd) == {
        f"{damaged.run_json}: not readable (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); "
        "the run is left out, delete its folder and launch the sweep again",
        f"in more than one folder, the sealed or first one is kept: {copy.path.name} (kept: {copy.path})",
        "failed: 1 of 9 runs (norm.name=layer); normhpc status names the errors",
        "not finished yet: 1 of 9 runs (1 running)",
        f"runs of different schema versions, whose fields may not mean the same: schema {SCHEMA_VERSION} in 8 runs; schema 1 in 1 run",
        f"runs of different code: schema={SCHEMA_VERSION} {code} in 8 runs; schema=1 {code} in 1 run",
    }
    (torn.path.parent.parent / "again" / torn.path.name / "run.json").unlink()
    strict = collect([tmp_path], per_run=True, strict=True)
    assert f"2 torn lines skipped: {torn.metrics} (2)" in strict.odd


def test_nothing_is_odd_about_whole_records(tmp_path):
    for norm in ("batch", "group"):
        for seed in (0, 1):
            sealed_run(tmp_path, norm_config(norm, seed))
    assert collect([tmp_path], strict=True).odd == ()
    (tmp_path / "demo" / "mine").mkdir()
    assert collect([tmp_path], strict=True).odd == ()


def test_runs_without_a_metric_in_common(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0), final={"test_top1": 0.5}, best={})
    sealed_run(tmp_path, norm_config("batch", 1), final={"test_map_macro": 0.25}, best={})
    rows = json.loads(collect([tmp_path], format="json").content)
    assert (rows[0]["n"], rows[0]["test_top1_mean"], rows[0]["test_map_macro_mean"]) == (2, 0.5, 0.25)
    told = "fewer values than n: test_top1 (1 of 2); test_map_macro (1 of 2)"
    assert told in collect([tmp_path], format="csv").notes


def test_metrics_that_are_no_numbers(tmp_path):
    sealed_run(tmp_path, norm_config("batch", 0), final={"test_top1": None}, best={})
    folder = sealed_run(tmp_path, norm_config("batch", 1), final={"test_top1": 0.5}, best={})
    folder.summary.write_text(folder.summary.read_text().replace('"test_top1": 0.5', '"test_top1": NaN'))
    for _ in range(2):
        rows = json.loads(collect([tmp_path], format="json", metrics=["test_top1"]).content)
        assert (rows[0]["n"], rows[0]["test_top1_mean"]) == (0, None)


def test_one_torn_line_in_a_hundred(tmp_path):
    """Every other line is there, and the table says what is not."""
    folders = [new_run(tmp_path, norm_config("batch", seed)) for seed in range(10)]
    for number, folder in enumerate(folders):
        lines = [json.dumps({"epoch": e, "step": e, "split": "val", "loss": e / 7}) for e in range(100)]
        lines[11 * number] = lines[11 * number][: 5 + number]
        folder.metrics.write_text("\n".join(lines) + "\n")
    frame = load_metrics(tmp_path)
    assert len(frame) == 10 * 99
    assert frame["value"].sum() == pytest.approx(sum(e / 7 for e in range(100) for _ in range(10)) - 11 * 45 / 7)
    (note,) = frame.attrs["notes"]
    assert note.startswith("10 torn lines skipped: ")
    assert note.endswith("/metrics.jsonl (1); and 5 more")
