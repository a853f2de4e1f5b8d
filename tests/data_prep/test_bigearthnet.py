"""Both versions of BigEarthNet: the class table, real patches, made-up sets in the official layouts, every fault."""

import csv
import hashlib
import json
import math
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from support.geotiffs import tiff, write_tiff
from support.samples import sample
from support.scripts import script

from normhpc.errors import DataError, InputError
from normhpc.shards import open_shards, read_index
from normhpc.shards.index import index_sha256
from normhpc.shards.verify import verify_split

ben = script("data_prep/bigearthnet.py")

SIZES = {10: 120, 20: 60, 60: 20}
BANDS = {10: ["B02", "B03", "B04", "B08"], 20: ["B05", "B06", "B07", "B8A", "B11", "B12"], 60: ["B01", "B09"]}
TILE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
SCENE = "S1A_IW_GRDH_1SDV_20170613T165043"


def anchors():
    """The table of facts beside the samples."""
    file = sample("bigearthnet").parents[1] / "reference" / "data-anchors.json"
    if not file.is_file():
        pytest.skip(f"no table of facts at {file}")
    return json.loads(file.read_bytes())["bigearthnet"]


def bands_of(name, dtype="u2"):
    """Values of every band of a made-up patch, from its name alone."""
    random = np.random.default_rng(list(name.encode()))
    return {
        band: random.integers(0, 20_000, (SIZES[metres],) * 2).astype(dtype)
        for metres, bands in BANDS.items()
        for band in bands
    }


def decibels_of(name):
    random = np.random.default_rng(list(name.encode()))
    return {band: random.normal(-15, 5, (120, 120)).astype(np.float32) for band in ("VV", "VH")}


def write_patch(folder, values):
    for band, array in values.items():
        write_tiff(folder / f"{folder.name}_{band}.tif", array)


def write_v2(root, rows):
    """A set of version 2 in the official layout; ``rows`` are (patch, labels, split)."""
    for name, _, _ in rows:
        write_patch(root / "BigEarthNet-S2" / TILE / name, bands_of(name))
        write_patch(root / "BigEarthNet-S1" / SCENE / s1_of(name), decibels_of(s1_of(name)))
    write_metadata(root / "metadata.parquet", rows)


def s1_of(name):
    return f"{SCENE}_33UUP_{'_'.join(name.split('_')[-2:])}"


def write_metadata(file, rows, **more):
    columns = {
        "patch_id": [name for name, _, _ in rows],
        "labels": [labels for _, labels, _ in rows],
        "split": [split for _, _, split in rows],
        "country": ["Austria"] * len(rows),
        "s1_name": [s1_of(name) for name, _, _ in rows],
    }
    pq.write_table(pa.table(columns | more), file)


ROWS = [
    (f"{TILE}_30_9", ["Pastures", "Arable land"], "train"),
    (f"{TILE}_2_57", ["Marine waters"], "train"),
    (f"{TILE}_30_10", ["Urban fabric"], "validation"),
    (f"{TILE}_4_4", ["Transitional woodland, shrub"], "test"),
    (f"{TILE}_11_4", ["Coastal wetlands", "Beaches, dunes, sands"], "train"),
]


def convert_v2(root, out, *more):
    return ben.main(["--root", str(root), "--version", "2", "--out", str(out), "--workers", "1", *more])


def convert_v1(root, out, *more):
    return ben.main(["--root", str(root), "--version", "1", "--out", str(out), "--workers", "1", *map(str, more)])


def classes_of(row):
    return {name for name, there in zip(ben.CLASSES, row, strict=True) if there}


def names(shards):
    return [name.decode() for name in shards.ids().tolist()]


def assert_patch(images, values):
    """The three fields of one row hold the bands ``values`` in the order of the format."""
    for field, metres in (("s2_10m", 10), ("s2_20m", 20), ("s2_60m", 60)):
        assert images[field].dtype == np.dtype("<u2")
        assert np.array_equal(images[field], np.stack([values[band] for band in BANDS[metres]]))


