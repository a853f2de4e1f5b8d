import numpy as np
import pytest
from report.pages import Reader, edit_json, grid_study
from results.fabricate import sealed_run, small_study
from scipy import stats
from support.launches import normhpc

from normhpc.errors import InputError
from normhpc.report.page import write_report
from normhpc.report.verify import verify_report


@pytest.fixture
def page(tmp_path):
    grid_study(tmp_path / "runs")
    write_report([tmp_path / "runs"], tmp_path / "r.html")
    return tmp_path / "r.html"


def test_every_cell_is_computed_once_more(page, tmp_path):
    verdict = verify_report(page, [tmp_path / "runs"])
    rows = [row for table in Reader(page.read_text()).tables.values() for row in table]
    assert (verdict.cells, verdict.differences) == (sum(map(len, rows)), ())


def test_failed_runs_and_text_from_records_verify_as_well(tmp_path):
    small_study(tmp_path / "runs")
    for folder in (tmp_path / "runs" / "demo").iterdir():
        edit_json(folder / "run.json", sweep="<b>&amp;\r\n\x00")
    write_report([tmp_path / "runs"], tmp_path / "r.html")
    assert verify_report(tmp_path / "r.html", [tmp_path / "runs"]).differences == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<b>0.9010", "<b>0.9910", ("results, row 1 (batch), test_top1: 0.9910 (", ") in the file, 0.9010 (")),
        (
            'data-v="3"',
            'data-v="4"',
            (
                "results, row 1 (batch), n: 3 (4) in the file, 3 (3.0) in the records",
                "results, row 1, n: 4 in the file, 3.0 by a second count of the run folders",
            ),
        ),
        (
            "<td>finished</td>",
            "<td>diverged</td>",
            ("runs, row 1 (", ", state: diverged in the file, finished in the records"),
        ),
        ('id="t-runs"', 'id="t-others"', ("runs: the table is missing", "others: the records give no such table")),
        ('data-key="seed"', 'data-key="seeds"', ("runs: other columns than the records give",)),
    ],
)
def test_a_changed_cell_is_found(page, tmp_path, old, new, told):
    text = page.read_text()
    assert old in text
    page.write_text(text.replace(old, new, 1))
    differences = "\n".join(verify_report(page, [tmp_path / "runs"]).differences)
    assert [words for words in told if words not in differences] == []


def test_no_share_is_above_one_in_either_count(tmp_path):
    for seed, top1 in enumerate((0.90, 0.92, 0.97)):
        sealed_run(tmp_path / "runs", {"norm": "batch", "seed": seed}, top1, swept={"norm": "batch"})
    write_report([tmp_path / "runs"], tmp_path / "r.html")
    page = Reader((tmp_path / "r.html").read_text())
    half = stats.t.ppf(0.975, 2) * np.std([0.90, 0.92, 0.97], ddof=1) / 3**0.5
    (row,) = page.tables["t-results"]
    assert row["test_top1_high"][:2] == ("1.0000", 1.0)
    assert row["test_top1_low"][1] == pytest.approx(0.93 - half)
    assert f"[{0.93 - half:.4f}, 1.0000]" in page.text
    assert verify_report(tmp_path / "r.html", [tmp_path / "runs"]).differences == ()


def test_a_row_taken_away_is_found(page, tmp_path):
    head, _, rest = page.read_text().partition("<tbody>\n")
    page.write_text(head + "<tbody>\n" + rest.partition("</tr>\n")[2])
    assert "results: 5 rows, the records give 6" in verify_report(page, [tmp_path / "runs"]).differences


def test_records_that_changed_after_the_page_are_found(page, tmp_path):
    run = sorted((tmp_path / "runs" / "demo").iterdir())[0]
    edit_json(run / "summary.json", final__test_top1=0.123)
    assert any("by a second count" in line for line in verify_report(page, [tmp_path / "runs"]).differences)


def test_what_is_no_page_is_refused(tmp_path):
    grid_study(tmp_path / "runs", seeds=1)
    with pytest.raises(InputError, match="there is no such file to verify; write it first, without --verify"):
        verify_report(tmp_path / "none.html", [tmp_path / "runs"])
    (tmp_path / "other.html").write_text("<p>other</p>")
    with pytest.raises(InputError, match="expected a page that normhpc report wrote"):
        verify_report(tmp_path / "other.html", [tmp_path / "runs"])


def test_the_command_writes_verifies_and_ends_with_1_for_a_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid_study(tmp_path / "runs", seeds=2)
    answer = normhpc("report", "--out", "r.html")
    size = (tmp_path / "r.html").stat().st_size
    assert (answer.code, answer.out, answer.err) == (0, "", f"r.html: 12 runs, {size / 1e6:.2f} MB\n")
    before = (tmp_path / "r.html").read_bytes()
    answer = normhpc("report", "--out", "r.html", "--verify")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith(" table cells, 0 differences\n")
    assert (tmp_path / "r.html").read_bytes() == before
    (tmp_path / "r.html").write_bytes(before.replace(b"<b>0.9", b"<b>0.8"))
    answer = normhpc("report", "--out", "r.html", "--verify")
    assert (answer.code, answer.out.split(", ")[-1]) == (1, "2 differences\n")
    assert answer.err.startswith("error: results, row 1 (batch), test_top1: 0.8025 (0.9025")


def test_the_command_refuses_a_folder_without_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = normhpc("report")
    assert answer.code == 2
    assert answer.err == "error: runs: there is no such folder; normhpc sweep SWEEP.yaml makes runs\n"
    assert not (tmp_path / "report.html").exists()
