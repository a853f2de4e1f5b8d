import numpy as np
import pytest
from support.sharded import BANDS, config, make_shards

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.posthoc.pictures import to_look_at


@pytest.mark.parametrize("residency", ["device", "mmap"])
def test_photographs_are_cut_as_for_evaluation(tmp_path, residency):
    for split in ("train", "test"):
        make_shards(tmp_path, 6, split)
    part = RunConfig.model_validate({"data": config(tmp_path, crop=7, residency=residency)}).data
    images = image_data.load(part)
    stored, _ = image_data.open_shards(tmp_path, "test")[:]
    found = to_look_at(images, part, images.test, np.array([4, 1]))
    assert np.array_equal(found, stored[[4, 1], 2:9, 1:8])


def test_satellite_images_are_red_green_and_blue_of_their_bands(tmp_path):
    named = tuple(
        field.__class__(field.name, field.dtype, field.shape, field.layout, bands)
        for field, bands in zip(BANDS, (("B02", "B03"), ("B04", "B05", "B06"), ("B01",)), strict=True)
    )
    for split in ("train", "test"):
        make_shards(tmp_path, 5, split, fields=named, multi=True)
    fields = {"height": 12, "width": 12, "multi_label": True, "bands": ["B01", "B02", "B03", "B04"], "channels": 4}
    part = RunConfig.model_validate({"data": config(tmp_path, **fields), "loss": "bce"}).data
    images = image_data.load(part)
    found = to_look_at(images, part, images.test, np.array([3]))
    stored, _ = image_data.open_shards(tmp_path, "test")[3:4]
    red = stored["s2_20m"][0, 0].astype(np.float64).repeat(2, 0).repeat(2, 1)
    blue = stored["s2_10m"][0, 0].astype(np.float64)
    for place, plane, channel in ((0, red, 3), (2, blue, 1)):
        white = 10_000 * (images.mean[channel] + 2 * images.std[channel])
        np.testing.assert_allclose(found[0, :, :, place], np.clip(plane / white, 0, 1) * 255, atol=0.51)
    assert found.shape == (1, 12, 12, 3)
    assert found.dtype == np.uint8