def assert_refused(kind, text, call):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == text


# the table


def test_the_class_table_is_that_of_the_paper():
    facts = anchors()
    assert list(ben.CLASSES) == facts["labels_19_paper_order"]
    assert set(ben.CLASS_OF) == set(facts["labels_43_paper_order"])
    names_of = {label: None if index is None else ben.CLASSES[index] for label, index in ben.CLASS_OF.items()}
    assert names_of == facts["map_43_to_19"]
    assert [list(field.bands) for field in ben.S2] == [facts["bands"][key] for key in ("10m_120", "20m_60", "60m_20")]


def test_every_label_stands_in_one_place():
    members = [label for labels in ben.MEMBERS.values() for label in labels]
    assert len(ben.CLASSES) == 19
    assert len(members) == len(set(members)) == 32
    assert len(ben.DROPPED) == len(set(ben.DROPPED) - set(members)) == 11


# the official metadata and the real patches


def test_the_official_metadata_has_the_published_counts():
    file = sample("bigearthnet") / "v2" / "metadata.parquet"
    table = ben.read_metadata(file, with_s1=True)
    assert ben.rows_per_split(table) == {"train": 237_871, "validation": 122_342, "test": 119_825}
    published = anchors()["v2"]["metadata"]["positives"]
    hot, splits = ben.multi_hot(table, file), table["split"].to_numpy()
    for split, positives in published.items():
        assert dict(zip(ben.CLASSES, hot[splits == split].sum(axis=0), strict=True)) == positives


def test_a_real_patch_of_version_2(tmp_path):
    root = sample("bigearthnet") / "v2"
    assert convert_v2(root, tmp_path, "--splits", "validation") == 0
    with open_shards(tmp_path, "validation") as shards:
        assert names(shards) == [f"{TILE}_75_43"]
        images, labels = shards[0]
        assert classes_of(labels) == {
            "Arable land",
            "Land principally occupied by agriculture, with significant areas of natural vegetation",
            "Pastures",
        }
        folder = root / "BigEarthNet-S2" / TILE / f"{TILE}_75_43"
        files = {band: folder / f"{folder.name}_{band}.tif" for bands in BANDS.values() for band in bands}
        assert_patch(images, {band: tifffile.imread(file) for band, file in files.items()})
        assert shards.index.source["rows_listed"] == 122_342
    skipped = (tmp_path / "validation" / "skipped.csv").read_text().splitlines()
    assert len(skipped) == 122_341 + 1


