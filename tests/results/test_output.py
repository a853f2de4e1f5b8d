import json
import subprocess
import sys

import pandas as pd
import pytest
from results.fabricate import sealed_run, small_study

from normhpc.errors import InputError
from normhpc.results import collect, load_runs, render, summarize
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
