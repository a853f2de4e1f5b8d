"""Expected beside measured, on records made for it; and every expectation belongs to a run of its sweep."""

import csv
import json
import math
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from results.fabricate import diverged_run, failed_run, sealed_run
from scipy import stats
from torchvision.models import ResNet50_Weights

from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.results.fields import at_path
from normhpc.sweep import load

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "analysis" / "reproduction_table.py"
REPRODUCE = ROOT / "sweeps" / "reproduce"

spec = spec_from_file_location("reproduction_table", SCRIPT)
assert spec is not None
assert spec.loader is not None
script = module_from_spec(spec)
spec.loader.exec_module(script)

EXPECTED = """study,match,metric,expected,tolerance,source
small,norm.name=group norm.groups=8,test_top1,0.9,0.02,one
small,norm.name=batch,test_top1,0.9,0.02,two
small,norm.name=layer,test_top1,0.9,0.02,three
small,norm.name=none,diverged,1,0,four
small,norm.name=none,test_top1,0.5,0.02,five
other,norm.name=batch,test_top1,0.9,0.02,six
small,norm.name=frn,test_top1,0.9,0.02,seven
"""
SWEEPS = {
    "small": "base: {epochs: 3}\nmatrix: {norm: [{name: group, groups: 8}, batch, layer, none]}\nseeds: 2",
    "other": "base: {model.weights: weights.pth, model: torchvision/resnet18, norm: batch}",
}


def small(norm: object, seed: int = 0, **fields: object) -> dict[str, object]:
    """The configuration of a run of the sweep ``small``, with ``fields`` on top."""
    return {"norm": norm, "seed": seed, "epochs": 3, **fields}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs of group norm inside, two of batch norm outside, one of layer norm failed, two without norm diverged."""
    place = tmp_path / "runs"
    for seed, top1 in enumerate((0.88, 0.92, 0.93)):
        sealed_run(place, small({"name": "group", "groups": 8}, seed), top1, sweep="small")
    for seed, top1 in enumerate((0.8, 0.9)):
        sealed_run(place, small("batch", seed), top1, sweep="small")
    failed_run(place, small("layer"), sweep="small")
    for seed in range(2):
        diverged_run(place, small("none", seed), sweep="small")
    return place


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    """The expectations, with the sweeps they are about beside them."""
    for name, text in SWEEPS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    file = tmp_path / "expected.csv"
    file.write_text(EXPECTED)
    return file


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def test_means_intervals_and_verdicts(runs: Path, expected: Path) -> None:
    """The third seed of group norm is beyond those of the file, and counts."""
    table = script.compare([runs], expected)
    verdicts = ["inside", "outside", "not run", "inside", "outside", "not run", "not run"]
    assert table["verdict"].tolist() == verdicts
    assert table["n"].tolist() == [3, 2, 0, 2, 0, 0, 0]
    values = [0.88, 0.92, 0.93]
    mean = sum(values) / 3
    low, high = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(values))
    assert table.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx([mean, low, high], rel=1e-12)
    assert table.loc[1, "mean"] == pytest.approx(0.85, rel=1e-12)
    assert table.loc[3, "mean"] == 1.0
    assert math.isnan(table.loc[2, "mean"])


def test_runs_of_other_settings_have_rows_of_their_own(tmp_path: Path, expected: Path) -> None:
    place = tmp_path / "runs"
    for seed, top1 in enumerate((0.90, 0.91)):
        sealed_run(place, small("batch", seed, checkpoint={"keep_best": True}), top1, sweep="small")
        sealed_run(place, small("batch", seed, epochs=2), top1 - 0.5, sweep="small")
    sealed_run(place, small("batch", 0, epochs=2, batch_size=64), 0.9, sweep="small")
    sealed_run(place, small("layer", 0, epochs=2), 0.9, sweep="small")
    table = script.compare([place], expected)
    found = table[["match", "n", "verdict"]].to_numpy().tolist()
    assert found[1:6] == [
        ["norm.name=batch", 2, "inside"],
        ["norm.name=batch", 2, "other settings (epochs=2)"],
        ["norm.name=batch", 1, "other settings (batch_size=64 epochs=2)"],
        ["norm.name=layer", 0, "not run"],
        ["norm.name=layer", 1, "other settings (epochs=2)"],
    ]
    assert table.loc[1:3, "mean"].tolist() == pytest.approx([0.905, 0.405, 0.9], rel=1e-12)
    assert len(table) == 10


def test_an_axis_that_is_fixed_is_still_known(tmp_path: Path, expected: Path) -> None:
    """As ``--set norm=batch`` leaves it: no field of the match is swept, nor a column of the runs."""
    sealed_run(tmp_path / "runs", small("batch", 0), 0.9, sweep="small", swept={})
    row = script.compare([tmp_path / "runs"], expected).loc[1]
    assert (row["n"], row["mean"], row["verdict"]) == (1, 0.9, "inside")


def test_pretrained_runs_count_wherever_their_weights_lie(tmp_path: Path, expected: Path) -> None:
    place = tmp_path / "runs"
    for top1, weights in ((0.9, "/a/weights.pth"), (0.91, "/b/other.pth"), (0.3, None)):
        model = {"name": "torchvision/resnet18", "weights": weights}
        sealed_run(place, {"model": model}, top1, sweep="other")
    table = script.compare([place], expected)
    assert table.loc[5:6, "verdict"].tolist() == ["inside", "other settings (model.weights=null)"]
    assert table.loc[5:6, "mean"].tolist() == pytest.approx([0.905, 0.3], rel=1e-12)


def test_a_mean_on_the_edge_is_inside(runs: Path, expected: Path) -> None:
    lines = [f"small,norm.name=batch,test_top1,{value},0.02,x" for value in (0.87, 0.83, 0.8701, 0.8299)]
    expected.write_text("\n".join([EXPECTED.splitlines()[0], *lines]))
    verdicts = script.compare([runs], expected)["verdict"].tolist()
    assert verdicts == ["inside", "inside", "outside", "outside"]


def test_one_run_has_no_interval(tmp_path: Path, expected: Path) -> None:
    sealed_run(tmp_path / "runs", small("batch"), 0.9, sweep="small")
    row = script.compare([tmp_path / "runs"], expected).loc[1]
    assert (row["n"], row["mean"], row["verdict"]) == (1, 0.9, "inside")
    assert math.isnan(row["low"])


def test_a_study_without_its_sweep(runs: Path, expected: Path) -> None:
    (expected.parent / "other.yaml").unlink()
    done = call(runs, "--expected", expected)
    assert done.returncode == 2
    assert f"{expected.parent / 'other.yaml'}: cannot be read: No such file or directory" in done.stderr


def test_table_and_markdown(runs: Path, expected: Path) -> None:
    done = call(runs, "--expected", expected)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == list(script.COLUMNS)
    head = ["small", "norm.name=group", "norm.groups=8", "test_top1", "0.9000", "0.0200", "0.9100", "3"]
    assert lines[1] == [*head, "0.8443", "0.9757", "inside", "one"]
    marked = call(runs, "--expected", expected, "--markdown").stdout.splitlines()
    assert marked[0] == "| " + " | ".join(script.COLUMNS) + " |"
    assert marked[1] == "| " + " | ".join(["---"] * 11) + " |"
    assert marked[4] == "| small | norm.name=layer | test_top1 | 0.9000 | 0.0200 | - | 0 | - | - | not run | three |"
    assert len(marked) == 9


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = call(tmp_path / "nothing")
    assert done.returncode == 2
    assert f"{tmp_path / 'nothing'}: there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def spelled_alike(value: object, wanted: str) -> bool:
    """Written without pandas: ``0.9`` is 0.9, ``true`` is True."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value).lower() == wanted
    return float(str(value)) == float(wanted)


