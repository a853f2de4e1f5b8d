"""742 published runs imported as records: ranks, tests and rank correlations as other programs found them."""

import csv

import pytest
import scipy.stats
from support.published import SWEEP, import_table, published_table

from normhpc.errors import InputError
from normhpc.results import collect, load_runs, rank_methods

METHOD = ("norm.name", "norm.p_grouping")
BLOCKS = ("data.name", "model.name", "model.residual", "batch_size", "optim.momentum", "seed")
# of ResNet-56 there is none with 64 channels a group, and without a norm it diverges
LEFT_OUT = ("norm.name=none", "norm.name=group norm.p_grouping=64")
RANKS = {
    "norm.name=evonorm_b0": 2.97,
    "norm.name=batch": 4.29,
    "norm.name=variance": 5.56,
    "norm.name=instance": 12.85,
    "norm.name=group norm.p_grouping=1": 14.10,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    assert import_table(published_table(), folder) == 742
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return load_runs(folder)


@pytest.fixture(scope="module")
def ranking(runs):
    return rank_methods(runs, "test_top1", METHOD, BLOCKS, leave_out=LEFT_OUT, control="norm.name=batch")


def test_every_line_is_a_run(folder, runs):
    assert len(runs) == 742
    assert runs["state"].value_counts().to_dict() == {"finished": 730, "diverged": 12}
    with published_table().open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    published = sorted(float(row["Test Accuracy"]) / 100 for row in rows if row["Success"] == "True")
    assert sorted(runs["test_top1"].dropna()) == published
    # the records say what they are, and import once more changes nothing
    before = {path: path.read_bytes() for path in sorted((folder / SWEEP).rglob("*")) if path.is_file()}
    import_table(published_table(), folder)
    assert {path: path.read_bytes() for path in sorted((folder / SWEEP).rglob("*")) if path.is_file()} == before


def test_collect_reads_them(folder):
    table = collect([folder], by=["norm.name"], metrics=["test_top1"], format="csv").content
    lines = {line.split(",")[0]: line.split(",")[1:5] for line in table.splitlines()[1:]}
    assert lines["none"] == ["28", "28", "40", "0"]
    assert lines["group"] == ["422", "422", "422", "0"]


def test_ranks_are_the_known_ones(ranking):
    assert (ranking.n, len(ranking.methods)) == (39, 17)
    found = {row.name: round(row.rank, 2) for row in ranking.methods}
    assert {name: found[name] for name in RANKS} == RANKS
    assert ranking.names[:3] == tuple(RANKS)[:3]
    assert ranking.names[-2:] == tuple(RANKS)[-2:]
    assert round(ranking.nemenyi.critical_difference, 2) == 3.95
    # scipy.stats.friedmanchisquare of the table itself
    assert (ranking.friedman.chi_square, ranking.friedman.p) == pytest.approx((189.37113758526377, 1.1043476e-31))


def test_pairs_are_the_known_ones(ranking):
    """48 of 136 by Nemenyi; by exact signed ranks 67, where scipy, which falls back on a normal curve for ties, has 66."""
    assert (ranking.nemenyi.p < 0.05).sum() / 2 == 48
    assert (ranking.wilcoxon.p < 0.05).sum() / 2 == 67


def test_what_was_left_out_is_told(ranking):
    assert ranking.notes == (
        "1 of 40 blocks dropped, they lack a method (norm.name=group norm.p_grouping=32 in 1): "
        "the ranking says nothing about them",
        "every seed is a block of its own, so blocks are not independent: p values are too small",
    )


def test_twelve_blocks_refuse_all_pairs(runs):
    chosen = runs[(runs["model.name"] == "vgg") & (runs["seed"] == 0) | (runs["model.name"] == "vit")]
    chosen = chosen[(chosen["model.name"] == "vgg") | (chosen["data.name"] == "cifar10")]
    ranking = rank_methods(chosen, "test_top1", METHOD, BLOCKS[:5], control="norm.name=batch", leave_out=LEFT_OUT[:1])
    assert (ranking.n, len(ranking.methods), ranking.wilcoxon) == (12, 18, None)
    assert ranking.notes[-1].startswith("Wilcoxon-Holm of all pairs of 18 methods needs at least 13 blocks, got 12: ")
    assert ranking.against_control is not None
    with pytest.raises(InputError, match=r"^no method of these runs is called 'norm.name=bach', did you mean"):
        rank_methods(chosen, "test_top1", METHOD, BLOCKS[:5], control="norm.name=bach")


@pytest.mark.parametrize(
    ("measured", "test", "train", "ratio"),
    [
        ("class_similarity", -0.297, -0.598, 0.455),
        ("trace", -0.359, -0.676, 0.309),
        ("eigenvalue_mean", -0.211, -0.191, -0.196),
        ("eigenvalue_variance", -0.169, -0.131, -0.114),
        ("max_eigenvalue", -0.280, -0.718, 0.508),
    ],
)
def test_rank_correlations_are_the_known_ones(runs, measured, test, train, ratio):
    finished = runs[runs["state"] == "finished"]
    found = [
        round(scipy.stats.spearmanr(finished[f"published_{measured}"], finished[name]).statistic, 3)
        for name in ("test_top1", "train_top1", "generalization_ratio")
    ]
    assert found == [test, train, ratio]


@pytest.mark.parametrize(
    ("model", "data", "count", "similarity", "eigenvalue"),
    [("vgg", "cifar10", 152, -0.75, -0.78), ("bbn_resnet56", "cifar100", 140, -0.79, -0.55)],
)
def test_rank_correlations_within_a_network(runs, model, data, count, similarity, eigenvalue):
    chosen = runs[(runs["model.name"] == model) & (runs["data.name"] == data) & (runs["state"] == "finished")]
    assert len(chosen) == count
    for name, expected in (("class_similarity", similarity), ("max_eigenvalue", eigenvalue)):
        found = scipy.stats.spearmanr(chosen[f"published_{name}"], chosen["test_top1"]).statistic
        assert round(found, 2) == expected
