"""Shards as the image set of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.shard_jobs import IMAGES, converted, floats_job
from support.sharded import BANDS, DECIBELS, PHOTO, config, make_shards

from normhpc import data as image_data
from normhpc.config import RunConfig
from normhpc.config.checks import FITS, findings
from normhpc.config.problems import validate_run
from normhpc.config.training import NoAugment, StandardAugment
from normhpc.data import Batches, ImageSplit, StoredSplit, sharded
from normhpc.data.sharded import file_system
from normhpc.errors import DataError, InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    make_shards(place, 40)
    make_shards(place, 9, "validation", first=100)
    make_shards(place, 12, "test", first=200)
    make_shards(place / "bands", 10, fields=BANDS, multi=True)
    make_shards(place / "bands", 6, "test", fields=BANDS, multi=True, first=50)
    return place


def bands(folder, **changes):
    return config(folder / "bands", height=12, width=12, channels=6, multi_label=True, **changes)


def load(data):
    loss = "bce" if data.get("multi_label") else "cross_entropy"
    return image_data.load(RunConfig.model_validate({"data": data, "loss": loss}).data)


def pixels(split):
    if isinstance(split, ImageSplit):
        return split.images
    return split.images.everything()


def test_splits_are_those_that_are_named(folder):
    found = load(config(folder, val="validation"))
    assert (len(found.train), len(found.val), len(found.test)) == (40, 9, 12)
    assert found.classes == ("class 0", "class 1", "class 2", "class 3")
    assert torch.equal(found.val.labels, torch.arange(100, 109) % 4)


def test_without_val_some_of_train_is_held_out(folder):
    found = load(config(folder))
    assert (len(found.train), len(found.val)) == (36, 4)
    every = load(config(folder, val_fraction=0.0))
    both = torch.cat((pixels(found.train), pixels(found.val))).flatten(1)
    assert sorted(both.tolist()) == sorted(pixels(every.train).flatten(1).tolist())


def test_statistics_are_of_the_whole_train_split(folder):
    found = load(config(folder))
    everything = pixels(load(config(folder, val_fraction=0.0)).train).double() / 255
    np.testing.assert_allclose(found.mean, everything.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, everything.std((0, 1, 2), correction=0), rtol=1e-12)


@pytest.mark.parametrize("residency", ["device", "memory", "mmap", "pread"])
def test_where_images_wait_changes_nothing(folder, residency):
    data = load(config(folder, residency=residency))
    assert isinstance(data.train, ImageSplit if residency == "device" else StoredSplit)
    reference = load(config(folder, residency="device"))
    for split, expected in ((data.train, reference.train), (data.val, reference.val), (data.test, reference.test)):
        assert torch.equal(pixels(split), expected.images)
        assert torch.equal(split.labels, expected.labels)
    assert (data.digest, data.mean, data.std) == (reference.digest, reference.mean, reference.std)


AUGMENTS = {
    "none": NoAugment(),
    "flip": StandardAugment(flip=True, crop_padding=0),
    "crop": StandardAugment(flip=True, crop_padding=3),
    "warped": StandardAugment(grayscale_probability=0.3, rotation_degrees=10.0, perspective_probability=0.5),
    "mixed": StandardAugment(mixup_alpha=0.4, cutmix_alpha=1.0),
}


@pytest.mark.parametrize("crop", [None, 7])
@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_batches_from_files_are_those_from_memory(folder, augment, crop):
    found = []
    for residency in ("device", "mmap"):
        data = load(config(folder, residency=residency, val_fraction=0.0))
        batches = Batches(data.train, data.mean, data.std, device="cpu", augment=augment, seed=4, crop=crop)
        rows = np.array([3, 39, 17, 4, 22, 8])
        steps = [(0, rows, [slice(0, 2), slice(2, 6)]), (1, rows[::-1].copy(), [slice(0, 6)])]
        batches.expect(2, steps)
        found.append([batches.train(rows, 2, step, part) for step, rows, parts in steps for part in parts])
        batches.expect_blocks([(0, 5), (5, 12)])
        found[-1] += [batches.evaluate(0, 5), batches.evaluate(5, 12)]
    for mine, theirs in zip(*found, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_squares_are_cut_anywhere_in_training_and_from_the_middle_otherwise(folder):
    data = load(config(folder, residency="device", val_fraction=0.0))
    plain = data.train.images.permute(0, 3, 1, 2).float()
    zeros, ones = (0.0,) * 3, (1 / 255,) * 3
    rows = np.arange(40)

    def batches(augment):
        return Batches(data.train, zeros, ones, device="cpu", augment=augment, seed=0, crop=7)

    middle = plain[:, :, 2:9, 1:8]
    assert torch.equal(batches(None).evaluate(3, 9)[0], middle[3:9])
    assert torch.equal(batches(NoAugment()).train(rows, 0).images, middle)
    cut = batches(StandardAugment(flip=False, crop_padding=0))
    places = set()
    for epoch in range(8):
        for image, whole in zip(cut.train(rows, epoch).images, plain, strict=True):
            windows = whole.unfold(1, 7, 1).unfold(2, 7, 1).permute(1, 2, 0, 3, 4)
            (place,) = (windows == image).flatten(2).all(2).nonzero().tolist()
            places.add(tuple(place))
    assert places == {(top, left) for top in range(6) for left in range(4)}


def test_bands_are_normalized_by_their_own_statistics(folder):
    """16 bits, three resolutions, flipped and cropped: what torch makes of the stored values in float64."""
    data = load(bands(folder, residency="mmap", val_fraction=0.0))
    assert data.unit == 10_000
    batches = Batches(
        data.train, data.mean, data.std, device="cpu", augment=None, seed=0, unit=data.unit, dtype=torch.float64
    )
    found, labels = batches.evaluate(2, 7)
    images, expected_labels = data.train.images.shards[2:7]
    whole = [torch.from_numpy(stored.astype(np.float64)) for stored in images.values()]
    expected = torch.cat([torch.nn.functional.interpolate(planes, (12, 12), mode="nearest") for planes in whole], 1)
    mean, std = (torch.tensor(part, dtype=torch.float64).view(1, -1, 1, 1) * 10_000 for part in (data.mean, data.std))
    torch.testing.assert_close(found, (expected - mean) / std, rtol=1e-12, atol=1e-12)
    assert torch.equal(labels, torch.from_numpy(expected_labels))


@pytest.mark.parametrize("residency", ["device", "mmap"])
@pytest.mark.parametrize("resize", [None, 9])
def test_floats_are_normalized_by_their_own_statistics(tmp_path, residency, resize):
    """Decibels beside a coarse band of 16 bits; floats are not rounded where they are resized, as bytes are."""
    make_shards(tmp_path, 10, fields=(BANDS[1], DECIBELS))
    make_shards(tmp_path, 6, "test", fields=(BANDS[1], DECIBELS), first=50)
    names = ["VH", "B8A", "VV"]
    data = load(config(tmp_path, height=12, width=12, bands=names, residency=residency, val_fraction=0.0))
    assert data.unit == 1.0
    options = {"device": "cpu", "augment": None, "seed": 0, "unit": data.unit, "dtype": torch.float64, "resize": resize}
    found, _ = Batches(data.train, data.mean, data.std, **options).evaluate(2, 7)
    images, _ = image_data.open_shards(tmp_path, "train")[:]
    coarse, fine = (images[name].astype(np.float64) for name in ("s2_20m", "s1_10m"))
    planes = torch.from_numpy(
        np.stack([fine[:, 1], coarse[:, 2].repeat(2, axis=1).repeat(2, axis=2), fine[:, 0]], axis=1)
    )
    mean, std = planes.mean((0, 2, 3)).view(-1, 1, 1), planes.std((0, 2, 3), correction=0).view(-1, 1, 1)
    expected = planes[2:7]
    if resize is not None:
        expected = torch.nn.functional.interpolate(expected, (resize,) * 2, mode="bilinear", antialias=True)
    torch.testing.assert_close(found, (expected - mean) / std, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("residency", ["device", "memory", "mmap"])
def test_bands_are_mirrored_and_cut(folder, residency):
    data = load(bands(folder, residency=residency, val_fraction=0.0))
    zeros, ones = (0.0,) * 6, (1 / 10_000,) * 6
    make = lambda augment: Batches(  # noqa: E731
        data.train, zeros, ones, device="cpu", augment=augment, seed=0, unit=data.unit, dtype=torch.float64
    )
    rows = np.arange(10)
    plain = make(None).evaluate(0, 10)[0]
    for image, whole in zip(make(StandardAugment(flip=True, crop_padding=0)).train(rows, 0).images, plain, strict=True):
        assert torch.equal(image, whole) or torch.equal(image, whole.flip(2))
    cut = make(StandardAugment(flip=False, crop_padding=2)).train(rows, 0).images
    assert cut.shape == plain.shape
    assert not torch.equal(cut, plain)
    assert set(cut.unique().tolist()) <= {0.0, *plain.unique().tolist()}


@pytest.mark.parametrize("residency", ["device", "memory", "mmap"])
@pytest.mark.parametrize("crop", [None, 7])
def test_floats_are_padded_with_their_mean(tmp_path, residency, crop):
    """Each image is a window of what NumPy pads with the mean of each channel; 0 dB would be brighter than all of it."""
    make_shards(tmp_path, 10, fields=(DECIBELS,))
    make_shards(tmp_path, 6, "test", fields=(DECIBELS,), first=50)
    data = load(config(tmp_path, height=12, width=12, channels=2, residency=residency, val_fraction=0.0))
    batches = Batches(
        data.train,
        data.mean,
        data.std,
        device="cpu",
        augment=StandardAugment(flip=False, crop_padding=3),
        seed=0,
        crop=crop,
        unit=data.unit,
    )
    stored, _ = image_data.open_shards(tmp_path, "train")[:]
    planes = stored.astype(np.float64)
    mean, std = planes.mean((0, 2, 3)).reshape(-1, 1, 1), planes.std((0, 2, 3)).reshape(-1, 1, 1)
    whole = np.pad((planes - mean) / std, ((0, 0), (0, 0), (3, 3), (3, 3)))
    side = crop or 12
    seen_edges = 0
    for epoch in range(3):
        for image, padded in zip(batches.train(np.arange(10), epoch).images.numpy(), whole, strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2)).transpose(1, 2, 0, 3, 4)
            assert np.abs(windows - image).max((2, 3, 4)).min() < 1e-5
            edges = (image == 0).all(0)
            seen_edges += edges.any()
    assert seen_edges > 10
    # as they are without augmentation
    plain = batches.evaluate(0, 10)[0].numpy()
    cut = slice((12 - side) // 2, (12 - side) // 2 + side)
    np.testing.assert_allclose(plain, ((planes - mean) / std)[:, :, cut, cut], atol=1e-5)


def test_changes_of_bytes_are_refused_for_more_bits(folder):
    data = load(bands(folder))
    with pytest.raises(InputError, match=r"^augment: expected images of 8 bits for changes of colour, rotation and"):
        Batches(data.train, data.mean, data.std, device="cpu", augment=StandardAugment(rotation_degrees=5.0), seed=0)


WRONG = {
    "data.dataset says coco, but these shards hold random": {"dataset": "coco"},
    "data.num_classes says 7, but these shards hold 4": {"num_classes": 7},
    "data.multi_label says multi, but these shards hold single": {"multi_label": True},
    "images of 3x12x10 (channels, height, width), but data.channels, data.height and data.width say 3x12x11": {
        "width": 11
    },
    "no split 'validatoin', did you mean 'validation'?; there are: test, train, validation": {"val": "validatoin"},
    "no band 'B02'; there are: images[0], images[1], images[2]": {"bands": ["B02"], "channels": 1},
}


@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=WRONG)
def test_what_the_configuration_says_must_be_there(folder, message, changes):
    with pytest.raises(DataError) as caught:
        load(config(folder, **changes))
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_bands_without_the_finest_resolution(folder):
    with pytest.raises(DataError, match=r"images of 2x6x6 .* say 2x12x12; set them to what these data\.bands are$"):
        load({**bands(folder), "bands": ["B05", "B8A"], "channels": 2})
    found = load({**bands(folder), "bands": ["B05", "B8A"], "channels": 2, "height": 6, "width": 6})
    assert pixels(found.test).shape == (6, 6, 6, 2)


def named(fields, *bands):
    return tuple(replace(field, bands=names) for field, names in zip(fields, bands, strict=True))


WIDE = (replace(PHOTO[0], dtype="<u2"),)
UNLIKE = {
    "expected the classes of train, got 'b' for 'a'; convert both splits alike": ({}, {"names": ("b", "a")}),
    "expected the bands of train, got 'blue' for 'red'; convert both splits alike": (
        {"fields": named(PHOTO, ("red", "green", "blue"))},
        {"fields": named(PHOTO, ("blue", "green", "red"))},
    ),
    "expected values of |u1 as in train, got <u2; convert both splits alike": ({}, {"fields": WIDE}),
}


@pytest.mark.parametrize(("message", "kinds"), UNLIKE.items(), ids=["classes", "bands", "values"])
def test_splits_mean_the_same(tmp_path, message, kinds):
    train, test = ({"names": ("a", "b"), "classes": 2, **kind} for kind in kinds)
    make_shards(tmp_path, 8, **train)
    make_shards(tmp_path, 4, "test", **test)
    with pytest.raises(DataError) as caught:
        load(config(tmp_path, num_classes=2))
    assert str(caught.value) == f"{tmp_path / 'test' / 'index.json'}: {message}"
    load(config(tmp_path, num_classes=2, test="train"))


@pytest.mark.parametrize("spoiled", ["train", "test"])
def test_floats_that_are_not_finite_are_refused_in_every_split(tmp_path, spoiled):
    """An image that gives NaN where it is evaluated would make a run diverge that has learnt well."""
    for split in ("train", "test"):
        converted(tmp_path, floats_job(split=split, spoiled=2 if split == spoiled else -1))
    shape = {"dataset": "toy", "num_classes": 3, "channels": 1, "height": 7, "width": 5}
    with pytest.raises(DataError) as caught:
        load(config(tmp_path, **shape, bands=["VH"]))
    assert str(caught.value) == (
        f"{tmp_path / spoiled / 'index.json'}: data.bands: no statistics of the floats of s1: some are not finite, or they "
        "were converted before statistics of floats were kept; leave its bands out, or convert anew without the rows that "
        "normhpc shards verify names"
    )
    shape = {"dataset": "toy", "num_classes": 3, "channels": 3, "height": 8, "width": 6}
    assert len(load(config(tmp_path, **shape, bands=["red", "green", "blue"])).test) == IMAGES


def test_bands_that_one_split_does_not_name(tmp_path):
    make_shards(tmp_path, 8, fields=named(PHOTO, ("red", "green", "blue")))
    make_shards(tmp_path, 4, "test")
    assert len(load(config(tmp_path)).test) == 4


def test_without_a_path(tmp_path):
    with pytest.raises(DataError, match=r"^data\.path: shards are read from a folder that a script of data_prep/"):
        load({**config(tmp_path), "path": None})
    with pytest.raises(DataError, match=r"^data\.path: no folder .*nowhere; set data\.path to one that a script"):
        load(config(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 11}, "data.crop: expected at most the image's 10 pixels, got 11"),
        ({"bands": ["B02", "B03"]}, "data.bands: expected 3 bands, as data.channels says, got 2"),
    ],
)
def test_contradictions_are_found_without_the_data(changes, message):
    with pytest.raises(InputError) as caught:
        validate_run({"data": config(Path("nowhere"), **changes)})
    assert message in str(caught.value)


def test_how_many_images_there_are_is_known_without_them(folder, tmp_path):
    """To refuse a larger batch when a sweep is planned; where nothing can be known the run itself tells."""
    for changes in ({}, {"val": "validation"}, {"val_fraction": 0.0}, {"val_fraction": 0.33}, {"train": "test"}):
        data = RunConfig.model_validate({"data": config(folder, **changes)}).data
        assert data.train_rows() == len(image_data.load(data).train)
    larger = {"data": config(folder), "batch_size": 37}
    assert findings(FITS, dict(RunConfig.model_validate(larger))) == [
        ("batch_size", "expected at most the 36 training images of shards, got 37; use a smaller batch")
    ]
    assert findings(FITS, dict(RunConfig.model_validate({**larger, "batch_size": 36}))) == []
    index = tmp_path / "train" / "index.json"
    index.parent.mkdir()
    for text in (None, "", "[]", "3", "{}", '{"rows": "many"}'):
        if text is not None:
            index.write_text(text)
        elsewhere = RunConfig.model_validate({**larger, "data": config(tmp_path)})
        assert elsewhere.data.train_rows() is None
        assert findings(FITS, dict(elsewhere)) == []
    nowhere = RunConfig.model_validate({**larger, "data": {**config(tmp_path), "path": None}})
    assert nowhere.data.train_rows() is None


def test_where_files_lie_is_no_part_of_the_identity(folder):
    ids = {
        RunConfig.model_validate({"data": config(folder, **changes)}).run_id
        for changes in ({}, {"residency": "pread"}, {"threads": 7}, {"path": "elsewhere"})
    }
    assert len(ids) == 1
    assert RunConfig.model_validate({"data": config(folder, crop=8)}).run_id not in ids


def test_network_file_systems_are_read_and_not_mapped(folder, tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/vda / ext4 rw 0 0\nserver:/data /mnt/with\\040blank nfs4 rw 0 0\nx /mnt lustre rw 0 0\n")
    assert file_system(Path("/home/me"), mounts) == "ext4"
    assert file_system(Path("/mnt/with blank/coco"), mounts) == "nfs4"
    assert file_system(Path("/mnt/other"), mounts) == "lustre"
    assert file_system(Path("/"), tmp_path / "none") == ""
    opened = []
    real = sharded.open_shards
    monkeypatch.setattr(
        sharded, "open_shards", lambda *args, access: opened.append(access) or real(*args, access=access)
    )
    for kind in ("ext4", "nfs4", "fuse.sshfs"):
        monkeypatch.setattr(sharded, "file_system", lambda _, kind=kind: kind)
        load(config(folder))
    assert opened == ["mmap"] * 2 + ["pread"] * 4
    load(config(folder, residency="memory"))
    assert opened[-1] == "pread"
    load(config(folder, residency="mmap"))
    assert opened[-1] == "mmap"
    load(config(folder))
    monkeypatch.setenv("NORMHPC_STAGED", f'{{"{folder}": "{folder}"}}')
    load(config(folder))
    assert opened[-1] == "mmap"