@pytest.mark.parametrize("study", sorted(path.stem for path in REPRODUCE.glob("*.yaml")))
def test_every_expectation_fits_runs_of_its_sweep(study: str) -> None:
    """Each match gives exactly one cell (all its seeds), in fields that the sweep varies; no two have the same."""
    sweep = load(REPRODUCE / f"{study}.yaml")
    assert sweep.name == study
    runs = [(json.loads(run.config_json), run.swept) for run in sweep.runs()]
    with (REPRODUCE / "expected.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["study"] == study]
    assert rows
    assert len({(row["match"], row["metric"]) for row in rows}) == len(rows)
    seeds = len({config["seed"] for config, _ in runs})
    for row in rows:
        fields = [field.split("=") for field in row["match"].split()]
        fitting = [
            config for config, _ in runs if all(spelled_alike(at_path(config, path), wanted) for path, wanted in fields)
        ]
        assert len(fitting) == seeds, row["match"]
        assert float(row["tolerance"]) < 0.05
        assert 0 < float(row["expected"]) <= 1


def test_six_cells_of_the_mnist_study() -> None:
    """m1 to m6 of the original's table: norm, L1, weight decay, epochs."""
    configs = [json.loads(run.config_json) for run in load(REPRODUCE / "eva_mnist.yaml").runs()]
    found = [
        (c["norm"]["name"], c["optim"]["l1"], c["optim"]["weight_decay"], c["epochs"]) for c in configs if not c["seed"]
    ]
    assert found == [
        ("group", 0.0, 0.0, 20),
        ("layer", 0.0, 0.0, 20),
        ("batch", 5e-5, 0.0, 20),
        ("group", 5e-5, 0.0, 25),
        ("layer", 0.0, 0.003, 25),
        ("batch", 5e-5, 0.003, 25),
    ]
    groups = [RunConfig.model_validate(c).norm for c in configs if c["norm"]["name"] == "group"]
    assert {norm.groups_of(width) for norm in groups for width in (8, 12, 16)} == {4, 6, 8}


def test_every_cell_of_the_pretrained_study_has_weights() -> None:
    configs = [json.loads(run.config_json) for run in load(REPRODUCE / "thesis_cifar100.yaml").runs()]
    assert {c["model"]["weights"] for c in configs} == {ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]}


def test_batch_size_of_the_study_of_two_is_not_set_without_its_epochs() -> None:
    file = REPRODUCE / "beyond_batchnorm.yaml"
    with pytest.raises(InputError, match="got batch_size without epochs; set epochs as well"):
        load(file, ["batch_size=512"])
    assert load(file, only=["batch_size=512"]).count() == 256


def test_learning_rates_of_the_two_batch_sizes() -> None:
    """0.1 at 256 images on each of two ranks, 0.00625 at 16."""
    configs = [json.loads(run.config_json) for run in load(REPRODUCE / "beyond_batchnorm.yaml").runs()]
    rates = {
        (c["batch_size"], c["epochs"]): c["optim"]["lr"] * c["batch_size"] / c["optim"]["lr_batch_size"]
        for c in configs
    }
    assert rates == {(512, 60): 0.1, (32, 10): 0.00625}
    assert {(c["data"]["normalize"], c["data"]["order"], c["data"]["val_fraction"]) for c in configs} == {
        ("half", "stored", 0.0)
    }
