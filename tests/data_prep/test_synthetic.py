"""Synthetic shards: any shape, any type, rows that depend on nothing but the seed and their number."""

import numpy as np
import pytest
from support.scripts import script

from normhpc.errors import InputError
from normhpc.shards import open_shards

synthetic = script("data_prep/synthetic.py")


def convert(out, *more):
    return synthetic.main(["--out", str(out), "--workers", "1", *map(str, more)])


def philox(seed, row, stream, count):
    """The first ``count`` words of Philox for a row, one counter after the other."""
    words = []
    for block in range(-(-count // 4)):
        generator = np.random.Philox(key=[seed, stream], counter=[block, 0, 0, row])
        words += generator.random_raw(4).tolist()
    return np.array(words[:count], "<u8")


@pytest.mark.parametrize(("dtype", "stored"), [("u1", "|u1"), ("u2", "<u2")])
def test_single_labels(tmp_path, dtype, stored):
    shape = ("--height", 5, "--width", 7, "--channels", 2)
    more = ("--rows", 30, *shape, "--dtype", dtype, "--classes", 7, "--rows-per-shard", 8)
    assert convert(tmp_path, *more, "--seed", 3) == 0
    with open_shards(tmp_path, "train") as shards:
        images, labels = shards[:]
        assert images.shape == (30, 5, 7, 2)
        assert images.dtype == np.dtype(stored)
        assert len(shards.index.shards) == 4
        assert shards.index.labels.classes == tuple(f"class_{n}" for n in range(7))
        for row in range(30):
            expected = philox(3, row, 0, -(-70 * images.itemsize // 8)).view(stored)[:70].reshape(5, 7, 2)
            assert np.array_equal(images[row], expected)
            assert labels[row] == int(philox(3, row, 1, 1)[0]) % 7
        assert set(labels.tolist()) == set(range(7))


def test_several_labels(tmp_path):
    assert convert(tmp_path, "--rows", 200, "--height", 1, "--width", 1, "--classes", 11, "--multi-label") == 0
    with open_shards(tmp_path, "train") as shards:
        labels = shards.labels()
        assert labels.shape == (200, 11)
        assert labels.dtype == np.uint8
        # fair: of 2,200 half are 1, within five standard deviations
        assert abs(int(labels.sum()) - 1100) < 5 * np.sqrt(2200 / 4)
        for row in range(200):
            assert np.array_equal(labels[row], philox(0, row, 1, 2).view(np.uint8)[:11] & 1)


def test_a_row_does_not_depend_on_how_many_there_are(tmp_path):
    shape = ("--height", 3, "--width", 3)
    assert convert(tmp_path / "few", "--rows", 3, *shape, "--split", "val") == 0
    assert convert(tmp_path / "many", "--rows", 9, *shape, "--workers", 2) == 0
    with open_shards(tmp_path / "few", "val") as few, open_shards(tmp_path / "many", "train") as many:
        assert np.array_equal(few[:][0], many[:3][0])
        assert np.array_equal(few.labels(), many.labels()[:3])
        assert len(np.unique(many[:][0].reshape(9, -1), axis=0)) == 9


def test_a_limit(tmp_path):
    assert convert(tmp_path, "--rows", 9, "--height", 2, "--width", 2, "--limit", 4) == 0
    with open_shards(tmp_path, "train") as shards:
        assert len(shards) == 4


@pytest.mark.parametrize("name", ["rows", "height", "width", "channels", "classes"])
def test_sizes_below_one_are_refused(tmp_path, name):
    with pytest.raises(InputError) as caught:
        convert(tmp_path, "--rows", 2, f"--{name}", 0)
    assert str(caught.value) == f"--{name}: expected at least 1, got 0"


def test_seeds_are_whole_and_positive(tmp_path):
    with pytest.raises(InputError) as caught:
        convert(tmp_path, "--rows", 2, "--seed", -1)
    assert str(caught.value) == "--seed: expected 0 to 9223372036854775807, got -1"
