import torch
from torch import nn

from normhpc.norms import build, merged_running_statistics, running_statistics


def test_merged_statistics_are_those_of_all_images_together():
    generator = torch.Generator().manual_seed(0)
    shares = [torch.randn(rows, 3, generator=generator, dtype=torch.float64) + 3 * rows for rows in (4, 2, 7)]
    mean, variance = merged_running_statistics(
        torch.stack([share.mean(0) for share in shares]),
        torch.stack([share.var(0, correction=0) for share in shares]),
        torch.tensor([4, 2, 7]),
    )
    together = torch.cat(shares)
    torch.testing.assert_close(mean, together.mean(0))
    torch.testing.assert_close(variance, together.var(0, correction=0))


def test_spread_of_the_means_counts():
    means = torch.tensor([[3.0], [-3.0]])
    mean, variance = merged_running_statistics(means, torch.ones(2, 1), torch.tensor([1.0, 1.0]))
    assert (mean.item(), variance.item()) == (0.0, 10.0)


def test_merging_keeps_dtype_and_equal_statistics():
    statistics = torch.rand(4, 5)
    mean, variance = merged_running_statistics(statistics[:1].expand(3, 5), statistics[1:2].expand(3, 5), torch.ones(3))
    assert mean.dtype == variance.dtype == torch.float32
    assert torch.equal(mean, statistics[0])
    assert torch.equal(variance, statistics[1])


def test_only_statistics_that_ranks_keep_apart_are_named():
    model = nn.Sequential(
        build("batch", 4),
        nn.Sequential(build("layer", 4), build("batch", 4)),
        build({"name": "batch", "sync": True}, 4),
    )
    named = running_statistics(model)
    assert list(named) == ["0.running_mean", "0.running_var", "1.1.running_mean", "1.1.running_var"]
    assert named["1.1.running_var"] is model[1][1].running_var
    assert list(running_statistics(model[0])) == ["running_mean", "running_var"]
