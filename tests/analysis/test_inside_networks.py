"""Figures of what was measured inside trained networks: what is drawn, on records and results made for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results.fabricate import sealed_run, summary_with
from scipy import stats

from normhpc import data
from normhpc.config import RunConfig
from normhpc.posthoc.kept import Finding, keep
from normhpc.record import RunFolder
from normhpc.record.probes import Column, ProbeFile, ProbePlan

COLUMNS = (Column("a", "activation", "activation_variance"), Column("b", "activation", "activation_variance"))
COSINE = Column("a", "activation", "activation_cosine")


def norm_run(
    runs: Path, norm: str, seed: int = 0, *, train: float = 0.5, test: float = 0.9, digest: str = "d"
) -> RunFolder:
    final = summary_with(test)["final"] | {"train_top1": train}
    swept = {"norm": norm, "seed": seed}
    return sealed_run(runs, {"norm": norm, "seed": seed}, test, swept=swept, final=final, data_digest=digest)


def kept(folder: RunFolder, what: str, values: Mapping[str, Any], **arrays: np.ndarray) -> None:
    finding = Finding(method="", values=values, units={}, n={}, headline="", arrays=arrays)
    keep(folder, what, finding, {"weights": {}, "images_asked": None})


def curvature(eval_max: float | None, train_max: float, *, settled: bool = True) -> dict[str, Any]:
    modes = {"eval": eval_max, "train": train_max}
    told = {mode: {"lambda_max": value, "checks": {"settled": settled}} for mode, value in modes.items()}
    return told | {"modes_differ": eval_max != train_max}


def test_hessian_vs_generalisation(tmp_path: Path, drawn) -> None:
    cells = [
        ("batch", 0, 9.0, 0.3, 0.95),
        ("batch", 1, 8.0, 0.5, 0.97),
        ("layer", 0, 2.0, 2.0, 0.92),
        ("layer", 1, 3.0, 3.0, 0.9),
    ]
    for norm, seed, eval_max, train_max, train in cells:
        kept(norm_run(tmp_path / "runs", norm, seed, train=train), "hessian", curvature(eval_max, train_max))
    kept(norm_run(tmp_path / "runs", "none", train=0.99), "hessian", curvature(None, 1.0, settled=False))
    table = drawn("hessian_vs_generalisation", tmp_path / "runs")
    gaps = [0.05, 0.07, 0.02, 0.0]
    own = table[table["mode"] == "eval"]
    assert own["gap"].tolist() == pytest.approx(gaps, abs=1e-12)
    assert own["lambda_max"].tolist() == [9.0, 8.0, 2.0, 3.0]
    assert own["rho"].tolist() == pytest.approx([stats.spearmanr([9, 8, 2, 3], gaps).statistic] * 4)
    assert set(own["n"]) == {4}
    train = table[table["mode"] == "train"]
    assert train["n"].tolist() == [5] * 5
    assert train["rho"].tolist() == pytest.approx([stats.spearmanr([0.3, 0.5, 2, 3, 1], [*gaps, 0.09]).statistic] * 5)
    assert train["settled"].tolist() == [True, True, True, True, False]


def test_gap_of_a_loss(tmp_path: Path, drawn) -> None:
    kept(norm_run(tmp_path / "runs", "batch"), "hessian", curvature(2.0, 1.0))
    table = drawn("hessian_vs_generalisation", tmp_path / "runs", "--metric", "test_loss")
    assert table["gap"].tolist() == pytest.approx([0.1 - 0.5] * 2, abs=1e-12)


def test_without_an_analysis(tmp_path: Path, refused) -> None:
    folder = norm_run(tmp_path / "runs", "batch")
    for name, what in (("hessian_vs_generalisation", "hessian"), ("explainability_grid", "saliency")):
        assert refused(name, tmp_path / "runs") == (
            f"no run in {tmp_path / 'runs'} has posthoc/{what}.json; "
            f"normhpc analyze {tmp_path / 'runs'} --what {what} makes it"
        )
    (folder.path / "posthoc").mkdir()
    damaged = folder.path / "posthoc" / "hessian.json"
    damaged.write_text("{")
    assert refused("hessian_vs_generalisation", tmp_path / "runs") == (
        f"{damaged}: expected a result of the analysis hessian, got something else; "
        f"normhpc analyze {folder.path} --what hessian --again makes it anew"
    )


def saliency(folder: RunFolder, srg: list[float], rows: list[int]) -> None:
    count = len(rows)
    maps = np.linspace(0, 1, count * 64).reshape(count, 8, 8).astype(np.float16)
    arrays = {"rows": np.array(rows), "maps": maps, "srg_retention": np.array(srg), "zero": np.arange(count) == 1}
    kept(folder, "saliency", {}, **arrays, right=np.arange(count) != 0, predicted=np.arange(count))


def test_explainability_grid(tmp_path: Path, drawn) -> None:
    runs = tmp_path / "runs"
    saliency(norm_run(runs, "batch", 1), [0.9, 0.8, 0.7], [0, 1, 2])
    saliency(norm_run(runs, "batch", 0), [0.1, 0.2, 0.3], [0, 1, 2])
    saliency(norm_run(runs, "layer", 2), [0.5, 0.6], [1, 2])
    norm_run(runs, "none", 0)
    table = drawn("explainability_grid", runs)
    # the lowest seed of each, the images that both have; the labels of the first digits of test
    cells = table[["norm", "seed", "row", "value", "right", "zero", "predicted"]].to_numpy().tolist()
    assert cells == [
        ["batch", 0, 1, 0.2, True, True, 1],
        ["layer", 2, 1, 0.5, False, False, 0],
        ["batch", 0, 2, 0.3, True, False, 2],
        ["layer", 2, 2, 0.6, True, True, 1],
    ]
    images = data.load(RunConfig().data)
    assert table["label"].astype(str).tolist() == [images.classes[int(images.test.labels[row])] for row in (1, 1, 2, 2)]
    assert len(drawn("explainability_grid", runs, "--images", 1)) == 2


def test_maps_of_different_images_are_not_put_together(tmp_path: Path, refused) -> None:
    saliency(norm_run(tmp_path / "runs", "batch"), [0.1], [0])
    saliency(norm_run(tmp_path / "runs", "layer", digest="other"), [0.1], [0])
    assert refused("explainability_grid", tmp_path / "runs") == (
        "expected 1 to 8 analysed networks on one set of images, got 2 networks on 2 sets of images; "
        "choose with --only FIELD=VALUE"
    )
    message = refused("explainability_grid", tmp_path / "runs", "--only", "norm.name=batch", "--metric", "maps")
    assert message == "--metric: expected a number of each image, srg_retention for instance, got maps"


def probed(folder: RunFolder, rows: list[list[float]], features: list[list[float]]) -> None:
    """Every second of six steps, three an epoch."""
    file = ProbeFile(folder.probes, ProbePlan(2, 3, 2, (0.2, 0.5, 0.8)), {"run_id": folder.path.name})
    columns = (*COLUMNS, COSINE)
    file.write_rows(0, columns, np.array(rows, np.float32), np.full(len(rows), 4, np.int32))
    for epoch, values in enumerate(features, 1):
        file.write_features(epoch, np.array(values), columns)


def test_feature_evolution(tmp_path: Path, drawn) -> None:
    runs = tmp_path / "runs"
    probed(norm_run(runs, "batch", 0), [[1, 2, 0.1], [3, 4, 0.2], [5, 6, 0.3]], [[0, 1, 2], [0, 2, 4]])
    probed(norm_run(runs, "batch", 1), [[3, 4, 0.1], [5, 6, 0.2], [7, 8, 0.3]], [[2, 3, 4], [2, 4, 6]])
    probed(norm_run(runs, "none", 0), [[1, 1000, 0.9], [1, np.nan, 0.9]], [[0, 10, 500]])
    table = drawn("feature_evolution", runs)
    layers = table[table["layer"].notna()]
    assert set(layers["measure"]) == {"activation_variance"}
    batch = layers[layers["column"] == "batch"].pivot(index="layer", columns="step", values="mean")
    assert batch.columns.tolist() == [0, 2, 4]
    assert batch.to_numpy().tolist() == [[2, 4, 6], [3, 5, 7]]
    assert set(layers.loc[layers["column"] == "batch", "n"]) == {2}
    without = layers[layers["column"] == "none"].set_index(["layer", "step"])["mean"]
    assert without["b", 0] == 1000
    assert np.isnan(without["b", 2])
    features = table[table["layer"].isna() & (table["column"] == "batch")]
    wide = features.pivot(index="epoch", columns="measure", values="mean")
    assert wide.columns.tolist() == ["quantile_0.2", "quantile_0.5", "quantile_0.8"]
    assert wide.to_numpy().tolist() == [[1, 2, 3], [1, 3, 5]]
    other = drawn("feature_evolution", runs, "--metric", "activation_cosine", "--only", "norm.name=none")
    assert other.loc[other["layer"].notna(), "mean"].tolist() == pytest.approx([0.9, 0.9])


def test_feature_evolution_without_probes(tmp_path: Path, refused) -> None:
    folder = norm_run(tmp_path / "runs", "batch")
    assert refused("feature_evolution", tmp_path / "runs") == (
        f"no run in {tmp_path / 'runs'} has probes.h5; normhpc sweep sweeps/probes.yaml makes such runs, as does any "
        "sweep with --set 'probes={name: layers, every_steps: 10, feature_quantiles: [0.01, 0.2, 0.8, 0.99]}'"
    )
    probed(folder, [[1, 2, 0.1]], [[0, 1, 2]])
    assert refused("feature_evolution", tmp_path / "runs", "--metric", "activation_cosin") == (
        "--metric: no probe 'activation_cosin', did you mean 'activation_cosine'? there are activation_variance, "
        "activation_cosine"
    )
