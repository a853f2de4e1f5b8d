"""Bands of several resolutions as one image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.shard_jobs import converted, floats_job
from support.sharded import BANDS, DECIBELS, PHOTO, make_shards

from normhpc.data.planes import Planes, _enlarge_into, _enlarged, values
from normhpc.errors import DataError
from normhpc.shards import open_shards


@pytest.fixture
def shards(tmp_path):
    make_shards(tmp_path, 5, fields=BANDS)
    return open_shards(tmp_path, "train")


def parts_of(shards, rows):
    images, _ = shards[rows]
    return {name: torch.from_numpy(stored.view(np.int16)) for name, stored in images.items()}


def test_bands_are_repeated_to_the_finest_resolution(shards):
    planes = Planes(shards.index.fields, None, "index.json")
    assert (planes.shape, planes.dtype) == ((6, 12, 12), torch.int16)
    found = values(planes.image(parts_of(shards, slice(1, 4))), torch.float64)
    images, _ = shards[1:4]
    expected = [
        F.interpolate(torch.from_numpy(stored.astype(np.float64)), (12, 12), mode="nearest")
        for stored in images.values()
    ]
    assert torch.equal(found, torch.cat(expected, 1))
    assert found.max() > 2**15, "values above those of signed integers"


def test_chosen_bands_come_in_their_order(shards):
    planes = Planes(shards.index.fields, ("B8A", "B02", "B05"), "index.json")
    assert [field.name for field in planes.fields] == ["s2_20m", "s2_10m"]
    found = values(planes.image(parts_of(shards, slice(0, 2))), torch.float64)
    images, _ = shards[0:2]
    assert torch.equal(found[:, 1], torch.from_numpy(images["s2_10m"][:, 0].astype(np.float64)))
    twice = images["s2_20m"].repeat(2, axis=2).repeat(2, axis=3).astype(np.float64)
    assert torch.equal(found[:, (0, 2)], torch.from_numpy(twice[:, (2, 0)]))


def test_a_coarse_band_alone_keeps_its_resolution(shards):
    planes = Planes(shards.index.fields, ("B06",), "index.json")
    assert planes.shape == (1, 6, 6)
    found = planes.image(parts_of(shards, slice(0, 5)))
    assert torch.equal(found, parts_of(shards, slice(0, 5))["s2_20m"][:, 1:2])


@pytest.mark.parametrize("size", [(6, 6), (7, 9), (2, 5), (4, 7), (8, 2), (2, 2)])
def test_any_sizes_follow_interpolate(size):
    planes = torch.arange(24.0).view(2, 3, 2, 2)
    expected = F.interpolate(planes, size, mode="nearest")
    assert torch.equal(_enlarged(planes, size), expected)
    found = torch.empty(2, 3, *size)
    for channel in range(3):
        _enlarge_into(found[:, channel], planes[:, channel])
    assert torch.equal(found, expected)


def test_statistics_are_those_of_the_bands(shards):
    planes = Planes(shards.index.fields, ("B01", "B03"), "index.json")
    mean, std = planes.statistics(shards.index)
    images, _ = shards[:]
    for place, stored in enumerate((images["s2_60m"][:, 0], images["s2_10m"][:, 1])):
        assert mean[place] == pytest.approx(stored.astype(np.float64).mean() / 10_000, rel=1e-12)
        assert std[place] == pytest.approx(stored.astype(np.float64).std() / 10_000, rel=1e-12)


def test_floats_beside_integers(tmp_path):
    """Everything becomes fp32 in stored units, with the statistics of each in these."""
    make_shards(tmp_path, 5, fields=(*BANDS, DECIBELS))
    shards = open_shards(tmp_path, "train")
    planes = Planes(shards.index.fields, ("VH", "B06", "VV"), "index.json")
    assert (planes.shape, planes.dtype) == ((3, 12, 12), torch.float32)
    images, _ = shards[:]
    parts = {"s1_10m": torch.from_numpy(images["s1_10m"]), "s2_20m": torch.from_numpy(images["s2_20m"].view(np.int16))}
    found = planes.image(parts)
    coarse = images["s2_20m"][:, 1].repeat(2, axis=1).repeat(2, axis=2).astype(np.float32)
    expected = np.stack([images["s1_10m"][:, 1], coarse, images["s1_10m"][:, 0]], axis=1)
    assert np.array_equal(found.numpy(), expected)
    mean, std = planes.statistics(shards.index)
    for place in range(3):
        assert mean[place] == pytest.approx(expected[:, place].astype(np.float64).mean(), rel=1e-12)
        assert std[place] == pytest.approx(expected[:, place].astype(np.float64).std(), rel=1e-12)


def test_floats_without_statistics(tmp_path):
    converted(tmp_path, floats_job(spoiled=2))
    shards = open_shards(tmp_path, "train")
    with pytest.raises(DataError) as caught:
        Planes(shards.index.fields, ("VV",), "index.json").statistics(shards.index)
    assert str(caught.value) == (
        "index.json: data.bands: no statistics of the floats of s1: some are not finite, or they were converted before "
        "statistics of floats were kept; leave its bands out, or convert anew without the rows that "
        "normhpc shards verify names"
    )


def test_unknown_band(shards):
    with pytest.raises(DataError) as caught:
        Planes(shards.index.fields, ("B02", "B8B"), "index.json")
    assert str(caught.value) == (
        "index.json: data.bands: no band 'B8B', did you mean 'B8A'?; there are: B02, B03, B05, B06, B8A, B01"
    )


def test_photographs_are_not_copied(tmp_path):
    make_shards(tmp_path, 3, fields=PHOTO)
    shards = open_shards(tmp_path, "train")
    planes = Planes(shards.index.fields, None, "index.json")
    stored = torch.from_numpy(shards[0:3][0])
    image = planes.image({"images": stored})
    assert torch.equal(image, stored.permute(0, 3, 1, 2))
    assert image.data_ptr() == stored.data_ptr()
