import numpy as np
import pandas as pd
import pytest
import scipy.stats
from results.fabricate import diverged_run, norm_config, sealed_run

from normhpc.errors import InputError
from normhpc.results import load_runs, rank_methods

NORMS = ("batch", "layer", "group", "none")
SETS = ("mnist", "cifar10", "cifar100", "digits")
MODELS = ("vgg", "vit")


def study(seeds=3, norms=NORMS, sets=SETS, models=MODELS):
    """Runs of every norm on every block, batch the best by a point a norm, as load_runs would give them."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "run_id": f"{norm}{data}{model}{seed}",
            "sweep": "s",
            "state": "finished",
            "seed": seed,
            "data.name": data,
            "model.name": model,
            "norm.name": norm,
            "test_top1": 0.6 + 0.1 * sets.index(data) - 0.01 * norms.index(norm) + rng.normal(0, 0.001),
            "test_loss": 1.0 + 0.01 * norms.index(norm) + rng.normal(0, 0.001),
            "parameters": 100.0,
            "images_per_statistic": "128",
            "data_digest": "d",
            "code": "c",
        }
        for norm in norms
        for data in sets
        for model in models
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_a_study_is_ranked_over_its_blocks():
    runs = study()
    ranking = rank_methods(runs, "test_top1")
    means = runs.pivot_table(index=["data.name", "model.name"], columns="norm.name", values="test_top1")[list(NORMS)]
    assert (ranking.n, ranking.blocks, ranking.method) == (8, ("data.name", "model.name"), ("norm.name",))
    assert ranking.names == NORMS
    assert [row.rank for row in ranking.methods] == [1, 2, 3, 4]
    assert [row.mean for row in ranking.methods] == pytest.approx(means.mean().tolist(), rel=1e-12)
    assert ranking.friedman.chi_square == pytest.approx(scipy.stats.friedmanchisquare(*means.to_numpy().T).statistic)
    assert ranking.reference == "batch"
    assert ranking.against_control is None
    # 8 blocks are just enough for 6 pairs
    assert ranking.notes == ()
    assert ranking.wilcoxon.p[0, 1:] == pytest.approx([6 * 2**-7] * 3)
    assert ranking.clique_names(ranking.nemenyi) == (NORMS[:2], NORMS[1:3], NORMS[2:])
    differences = (means["group"] - means["batch"]).to_numpy()
    assert ranking.methods[2].difference.value == pytest.approx(np.median(differences), rel=1e-12)
    assert (ranking.methods[2].difference.low, ranking.methods[2].difference.high) == (
        pytest.approx(differences.min(), rel=1e-12),
        pytest.approx(differences.max(), rel=1e-12),
    )


def test_less_loss_is_better():
    ranking = rank_methods(study(), "test_loss")
    assert ranking.names == NORMS
    assert ranking.methods[1].difference.value == pytest.approx(0.01, abs=0.003)
    assert rank_methods(study(), "test_loss", higher_is_better=True).names == NORMS[::-1]


def test_a_control_needs_fewer_blocks_than_all_pairs():
    runs = study(sets=SETS[:3])
    ranking = rank_methods(runs, "test_top1", control="layer", alpha=0.1)
    assert ranking.n == 6
    assert ranking.wilcoxon is None
    assert ranking.notes == (
        "Wilcoxon-Holm of all pairs of 4 methods needs at least 7 blocks, got 6: no p value can be below 2^-5 = 0.031, "
        "and 0.1 / 6 = 0.017 is asked of the smallest; compare with one control, or use Nemenyi",
    )
    # the smallest p value that 6 blocks can have, three times
    assert [row.p for row in ranking.methods] == pytest.approx([3 / 32, None, 3 / 32, 3 / 32])
    assert ranking.reference == "layer"
    assert ranking.methods[0].difference.value > 0


def test_too_few_blocks_for_a_control_are_told_too():
    ranking = rank_methods(study(models=("vgg",)), "test_top1", control="batch")
    assert (ranking.wilcoxon, ranking.against_control) == (None, None)
    assert [note[: note.index(" methods")] for note in ranking.notes] == [
        "Wilcoxon-Holm of all pairs of 4",
        "Wilcoxon-Holm of one control of 4",
    ]
    assert all(row.p is None for row in ranking.methods)


def test_incomplete_blocks_are_dropped_and_told():
    runs = study()
    runs.loc[(runs["norm.name"] == "none") & (runs["model.name"] == "vit"), ["test_top1", "state"]] = [
        np.nan,
        "diverged",
    ]
    runs = runs[~((runs["norm.name"] == "group") & (runs["data.name"] == "mnist"))]
    ranking = rank_methods(runs, "test_top1")
    assert ranking.n == 3
    assert ranking.notes[:2] == (
        "5 of 8 blocks dropped, they lack a method (group in 2; none in 4): the ranking says nothing about them",
        "12 of 90 runs have no test_top1 (12 diverged)",
    )
    # a method that diverges has the score of a guess there, and all blocks of the others are back
    ranking = rank_methods(runs, "test_top1", score_of_diverged=0.1, leave_out=["group"])
    assert ranking.n == 8
    assert ranking.notes[0] == "12 diverged runs count with test_top1 0.1"
    assert ranking.methods[-1].name == "none"


def test_a_method_of_several_fields():
    runs = study()
    runs["norm.groups"] = pd.Series([8] * len(runs), dtype="Int64").where(runs["norm.name"] == "group")
    other = runs[runs["norm.name"] == "group"].assign(**{"norm.groups": 4, "test_top1": 0.99})
    runs = pd.concat([runs, other], ignore_index=True)
    ranking = rank_methods(runs, "test_top1", ["norm.name", "norm.groups"])
    assert ranking.names == (
        "norm.name=group norm.groups=4",
        "norm.name=batch",
        "norm.name=layer",
        "norm.name=group norm.groups=8",
        "norm.name=none",
    )
    # as one method they are averaged, which is told
    mixed = rank_methods(runs, "test_top1")
    assert "values are means over different norm.groups; as part of method or blocks it would show" in mixed.notes
    assert "values are means of 3 to 6 runs, not equally sure" in mixed.notes


def test_seeds_as_blocks_are_told():
    ranking = rank_methods(study(), "test_top1", blocks=["data.name", "seed"])
    assert ranking.n == 12
    assert ranking.notes == (
        "values are means over different model.name; as part of method or blocks it would show",
        "every seed is a block of its own, so blocks are not independent: p values are too small",
    )


def test_it_prints_as_a_table():
    ranking = rank_methods(study(sets=SETS[:3]), "test_top1", control="layer", alpha=0.1)
    assert str(ranking).splitlines() == [
        "test_top1: 4 methods over 6 blocks of data.name, model.name",
        "Friedman chi2 18.00 (p 0.00044), Iman-Davenport F inf (p 0); Nemenyi critical difference 1.71 at 0.1",
        "method  rank   mean     median difference from layer",
        "batch    1.00  0.6997   +0.009163 [+0.00791, +0.01055], p 0.094",
        "layer    2.00  0.6903   reference",
        "group    3.00  0.68     -0.01076 [-0.0112, -0.008902], p 0.094",
        "none     4.00  0.6699   -0.0204 [-0.02131, -0.01996], p 0.094",
        "no difference found within, Nemenyi: {batch, layer} {layer, group} {group, none}",
        "note: Wilcoxon-Holm of all pairs of 4 methods needs at least 7 blocks, got 6: no p value can be below 2^-5 = 0.031, and 0.1 / 6 = 0.017 is asked of the smallest; compare with one control, or use Nemenyi",
    ]


def test_records_are_ranked(tmp_path):
    for data, top1 in (("mnist", 0.9), ("cifar10", 0.8)):
        for norm, less in (("batch", 0.0), ("layer", 0.1)):
            sealed_run(tmp_path, norm_config(norm, 0, data=data), top1 - less, swept={"norm": norm, "data": data})
    diverged_run(tmp_path, norm_config("none", 0, data="mnist"), swept={"norm": "none"})
    ranking = rank_methods(load_runs(tmp_path), "test_top1", leave_out=["none"])
    assert (ranking.names, ranking.n) == (("batch", "layer"), 2)
    assert ranking.methods[1].difference.value == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"metric": "parameters"},
            "metric: neither more nor less parameters is better by itself; say which by higher_is_better",
        ),
        (
            {"method": "norm.nam", "blocks": ["model"]},
            "method: no field of these runs is called 'norm.nam', did you mean 'norm.name'?\n"
            "blocks: no field of these runs is called 'model', did you mean 'model.name'?",
        ),
        ({"blocks": []}, "blocks: expected at least one field, got none; data.name and model.name are usual"),
        (
            {"blocks": ["norm.name", "data.name"]},
            "blocks: norm.name is what tells methods apart, so it makes no blocks",
        ),
        (
            {"leave_out": ["bathc"]},
            "no method of these runs is called 'bathc', did you mean 'batch'? There are: batch, layer, group, none",
        ),
        ({"leave_out": ["none"], "control": "none"}, "control: none is also in leave_out; name another one"),
        (
            {"leave_out": ["layer", "group", "none"]},
            "a ranking needs at least 2 methods and 2 blocks with a value of each, got 1 methods and 8 such blocks of 8",
        ),
    ],
)
def test_what_cannot_be_ranked(arguments, text):
    with pytest.raises(InputError) as caught:
        rank_methods(study(), **{"metric": "test_top1", **arguments})
    assert str(caught.value) == text


def test_without_a_complete_block_it_is_told_why():
    runs = study()
    runs.loc[runs["norm.name"] == "none", "test_top1"] = np.nan
    with pytest.raises(InputError) as caught:
        rank_methods(runs, "test_top1")
    assert str(caught.value) == (
        "a ranking needs at least 2 methods and 2 blocks with a value of each, got 4 methods and 0 such blocks of 8; "
        "without a value: none in 8; leave_out does without a method"
    )
