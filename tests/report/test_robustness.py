"""The section on corruption robustness: its table against numbers written out, its second count, what is missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.pages import Reader, grid_study, written
from results.fabricate import sealed_run
from scipy import stats

from normhpc.record import RunFolder
from normhpc.report.verify import verify_report

NAMES = ["fog", "contrast"]


def part(clean: float, fog: float, contrast: float) -> dict[str, Any]:
    """Errors at five severities around ``fog`` and ``contrast``, and one that is in no mean."""
    steps = np.linspace(-0.02, 0.02, 5)
    by_severity = {"fog": (fog + steps).tolist(), "contrast": (contrast + steps).tolist(), "saturate": [0.9] * 5}
    return {
        "clean_error": clean,
        "mean_corruption_error": (fog + contrast) / 2,
        "relative_mean_corruption_error": (fog + contrast) / 2 - clean,
        "in_mean": NAMES,
        "error_by_severity": by_severity,
    }


def keep(folder: RunFolder, values: dict[str, Any], test_batch: dict[str, Any] | None = None) -> None:
    document = {
        "what": "corruption",
        "method": "bytes <changed>",
        "n": {"test_images": 64},
        "values": values | {"test_batch_statistics": test_batch},
        "files": [],
    }
    (folder.path / "posthoc").mkdir(exist_ok=True)
    (folder.path / "posthoc" / "corruption.json").write_text(json.dumps(document))


def run(runs: Path, norm: str, seed: int, top1: float = 0.9) -> RunFolder:
    return sealed_run(runs, {"norm": norm, "seed": seed}, top1, swept={"norm": norm})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Batch norm of two seeds, also with statistics of test batches; layer norm of a seed more."""
    place = tmp_path / "runs"
    keep(run(place, "batch", 0), part(0.1, 0.2, 0.4), part(0.12, 0.2, 0.3))
    keep(run(place, "batch", 1), part(0.1, 0.3, 0.6), part(0.12, 0.2, 0.3))
    keep(run(place, "layer", 0), part(0.2, 0.25, 0.5))
    keep(run(place, "layer", 1), part(0.2, 0.25, 0.25))
    keep(run(place, "layer", 2), part(0.2, 0.9, 0.9))
    return place


def half(values: list[float]) -> float:
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def test_accuracies_are_over_all_seeds_and_mce_over_those_of_the_reference(runs: Path) -> None:
    page = Reader(written(runs))
    batch, other, layer = page.tables["t-corruption"]
    assert [row["statistics"][0] for row in (batch, other, layer)] == ["usual", "of test batches", "usual"]
    assert [row["n"][1] for row in (batch, other, layer)] == [2, 2, 3]
    assert [row["seeds"][1] for row in (batch, other, layer)] == [2, 2, 2]
    assert layer["clean"][:2] == ("0.8000", pytest.approx(0.8))
    corrupted = [1 - 0.375, 1 - 0.25, 1 - 0.9]
    assert layer["corrupted"][1] == pytest.approx(np.mean(corrupted))
    assert layer["corrupted_half"][1] == pytest.approx(half(corrupted))
    # the reference's mean errors are 0.25 and 0.5, its clean one is 0.1
    each = [(0.25 / 0.25 + 0.5 / 0.5) / 2, (0.25 / 0.25 + 0.25 / 0.5) / 2]
    assert [layer["mce"][1], layer["mce_half"][1]] == pytest.approx([np.mean(each), half(each)])
    relative = [(0.05 / 0.15 + 0.3 / 0.4) / 2, (0.05 / 0.15 + 0.05 / 0.4) / 2]
    assert [layer["relative_mce"][1], layer["relative_mce_half"][1]] == pytest.approx(
        [np.mean(relative), half(relative)]
    )
    assert batch["mce"][1] == pytest.approx(1)
    assert other["mce"][1] == pytest.approx((0.2 / 0.25 + 0.3 / 0.5) / 2)
    assert "Corruptions: fog, contrast; not the published mCE." in page.text
    assert "seeds that batch lacks are in no mCE: layer (1)" in page.text
    assert page.text.count("bytes <changed>") == 1


def test_every_cell_is_counted_a_second_time(runs: Path) -> None:
    text = written(runs)
    out = runs.parent / "report.html"
    assert verify_report(out, [runs]).differences == ()
    # 1.375 is the mCE of no row; every number of the table is changed in turn
    table = text.partition('<table id="t-corruption">')[2].partition("</table>")[0]
    numbers = [cell.partition('"')[0] for cell in table.split('data-v="')[1:]]
    assert len(numbers) == 3 * 10
    for number in dict.fromkeys(numbers):
        out.write_text(text.replace(table, table.replace(f'data-v="{number}"', 'data-v="1.375"')))
        told = verify_report(out, [runs]).differences
        assert any(line.startswith("corruption, row") and "by a second count" in line for line in told), number