def test_real_sentinel_1_values(tmp_path):
    samples = sample("bigearthnet") / "v2"
    shutil.copytree(samples / "BigEarthNet-S1", tmp_path / "BigEarthNet-S1")
    name = f"{TILE}_70_48"
    write_patch(tmp_path / "BigEarthNet-S2" / TILE / name, bands_of(name))
    write_metadata(tmp_path / "metadata.parquet", [(name, ["Pastures"], "test")])
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "test", "--with-s1") == 0
    with open_shards(tmp_path / "out", "test") as shards:
        images, _ = shards[0]
        assert images["s1_10m"].dtype == np.dtype("<f4")
        (vv,) = samples.rglob("*_VV.tif")
        (vh,) = samples.rglob("*_VH.tif")
        assert np.array_equal(images["s1_10m"], np.stack([tifffile.imread(vv), tifffile.imread(vh)]))
        assert_patch(images, bands_of(name))
        assert shards.index.stats["s1_10m"] is None
        found = shards.index.float_stats["s1_10m"]
        planes = images["s1_10m"].astype(np.float64).reshape(2, -1)
        assert (found.count, found.sum) == (14_400, tuple(math.fsum(plane) for plane in planes))
        np.testing.assert_allclose(found.std, planes.std(axis=1), rtol=1e-12)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The real example archive of version 1, unpacked."""
    folder = tmp_path_factory.mktemp("v1")
    with tarfile.open(sample("bigearthnet") / "v1" / "BigEarthNet-S2-Example.tar.bz2") as archive:
        archive.extractall(folder, filter="data")
    return folder / "BigEarthNet-S2-Example"


EXAMPLE = {
    "S2A_MSIL2A_20170613T101031_87_48": {
        "Arable land",
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    },
    "S2A_MSIL2A_20170617T113321_36_85": {"Arable land", "Pastures"},
    "S2A_MSIL2A_20170617T113321_4_55": {"Pastures"},
    "S2A_MSIL2A_20171221T112501_56_35": {
        "Complex cultivation patterns",
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        "Broad-leaved forest",
        "Transitional woodland, shrub",
    },
    "S2B_MSIL2A_20170924T93020_69_24": {
        "Coniferous forest",
        "Mixed forest",
        "Transitional woodland, shrub",
        "Inland wetlands",
        "Inland waters",
    },
    "S2B_MSIL2A_20180204T94161_57_38": {"Arable land", "Coniferous forest", "Mixed forest"},
}
"""The patches of the example, two with a time of five digits, and what their 43-class labels are of the 19."""


def test_the_real_patches_of_version_1(tmp_path, example):
    assert convert_v1(example, tmp_path) == 0
    with open_shards(tmp_path, "all") as shards:
        assert names(shards) == sorted(EXAMPLE)
        for row, name in enumerate(names(shards)):
            images, labels = shards[row]
            assert classes_of(labels) == EXAMPLE[name]
            files = {band: example / name / f"{name}_{band}.tif" for bands in BANDS.values() for band in bands}
            assert_patch(images, {band: tifffile.imread(file) for band, file in files.items()})


def test_lists_split_the_real_patches_and_leave_some_out(tmp_path, example, capsys):
    (tmp_path / "train.csv").write_text(
        "S2B_MSIL2A_20180204T94161_57_38,S1A_x\nS2A_MSIL2A_20170617T113321_4_55,S1A_y\nS2B_MSIL2A_20180204T94161_1_1,\n"
    )
    (tmp_path / "val.csv").write_text("S2A_MSIL2A_20170613T101031_87_48\n")
    (tmp_path / "snow.csv").write_text("S2A_MSIL2A_20170617T113321_4_55\nS2A_MSIL2A_20170617T113321_99_99\n")
    lists = [f"train={tmp_path}/train.csv", f"val={tmp_path}/val.csv"]
    assert convert_v1(example, tmp_path / "out", "--splits", *lists, "--exclude", tmp_path / "snow.csv") == 0
    with open_shards(tmp_path / "out", "train") as train, open_shards(tmp_path / "out", "val") as val:
        assert names(train) == ["S2B_MSIL2A_20180204T94161_57_38"]
        assert names(val) == ["S2A_MSIL2A_20170613T101031_87_48"]
        digest = hashlib.sha256((tmp_path / "train.csv").read_bytes()).hexdigest()
        assert train.index.source["list_sha256"] == digest
        assert train.index.source["rows_listed"] == 3
    told = capsys.readouterr().err
    assert "S2A_MSIL2A_20170617T113321_4_55: in snow.csv" in told
    assert "S2B_MSIL2A_20180204T94161_1_1: no such folder" in told


# made-up sets


def test_version_2_by_split(tmp_path):
    write_v2(tmp_path, ROWS)
    assert convert_v2(tmp_path, tmp_path / "out", "--rows-per-shard", "2") == 0
    for split in ("train", "validation", "test"):
        expected = sorted((name, labels) for name, labels, of in ROWS if of == split)
        with open_shards(tmp_path / "out", split) as shards:
            assert names(shards) == [name for name, _ in expected]
            assert shards.index.dataset == "bigearthnet"
            assert shards.index.labels.classes == ben.CLASSES
            assert [field.bands for field in shards.index.fields] == [tuple(bands) for bands in BANDS.values()]
            for row, (name, labels) in enumerate(expected):
                images, label = shards[row]
                assert classes_of(label) == set(labels)
                assert_patch(images, bands_of(name))


def test_sums_are_exact(tmp_path):
    write_v2(tmp_path, ROWS)
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "train") == 0
    with open_shards(tmp_path / "out", "train") as shards:
        for field, metres in (("s2_10m", 10), ("s2_20m", 20), ("s2_60m", 60)):
            stats = shards.index.stats[field]
            for channel, band in enumerate(BANDS[metres]):
                values = np.concatenate([bands_of(name)[band].ravel() for name, _, of in ROWS if of == "train"])
                assert stats.sum[channel] == int(values.sum(dtype=np.int64))
                assert stats.sumsq[channel] == int((values.astype(np.int64) ** 2).sum())
                assert stats.mean[channel] == pytest.approx(values.astype(np.float64).mean(), rel=1e-12)
                assert stats.std[channel] == pytest.approx(values.astype(np.float64).std(), rel=1e-9)


def test_sentinel_1_of_version_2_and_the_same_bytes_with_two_workers(tmp_path):
    write_v2(tmp_path, ROWS)
    splits = ("--splits", "train", "--with-s1", "--rows-per-shard", "2")
    assert convert_v2(tmp_path, tmp_path / "one", *splits) == 0
    assert convert_v2(tmp_path, tmp_path / "two", *splits, "--workers", "2") == 0
    with open_shards(tmp_path / "one", "train") as shards:
        assert shards.index.fields[3].bands == ("VV", "VH")
        for row, name in enumerate(names(shards)):
            values = decibels_of(s1_of(name))
            assert np.array_equal(shards[row][0]["s1_10m"], np.stack([values["VV"], values["VH"]]))
    files = ("index.json", "train-00000.h5", "train-00001.h5")
    for file in files:
        assert (tmp_path / "one" / "train" / file).read_bytes() == (tmp_path / "two" / "train" / file).read_bytes()


def write_v1(root, rows):
    """A set of version 1 in the official layout; ``rows`` are (patch, 43-class labels)."""
    for name, labels in rows:
        folder = root / "BigEarthNet-v1.0" / name
        write_patch(folder, bands_of(name))
        (folder / f"{name}_labels_metadata.json").write_text(json.dumps({"labels": labels, "projection": "x"}))


V1_ROWS = [
    ("S2A_MSIL2A_20170613T101031_87_48", ["Rice fields", "Port areas", "Estuaries"]),
    ("S2B_MSIL2A_20170924T93020_69_24", ["Airports", "Burnt areas"]),
    ("S2B_MSIL2A_20170924T93020_7_2", ["Salines", "Salt marshes"]),
]


def test_version_1_in_its_official_folder_drops_what_has_none_of_the_19_classes(tmp_path, capsys):
    write_v1(tmp_path, V1_ROWS)
    assert convert_v1(tmp_path, tmp_path / "out") == 0
    with open_shards(tmp_path / "out", "all") as shards:
        assert [classes_of(labels) for labels in shards.labels()] == [
            {"Arable land", "Marine waters"},
            {"Coastal wetlands"},
        ]
    assert "S2B_MSIL2A_20170924T93020_69_24: no label of the 19 classes" in capsys.readouterr().err


def test_sentinel_1_of_version_1_comes_from_the_second_column(tmp_path):
    write_v1(tmp_path, V1_ROWS)
    twins = {name: f"{SCENE}_33UUP_{number}_1" for number, (name, _) in enumerate(V1_ROWS)}
    for twin in twins.values():
        write_patch(tmp_path / "BigEarthNet-S1-v1.0" / twin, decibels_of(twin))
    with (tmp_path / "test.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(twins.items())
    splits = ("--splits", f"test={tmp_path}/test.csv")
    assert convert_v1(tmp_path, tmp_path / "out", *splits, "--with-s1") == 0
    with open_shards(tmp_path / "out", "test") as shards:
        for row, name in enumerate(names(shards)):
            values = decibels_of(twins[name])
            assert np.array_equal(shards[row][0]["s1_10m"], np.stack([values["VV"], values["VH"]]))
    assert_refused(
        InputError,
        "--with-s1: with version 1 the lists of --splits say which Sentinel-1 patch belongs to which",
        lambda: convert_v1(tmp_path, tmp_path / "other", "--with-s1"),
    )
    (tmp_path / "test.csv").write_text(V1_ROWS[0][0])
    assert_refused(
        DataError,
        f"{tmp_path}/test.csv:1: expected a second column with the name of the Sentinel-1 patch; use the official lists",
        lambda: convert_v1(tmp_path, tmp_path / "other", *splits, "--with-s1"),
    )


# faults


@pytest.mark.parametrize(
    ("band", "content", "reason"),
    [
        ("B8A", None, "no file {patch}_B8A.tif"),
        ("B02", tiff(np.zeros((60, 60), "u2")), "{patch}_B02.tif: expected 120x120 uint16, found 60x60 uint16"),
        ("B09", tiff(np.zeros((20, 20), "f4")), "{patch}_B09.tif: expected 20x20 uint16, found 20x20 float32"),
        ("B01", tiff(np.zeros((20, 20), "u1")), "{patch}_B01.tif: expected 20x20 uint16, found 20x20 uint8"),
        ("B01", tiff(np.zeros((20, 20), "u2"))[:-3], "{patch}_B01.tif: expected 934 bytes (931 bytes)"),
        ("B12", b"<html>", "{patch}_B12.tif: not a TIFF file (6 bytes)"),
    ],
)
def test_a_patch_with_a_bad_band_is_skipped_and_told(tmp_path, capsys, band, content, reason):
    write_v2(tmp_path, ROWS)
    patch = f"{TILE}_2_57"
    file = tmp_path / "BigEarthNet-S2" / TILE / patch / f"{patch}_{band}.tif"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "train") == 0
    with open_shards(tmp_path / "out", "train") as shards:
        assert names(shards) == [f"{TILE}_11_4", f"{TILE}_30_9"]
        assert_patch(shards[1][0], bands_of(f"{TILE}_30_9"))
    assert f"{patch}: {reason.format(patch=patch)}" in capsys.readouterr().err


def test_a_patch_without_its_sentinel_1_band_is_skipped_and_told(tmp_path, capsys):
    write_v2(tmp_path, ROWS)
    twin = s1_of(f"{TILE}_2_57")
    (tmp_path / "BigEarthNet-S1" / SCENE / twin / f"{twin}_VH.tif").unlink()
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "train", "--with-s1") == 0
    with open_shards(tmp_path / "out", "train") as shards:
        assert len(shards) == 2
    assert f"{TILE}_2_57: no file {twin}_VH.tif" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "found"), [(np.nan, "nan"), (-np.inf, "-inf")], ids=["not_a_number", "logarithm_of_zero"]
)
def test_a_patch_with_floats_that_are_not_finite_is_skipped_and_told(tmp_path, capsys, value, found):
    """One of them would leave the whole split without statistics, and so without training on its floats."""
    write_v2(tmp_path, ROWS)
    twin = s1_of(f"{TILE}_2_57")
    values = decibels_of(twin)
    values["VH"][7, 11:13] = value
    write_patch(tmp_path / "BigEarthNet-S1" / SCENE / twin, values)
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "train", "--with-s1") == 0
    with open_shards(tmp_path / "out", "train") as shards:
        assert names(shards) == [f"{TILE}_11_4", f"{TILE}_30_9"]
        assert shards.index.statistics_of("s1_10m").count == 2 * 120 * 120
    expected = f"{TILE}_2_57: {twin}_VH.tif: expected finite numbers, found {found} in 2 of 14,400 pixels"
    assert expected in capsys.readouterr().err


def test_a_patch_that_is_not_on_disk_is_skipped_and_told(tmp_path, capsys):
    write_v2(tmp_path, ROWS)
    shutil.rmtree(tmp_path / "BigEarthNet-S2" / TILE / f"{TILE}_2_57")
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "train") == 0
    with open_shards(tmp_path / "out", "train") as shards:
        assert names(shards) == [f"{TILE}_11_4", f"{TILE}_30_9"]
    assert f"{TILE}_2_57: no folder BigEarthNet-S2/{TILE}/{TILE}_2_57" in capsys.readouterr().err


def test_a_split_of_which_nothing_is_there_is_refused(tmp_path):
    write_v2(tmp_path, ROWS)
    shutil.rmtree(tmp_path / "BigEarthNet-S2" / TILE / f"{TILE}_4_4")
    assert_refused(
        DataError,
        f"{tmp_path}: expected patches of split test, found none of 1 "
        f"({TILE}_4_4: no folder BigEarthNet-S2/{TILE}/{TILE}_4_4); give another --root or --splits",
        lambda: convert_v2(tmp_path, tmp_path / "out"),
    )
    assert not (tmp_path / "out").exists()


def test_metadata_without_a_column_names_it_and_what_is_there(tmp_path):
    write_v2(tmp_path, ROWS)
    file = tmp_path / "metadata.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["labels", "s1_name"]), file)
    assert_refused(
        DataError,
        f"{file}: no column labels, found patch_id, split, country; name the official file with --metadata",
        lambda: convert_v2(tmp_path, tmp_path / "out"),
    )


def test_sentinel_1_alone_needs_its_column(tmp_path):
    write_v2(tmp_path, ROWS)
    file = tmp_path / "metadata.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["s1_name"]), file)
    assert convert_v2(tmp_path, tmp_path / "out") == 0
    assert_refused(
        DataError,
        f"{file}: no column s1_name, found patch_id, labels, split, country; name the official file with --metadata",
        lambda: convert_v2(tmp_path, tmp_path / "s1", "--with-s1"),
    )


def test_a_column_of_another_type_is_an_error(tmp_path):
    write_v2(tmp_path, ROWS)
    write_metadata(tmp_path / "metadata.parquet", ROWS, labels=["Pastures"] * len(ROWS))
    assert_refused(
        DataError,
        f"{tmp_path}/metadata.parquet: column labels: expected list<item: string>, found string; use the official file",
        lambda: convert_v2(tmp_path, tmp_path / "out"),
    )
    large = pa.array([labels for _, labels, _ in ROWS], pa.large_list(pa.large_string()))
    write_metadata(tmp_path / "metadata.parquet", ROWS, labels=large)
    assert convert_v2(tmp_path, tmp_path / "out", "--limit", "1") == 0


def test_metadata_that_is_missing_or_damaged(tmp_path):
    write_v2(tmp_path, ROWS)
    file = tmp_path / "metadata.parquet"
    other = tmp_path / "elsewhere.parquet"
    file.rename(other)
    assert_refused(
        DataError,
        f"{file}: no such file; put the official metadata.parquet there or name it with --metadata",
        lambda: convert_v2(tmp_path, tmp_path / "out"),
    )
    assert convert_v2(tmp_path, tmp_path / "out", "--metadata", str(other)) == 0
    file.write_bytes(other.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=r"metadata.parquet: not a whole Parquet file \(.*\); copy or download the file"
    ):
        convert_v2(tmp_path, tmp_path / "new")


def test_an_unknown_label_is_an_error(tmp_path):
    write_v2(tmp_path, [*ROWS, (f"{TILE}_5_5", ["Pasture"], "train")])
    assert_refused(
        DataError,
        f"{tmp_path}/metadata.parquet: unknown label 'Pasture' of {TILE}_5_5, did you mean 'Pastures'?; "
        "expected the 19 classes; use the official file",
        lambda: convert_v2(tmp_path, tmp_path / "out"),
    )
    root = tmp_path / "one"
    write_v1(root, [*V1_ROWS, ("S2A_MSIL2A_20170613T101031_1_1", ["Pastures", "Vineyard"])])
    name = "S2A_MSIL2A_20170613T101031_1_1"
    assert_refused(
        DataError,
        f"{root}/BigEarthNet-v1.0/{name}/{name}_labels_metadata.json: unknown label 'Vineyard', did you mean "
        "'Vineyards'?; expected one of the 43 of BigEarthNet 1; unpack the archive again",
        lambda: convert_v1(root, tmp_path / "out"),
    )


def test_a_duplicate_patch_is_an_error(tmp_path):
    write_v2(tmp_path, [*ROWS, (f"{TILE}_4_4", ["Pastures"], "train")])
    assert_refused(
        DataError,
        f"{tmp_path}/metadata.parquet: duplicate patch {TILE}_4_4, 1 in all; use the official file",
        lambda: convert_v2(tmp_path, tmp_path / "out"),
    )


def test_metadata_without_a_value_is_an_error(tmp_path):
    write_v2(tmp_path, ROWS)
    write_metadata(tmp_path / "metadata.parquet", ROWS, split=["train", None, "train", None, "train"])
    assert_refused(
        DataError,
        f"{tmp_path}/metadata.parquet: column split has 2 rows without a value; use the official file",
        lambda: convert_v2(tmp_path, tmp_path / "out"),
    )


def test_a_patch_without_labels_in_version_2_is_skipped_and_told(tmp_path, capsys):
    write_v2(tmp_path, [*ROWS, (f"{TILE}_5_5", [], "test")])
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "test") == 0
    assert f"{TILE}_5_5: no label of the 19 classes" in capsys.readouterr().err


def test_a_split_that_metadata_does_not_have(tmp_path):
    write_v2(tmp_path, ROWS)
    assert_refused(
        InputError,
        f"{tmp_path}/metadata.parquet: no split 'validaton', did you mean 'validation'?; it has test (1 rows), "
        "train (3 rows), validation (1 rows); choose with --splits",
        lambda: convert_v2(tmp_path, tmp_path / "out", "--splits", "train", "validaton"),
    )


def test_lists_of_version_1_that_are_wrong(tmp_path):
    write_v1(tmp_path, V1_ROWS)
    (tmp_path / "a.csv").write_text(f"{V1_ROWS[0][0]},x\n\n{V1_ROWS[1][0]},x\n")
    (tmp_path / "b.csv").write_text(f"{V1_ROWS[2][0]}\n{V1_ROWS[1][0]}\n")
    (tmp_path / "c.csv").write_text("patch,s1\n")

    def convert(*splits):
        return lambda: convert_v1(tmp_path, tmp_path / "out", "--splits", *splits)

    assert_refused(
        DataError,
        f"{tmp_path}/b.csv:2: duplicate patch {V1_ROWS[1][0]}, which is also at a.csv:3; a patch belongs to one split, once",
        convert(f"train={tmp_path}/a.csv", f"val={tmp_path}/b.csv"),
    )
    assert_refused(
        DataError,
        f"{tmp_path}/c.csv:1: expected the name of a patch such as S2A_MSIL2A_20170613T101031_87_48, got 'patch'; "
        "use the official lists",
        convert(f"train={tmp_path}/c.csv"),
    )
    assert_refused(
        InputError,
        f"{tmp_path}/d.csv: cannot be read: No such file or directory; name an official list",
        convert(f"train={tmp_path}/d.csv"),
    )
    (tmp_path / "e.csv").write_bytes(b"PK\x03\x04\xff")  # as an archive that nobody has unpacked
    assert_refused(
        DataError,
        f"{tmp_path}/e.csv: not text: invalid start byte at byte 4; copy or download the list again",
        convert(f"train={tmp_path}/e.csv"),
    )
    (tmp_path / "f.csv").write_text("\n")
    assert_refused(
        DataError,
        f"{tmp_path}/f.csv: expected a list of patches, got an empty file; copy or download it again",
        convert(f"train={tmp_path}/f.csv"),
    )
    for wrong in ("train", "train=", "=a.csv"):
        assert_refused(
            InputError,
            f"--splits: expected NAME=FILE.csv for version 1, each name once, got {wrong!r}",
            convert(wrong),
        )


def test_options_of_the_other_version_are_refused(tmp_path):
    write_v1(tmp_path, V1_ROWS)
    assert_refused(
        InputError,
        "--metadata: version 1 has none, its labels lie beside the bands; leave it out",
        lambda: convert_v1(tmp_path, tmp_path / "out", "--metadata", "x"),
    )
    assert_refused(
        InputError,
        "--exclude: metadata.parquet of version 2 has no snow and clouds; leave it out",
        lambda: convert_v2(tmp_path, tmp_path / "out", "--exclude", "x"),
    )


def test_a_root_without_patches(tmp_path):
    assert_refused(
        InputError,
        f"--root: expected a folder, found none at {tmp_path}/x; name the one with the archives",
        lambda: convert_v1(tmp_path / "x", tmp_path / "out"),
    )
    assert_refused(
        DataError,
        f"{tmp_path}: expected folders <patch>/<patch>_B02.tif in it or in its BigEarthNet-v1.0, found none; "
        "give another --root",
        lambda: convert_v1(tmp_path, tmp_path / "out"),
    )


def test_a_json_without_labels_is_skipped_and_told(tmp_path, capsys):
    write_v1(tmp_path, V1_ROWS)
    first, _, last = (name for name, _ in V1_ROWS)
    file = tmp_path / "BigEarthNet-v1.0" / first / f"{first}_labels_metadata.json"
    for content in ("{", "[]", "{}"):
        file.write_text(content)
        out = tmp_path / f"out{len(content)}{content[0] == '{'}"
        assert convert_v1(tmp_path, out) == 0
        assert f"{first}: {file.name}: expected a JSON object with labels" in capsys.readouterr().err
        with open_shards(out, "all") as shards:
            assert names(shards) == [last]


def test_the_first_patches_by_name_with_a_limit(tmp_path):
    write_v2(tmp_path, ROWS)
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "train", "--limit", "2") == 0
    with open_shards(tmp_path / "out", "train") as shards:
        assert names(shards) == [f"{TILE}_11_4", f"{TILE}_2_57"]


# fields of floats in shards


@pytest.fixture
def with_s1(tmp_path):
    """The folder of a split with Sentinel-1."""
    write_v2(tmp_path, ROWS)
    assert convert_v2(tmp_path, tmp_path / "out", "--splits", "train", "--with-s1") == 0
    return tmp_path / "out" / "train"


def test_a_flipped_bit_of_a_float_is_found(with_s1):
    assert verify_split(with_s1, id, id).faults == []
    (shard,) = read_index(with_s1).shards
    content = bytearray((with_s1 / shard.file).read_bytes())
    content[shard.offsets["s1_10m"] + 2 * 120 * 120 * 4] ^= 1
    (with_s1 / shard.file).write_bytes(content)
    (fault,) = verify_split(with_s1, id, id).faults
    assert fault.rows == (1,)


def test_statistics_are_null_for_floats_and_for_nothing_else(with_s1):
    content = json.loads((with_s1 / "index.json").read_bytes())
    for field, dtype, other in (("s2_60m", "<u2", None), ("s1_10m", "<f4", content["stats"]["s2_60m"])):
        changed = {**content, "stats": {**content["stats"], field: other}}
        (with_s1 / "index.json").write_text(json.dumps({**changed, "index_sha256": index_sha256(changed)}))
        assert_refused(
            DataError,
            f"{with_s1}/index.json: stats.{field}: expected sums of integers and null of floats, the field is {dtype}; "
            "run the conversion again",
            lambda: read_index(with_s1),
        )
