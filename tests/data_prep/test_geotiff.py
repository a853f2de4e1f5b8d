"""The built-in GeoTIFF reader against tifffile, on real bands and on files made here."""

import re
import struct
import sys
import tarfile

import numpy as np
import pytest
import tifffile
from support.geotiffs import tiff
from support.samples import sample

from normhpc.errors import DataError
from normhpc.shards.convert import Unreadable
from normhpc.shards.geotiff import read_geotiff


def noise(dtype, height=120, width=120):
    values = np.random.default_rng(7).integers(0, 256, (height, width, np.dtype(dtype).itemsize), np.uint8)
    return np.nan_to_num(values.view(dtype)[..., 0])


def assert_same(file):
    expected, found = tifffile.imread(file), read_geotiff(file)
    assert found.dtype == expected.dtype.newbyteorder("<")
    assert np.array_equal(found, expected)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x_B02.tif"


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4", "f8"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(("rows_per_strip", "apart"), [(34, 0), (1, 0), (120, 0), (2**32 - 1, 0), (34, 6)])
def test_equal_to_tifffile(file, dtype, byte_order, rows_per_strip, apart):
    values = noise(dtype)
    content = tiff(values, byte_order=byte_order, rows_per_strip=min(rows_per_strip, 2**31), apart=apart)
    file.write_bytes(content)
    assert_same(file)
    assert np.array_equal(read_geotiff(file), values)


def test_tags_left_out_have_their_defaults(file):
    content = bytearray(tiff(noise("u1", 5, 7), rows_per_strip=5))
    for tag in (259, 277, 339):
        at = content.index(struct.pack("<HHI", tag, 4, 1), 10)
        content[at : at + 2] = struct.pack("<H", 65000)
    file.write_bytes(content)
    assert np.array_equal(read_geotiff(file), noise("u1", 5, 7))


def test_every_real_band_of_version_1_is_equal_to_tifffile(tmp_path):
    with tarfile.open(sample("bigearthnet") / "v1" / "BigEarthNet-S2-Example.tar.bz2") as archive:
        archive.extractall(tmp_path, filter="data")
    files = sorted(tmp_path.rglob("*.tif"))
    assert len(files) == 72
    for file in files:
        assert_same(file)


def test_every_real_file_of_version_2_is_equal_to_tifffile():
    files = sorted((sample("bigearthnet") / "v2").rglob("*.tif"))
    assert len(files) == 15
    for file in files:
        assert_same(file)


def test_the_real_reference_map_is_compressed_and_holds_its_four_codes():
    (file,) = (sample("bigearthnet") / "v2" / "Reference_Maps").rglob("*.tif")
    assert np.unique(read_geotiff(file)).tolist() == [211, 231, 311, 313]


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({"compression": "zlib"}, "compressed (method 8)"),
        ({"tile": (16, 16)}, "tiled"),
        ({"bigtiff": True}, "a BigTIFF"),
    ],
)
def test_what_is_not_plain_goes_to_tifffile_or_asks_for_it(file, monkeypatch, options, needs):
    values = noise("u2")
    tifffile.imwrite(file, values, **options)
    assert np.array_equal(read_geotiff(file), values)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError) as caught:
        read_geotiff(file)
    assert str(caught.value) == (
        f"{file}: expected plain uncompressed strips, found a file that is {needs}; "
        "install tifffile to read it (pip install tifffile)"
    )


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({"following": 8}, "of several pages"),
        ({"more": [(277, 3)]}, "of an unusual kind of values"),
        ({"more": [(258, 12)]}, "of an unusual kind of values"),
    ],
)
def test_other_odd_files_are_not_read_as_plain_ones(file, monkeypatch, options, needs):
    file.write_bytes(tiff(noise("u2"), **options))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match=f"found a file that is {needs}; install tifffile"):
        read_geotiff(file)


def test_a_plain_file_needs_no_tifffile(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    file.write_bytes(tiff(noise("u2")))
    assert np.array_equal(read_geotiff(file), noise("u2"))


WHOLE = tiff(noise("u2"))
STRIPS = (8160, 8160, 8160, 4320)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a TIFF file (0 bytes)"),
        (b"\x89PNG....", "not a TIFF file (8 bytes)"),
        (WHOLE[:6], "ends within its header (6 bytes)"),
        (WHOLE[:60], "ends within its header (60 bytes)"),
        (WHOLE[:-1], f"expected {len(WHOLE):,} bytes ({len(WHOLE) - 1:,} bytes)"),
        (
            tiff(noise("u2"), more=[(256, 119)]),
            f"expected strips of (8092, 8092, 8092, 4284) bytes for 120x119, found {STRIPS} ({len(WHOLE):,} bytes)",
        ),
        (
            tiff(noise("u2"), more=[(257, 2**32 - 1)]),
            f"expected strips of 4294967295x120 values in 34 rows each, found 4 strips ({len(WHOLE):,} bytes)",
        ),
        (
            tiff(noise("u2"), more=[(278, 0)]),
            f"expected strips of 120x120 values in 0 rows each, found 4 strips ({len(WHOLE):,} bytes)",
        ),
    ],
)
def test_a_damaged_file_is_unreadable_with_the_reason(file, content, reason):
    file.write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        read_geotiff(file)
    assert str(caught.value) == f"x_B02.tif: {reason}"


def test_a_damaged_compressed_file_is_unreadable(file):
    tifffile.imwrite(file, noise("u2"), compression="zlib")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(Unreadable, match=r"^x_B02.tif: (tifffile cannot read it|ends within its header)"):
        read_geotiff(file)


def test_a_missing_file_is_unreadable(file):
    with pytest.raises(Unreadable, match=f"^{re.escape('no file x_B02.tif')}$"):
        read_geotiff(file)


def test_no_cut_of_a_file_is_read(file):
    for length in range(0, len(WHOLE), 97):
        file.write_bytes(WHOLE[:length])
        with pytest.raises(Unreadable):
            read_geotiff(file)