def test_without_the_reference_there_is_no_mce(runs: Path) -> None:
    for folder in (runs / "demo").iterdir():
        config = json.loads((folder / "run.json").read_text())["config"]
        if config["norm"]["name"] == "batch":
            (folder / "posthoc" / "corruption.json").unlink()
    page = Reader(written(runs))
    (layer,) = page.tables["t-corruption"]
    assert layer["clean"][1] == pytest.approx(0.8)
    assert [layer[name][0] for name in ("mce", "mce_half", "relative_mce", "seeds")] == ["-"] * 4
    assert "no mCE, since there is no analysed run of batch, the reference" in page.text
    assert verify_report(runs.parent / "report.html", [runs]).differences == ()


def test_a_reference_that_makes_no_error_gives_no_ratio(tmp_path: Path) -> None:
    keep(
        run(tmp_path / "runs", "batch", 0), part(0.1, 0.02, 0.4) | {"error_by_severity": {n: [0.0] * 5 for n in NAMES}}
    )
    keep(run(tmp_path / "runs", "layer", 0), part(0.2, 0.25, 0.5))
    page = Reader(written(tmp_path / "runs"))
    assert [row["mce"][0] for row in page.tables["t-corruption"]] == ["-", "-"]


def test_results_that_cannot_be_compared_are_told(runs: Path) -> None:
    layers = {seed: run(runs, "layer", seed) for seed in (3, 4)}
    keep(layers[3], part(0.2, 0.3, 0.3) | {"error_by_severity": {}})
    keep(layers[4], part(0.2, 0.3, 0.3))
    fewer = part(0.1, 0.3, 0.6) | {"in_mean": ["fog"], "mean_corruption_error": 0.3}
    keep(run(runs, "instance", 0), fewer)
    page = Reader(written(runs))
    assert "1 of 8 results are damaged or of an older version: normhpc analyze" in page.text
    assert "instance: expected the same corruptions of all runs, got fog and others; normhpc analyze RUN" in page.text
    rows = {(row["method"][0], row["statistics"][0]): row for row in page.tables["t-corruption"]}
    assert [rows[norm, "usual"]["n"][1] for norm in ("batch", "layer", "instance")] == [2, 4, 1]
    assert rows["instance", "usual"]["corrupted"][1] == pytest.approx(0.7)
    assert rows["instance", "usual"]["mce"][0] == "-"
    assert verify_report(runs.parent / "report.html", [runs]).differences == ()


DAMAGES: dict[str, dict[str, Any]] = {
    "four severities": {"values": {"error_by_severity": dict.fromkeys(NAMES, [0.5] * 4)}},
    "no numbers": {"values": {"error_by_severity": dict.fromkeys(NAMES, ["0.5"] * 5)}},
    "a word": {"values": {"clean_error": "0.5"}},
    "no share": {"values": {"error_by_severity": dict.fromkeys(NAMES, [1e308] * 5)}},
    "no corruption": {"values": {"in_mean": []}},
    "numbers of n": {"n": 3},
    "a number of files": {"files": 3},
    "no method": {"method": ...},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_in_no_row_of_either_count(runs: Path, damage: str) -> None:
    folder = run(runs, "layer", 3)
    keep(folder, part(0.2, 0.3, 0.3))
    path = folder.path / "posthoc" / "corruption.json"
    document = json.loads(path.read_text())
    for name, value in DAMAGES[damage].items():
        if value is ...:
            del document[name]
        else:
            document[name] = document[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(document))
    rows = Reader(written(runs)).tables["t-corruption"]
    assert [row["n"][1] for row in rows if row["method"][0] == "layer"] == [3]
    assert verify_report(runs.parent / "report.html", [runs]).differences == ()


def test_blocks_have_references_of_their_own(tmp_path: Path) -> None:
    grid_study(tmp_path / "runs", seeds=2)
    for number, folder in enumerate(sorted((tmp_path / "runs" / "demo").iterdir())):
        keep(RunFolder(folder), part(0.1, 0.2 + 0.03 * number, 0.4))
    rows = Reader(written(tmp_path / "runs")).tables["t-corruption"]
    assert [row["mce"][1] for row in rows if row["method"][0] == "batch"] == pytest.approx([1, 1])
    assert len({row["block"][0] for row in rows}) == 2
    assert verify_report(tmp_path / "report.html", [tmp_path / "runs"]).differences == ()


def test_without_the_analysis_there_is_no_section(tmp_path: Path) -> None:
    run(tmp_path / "runs", "batch", 0)
    assert "Corruption robustness" not in written(tmp_path / "runs")
